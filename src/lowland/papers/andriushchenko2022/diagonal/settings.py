"""The settings of a run, and which runs there are: the paper's, by setting and method."""

from dataclasses import dataclass
from typing import Any

import lowland.training as training
from lowland.training import derived, setting

EXAMPLES, DIMENSIONS, SPARSITY, TEST_EXAMPLES = 20, 30, 3, 1000
_PER_OCTAVE = 32


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Settings of one run on a diagonal linear network."""

    alpha: float = setting("scale of the initial weights: u = α, v = 0", above=0)
    m: int = setting(f"examples that share a perturbation: 1 (1-SAM) or all {EXAMPLES} (n-SAM)", low=1, high=EXAMPLES)
    phases: int = setting("phases of training: 2 with radius rho first and then_rho then", low=1, high=2)
    phase_steps: int = setting("training steps of a phase", low=1, high=10**8)
    then_rho: float = setting("radius in the second phase", low=0)
    long: bool = setting("whether it is a run of figure 6, of one phase with long_steps")
    long_steps: int = setting("training steps of the runs of figure 6", low=1, high=10**8)
    steps: int = derived()

    def __post_init__(self) -> None:
        """Compute ``steps``: those of all phases together."""
        object.__setattr__(self, "steps", self.long_steps if self.long else self.phases * self.phase_steps)

    @property
    def events(self) -> tuple[int, ...]:
        """The steps at which a phase ends."""
        return (self.steps,) if self.long else (self.phase_steps, self.steps)

    def radius(self, step: int) -> float:
        """The radius ρ at a step."""
        return self.rho if self.long or step < self.phase_steps else self.then_rho

    def recorded(self, step: int) -> bool:
        """Whether a check at that step is recorded: of figure 6 thirty-two in each doubling of the steps."""
        if not self.long or step == self.steps:
            return True
        octave = max(step // (_PER_OCTAVE * self.check_every), 1).bit_length() - 1
        return step % (self.check_every << octave) == 0


# The paper's runs. Setting → method → (d times step size, α, radii).
_RHOS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.9)
RUNS: dict[str, dict[str, tuple[int, float, tuple[float, ...]]]] = {
    "a": {"gd": (5, 0.1, (0.0,)), "n-sam": (5, 0.1, (0.01, 0.03, 0.1, 0.3, 1.0))},
    "b": {"gd": (5, 0.02, (0.0,)), "1-sam": (5, 0.02, (0.01, 0.03, 0.1, 0.3))},
    "c": {"gd": (10, 0.1, (0.0,)), "1-sam": (10, 0.1, (0.03, 0.1, 0.15, 0.2, 0.3))},
    "d": {"gd": (15, 0.1, (0.0,)), "1-sam": (15, 0.1, _RHOS), "n-sam": (10, 0.1, _RHOS)},
}
SHARED = {"gd": EXAMPLES, "n-sam": EXAMPLES, "1-sam": 1}  # examples that share a perturbation
# With d times step size 1 and α = 0.1: the radii before and after the switch. The first two don't switch (ours).
SWITCHING = {"gd": (0.0, 0.0), "1-sam": (0.175, 0.175), "gd-to-1-sam": (0.0, 10.0), "1-sam-to-gd": (0.175, 0.0)}

# Figure 6: (d times step size, α, radii of n-SAM and of 1-SAM). The figure's own are not known. α is the one with which
# gradient descent ends at the figure's test loss of 1.2e-3; step size and radii are those of setting b.
LONG = "figure-6"
FIGURE_6: tuple[int, float, tuple[float, ...]] = (5, 0.0285, RUNS["b"]["1-sam"][2])


def arm_name(group: str, method: str, rho: float = 0.0) -> str:
    """The name of an arm: ``a-gd``, ``a-n-sam-0.01``."""
    return f"{group}-gd" if method == "gd" else f"{group}-{method}-{rho:g}"


def gd_like(group: str, method: str) -> str:
    """The arm of gradient descent with the same step size and α."""
    return next(f"{other}-gd" for other, runs in RUNS.items() if runs["gd"][:2] == RUNS[group][method][:2])


def made_arms() -> dict[str, dict[str, Any]]:
    """Arm → the settings that make it, for all runs of the paper."""
    single = {
        arm_name(group, method, rho): {"lr": times / DIMENSIONS, "alpha": alpha, "rho": rho, "m": SHARED[method]}
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
            "m": SHARED[method],
            "long": True,
        }
        for method in SHARED
        for rho in ((0.0,) if method == "gd" else rhos)
    }
    switching = {
        f"switch-{name}": {
            "lr": 1 / DIMENSIONS, "alpha": 0.1, "rho": rho, "m": 1, "phases": 2, "then_rho": then_rho,
        }
        for name, (rho, then_rho) in SWITCHING.items()
    }  # fmt: skip
    return single | switching | long
