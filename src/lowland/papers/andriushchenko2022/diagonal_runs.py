"""Which runs `diagonal` consists of, and what each came to."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from lowland.papers.andriushchenko2022.diagonal_network import DIMENSIONS, EXAMPLES, sparse_regression
from lowland.training import Outcome

T = TypeVar("T")

# The paper's runs. Setting → method → (d times step size, α, radii).
_RHOS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.9)
RUNS: dict[str, dict[str, tuple[int, float, tuple[float, ...]]]] = {
    "a": {"gd": (5, 0.1, (0.0,)), "n-sam": (5, 0.1, (0.01, 0.03, 0.1, 0.3, 1.0))},
    "b": {"gd": (5, 0.02, (0.0,)), "1-sam": (5, 0.02, (0.01, 0.03, 0.1, 0.3))},
    "c": {"gd": (10, 0.1, (0.0,)), "1-sam": (10, 0.1, (0.03, 0.1, 0.15, 0.2, 0.3))},
    "d": {"gd": (15, 0.1, (0.0,)), "1-sam": (15, 0.1, _RHOS), "n-sam": (10, 0.1, _RHOS)},
}
_SHARED = {"gd": EXAMPLES, "n-sam": EXAMPLES, "1-sam": 1}  # examples that share a perturbation
# With d times step size 1 and α = 0.1: the radii before and after the switch. The first two don't switch (ours).
SWITCHING = {"gd": (0.0, 0.0), "1-sam": (0.175, 0.175), "gd-to-1-sam": (0.0, 10.0), "1-sam-to-gd": (0.175, 0.0)}

# Figure 6: (d times step size, α, radii of n-SAM and of 1-SAM). The figure's own are not known. α is the one with which
# gradient descent ends at the figure's test loss of 1.2e-3; step size and radii are those of setting b.
LONG = "figure-6"
FIGURE_6: tuple[int, float, tuple[float, ...]] = (5, 0.0285, RUNS["b"]["1-sam"][2])


def arm_name(group: str, method: str, rho: float = 0.0) -> str:
    """``a-gd``, ``a-n-sam-0.01``."""
    return f"{group}-gd" if method == "gd" else f"{group}-{method}-{rho:g}"


def gd_like(group: str, method: str) -> str:
    """The arm of gradient descent with the same step size and α."""
    return next(f"{other}-gd" for other, runs in RUNS.items() if runs["gd"][:2] == RUNS[group][method][:2])


def made_arms() -> dict[str, dict[str, Any]]:
    """What makes each arm."""
    single = {
        arm_name(group, method, rho): {"lr": times / DIMENSIONS, "alpha": alpha, "rho": rho, "m": _SHARED[method]}
        for group, methods in RUNS.items()
        for method, (times, alpha, rhos) in methods.items()
        for rho in rhos
    }
    times, alpha, rhos = FIGURE_6
    long = {
        arm_name(LONG, method, rho): {
            "lr": times / DIMENSIONS,
            "alpha": alpha,
            "rho": rho,
            "m": _SHARED[method],
            "long": True,
        }
        for method in _SHARED
        for rho in ((0.0,) if method == "gd" else rhos)
    }
    switching = {
        f"switch-{name}": {
            "lr": 1 / DIMENSIONS, "alpha": 0.1, "rho": rho, "m": 1, "phases": 2, "then_rho": then_rho,
        }
        for name, (rho, then_rho) in SWITCHING.items()
    }  # fmt: skip
    return single | switching | long


def tabled(of: Callable[[str], T]) -> dict[str, dict[str, T | list[T]]]:
    """``of`` every arm, by setting and method; of a method with several radii a list in their order."""
    table: dict[str, dict[str, T | list[T]]] = {
        group: {
            method: of(f"{group}-gd") if method == "gd" else [of(arm_name(group, method, rho)) for rho in rhos]
            for method, (_, _, rhos) in methods.items()
        }
        for group, methods in RUNS.items()
    }
    long: dict[str, T | list[T]] = {
        method: of(f"{LONG}-gd") if method == "gd" else [of(arm_name(LONG, method, rho)) for rho in FIGURE_6[2]]
        for method in _SHARED
    }
    return table | {"switch": {name: of(f"switch-{name}") for name in SWITCHING}, LONG: long}


def final_loss(outcomes: Mapping[str, Outcome], name: str, column: str = "test_loss") -> float | None:
    """The last test loss, or the last entry of another column; None if the run diverged."""
    outcome = outcomes[name]
    return None if outcome.diverged_at is not None or not outcome.records else outcome.records[-1][column]


def losses_on_line(outcomes: Mapping[str, Outcome]) -> dict[str, list[float]] | None:
    """Losses at (1 − t) w + t w' for t from −1 to 2: w of gradient descent, w' of gradient descent, then 1-SAM.

    None where one of the two has no last weights, or they have seen different data.
    """
    ends = [outcomes["switch-gd"], outcomes["switch-gd-to-1-sam"]]
    seed = ends[0].settings.seed
    if not all(outcome.records and "u" in outcome.records[-1] and outcome.settings.seed == seed for outcome in ends):
        return None
    t = torch.linspace(-1, 2, 61, dtype=torch.float64)
    u, v = (
        torch.outer(1 - t, first) + torch.outer(t, second)
        for first, second in (
            [torch.tensor(outcome.records[-1][name], dtype=torch.float64) for outcome in ends] for name in "uv"
        )
    )
    train, test = sparse_regression(seed).losses(u, v)
    return {"t": t.tolist(), "train_loss": train.tolist(), "test_loss": test.tolist()}
