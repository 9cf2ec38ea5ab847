"""The dial (ours): unnormalized SAM with the ρ that holds the Hessian norm at a value chosen beforehand.

What its experiments share: settings, check, claims, figures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from lowland.curvature import Stability, rho_for_sharpness
from lowland.optim.presets import Dial
from lowland.optim.schedule import Schedule, geometric
from lowland.papers.claims import NOT_IN_PAPER, OURS_BEFORE
from lowland.papers.long2024 import settings as common
from lowland.papers.long2024.check import EdgeCheck, NormCheck
from lowland.training import (
    Claim,
    Line,
    Outcome,
    Panel,
    Plot,
    Record,
    Task,
    Verdict,
    derived,
    setting,
)

DECADE = (0.1, 0.18, 0.32, 0.56)  # Hessian norms asked for, in units of 2/η, in equal ratios
NEAR = 0.1  # of the target: as close as that is there


@dataclass(frozen=True, kw_only=True)
class Settings(common.Settings):
    """Those of the paper's experiments, with the Hessian norm wanted in place of ρ."""

    share: float = setting("Hessian norm wanted, in units of 2/η; 1 is gradient descent", above=0, high=1)
    turn: int = setting("steps over which the norm asked for comes down from 2/η", low=1)
    target: float = derived()
    rho: float = derived()

    @property
    def asked(self) -> Schedule:
        """The Hessian norm asked for at each step."""
        return geometric(2 / self.lr, self.target, self.turn)

    def __post_init__(self) -> None:
        """Both follow from ``share`` and η."""
        object.__setattr__(self, "target", self.share * 2 / self.lr)
        object.__setattr__(self, "rho", rho_for_sharpness(self.target, self.lr))


class DialCheck(NormCheck):
    """The loss and the Hessian norm on the batch at hand, and the norm that was asked for."""

    settings: Settings
    rho = 0.0  # the edge is that of gradient descent, 2/η

    def fields(self, step: int, measured: Stability) -> Record:
        """``target`` is the Hessian norm wanted, ``gd_edge`` 2/η."""
        return {name: getattr(measured, name) for name in _MEASURED} | {"target": self.settings.asked(step)}


_MEASURED = ("loss", "gradient_norm", "hessian_norm", "residual", "products", "converged", "gd_edge")


def dialled(prepare: Callable[[Any, torch.device], Task]) -> Callable[[Any, torch.device], Task]:
    """The task that ``prepare`` builds, with the dial around its gradient descent."""

    def build(settings: Any, device: torch.device) -> Task:
        task = prepare(settings, device)
        edge = task.check
        assert isinstance(edge, EdgeCheck)
        check = DialCheck(edge.model, edge.loss_fn, settings, edge.held_out)
        optimizer = Dial(torch.optim.SGD(task.model.parameters(), lr=settings.lr), settings.asked, model=task.model)
        show = {"loss": "loss", "‖H‖": "hessian_norm", "target": "target"}
        return replace(task, optimizer=optimizer, check=check, show=show)

    return build


def arms(shares: Sequence[float]) -> dict[str, dict[str, float]]:
    """The dial at each of ``shares``, and gradient descent."""
    return {_arm(share): {"share": share} for share in shares} | {"gd": {"share": 1.0}}


def _arm(share: float) -> str:
    return f"dial-{share:g}"


def claims(shares: Sequence[float], held: bool = True) -> tuple[Claim, ...]:
    """One for each share: once training gets there, the norm stays. Where not ``held``, it is only reported."""
    return tuple(_claim(share, held) for share in shares)


def _claim(share: float, held: bool) -> Claim:
    name = _arm(share)

    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        return _holds(outcomes[name], held)

    def regime(outcomes: Mapping[str, Outcome]) -> str:
        return _short(outcomes[name], outcomes["gd"])

    return Claim(
        f"holds-{share:g}",
        f"Asked for {share:g} of 2/η, the Hessian norm stays there once training gets to it: "
        "|median/target − 1| over the last third",
        "ours, from the edge of unnormalized SAM",
        f"<= {NEAR:g}" if held else None,
        judge,
        reference=NOT_IN_PAPER,
        regime=regime,
        why=OURS_BEFORE if held else "",
        figure="dial",
    )


def _holds(outcome: Outcome, held: bool) -> Verdict:
    if outcome.diverged_at is not None:
        return Verdict(None, False if held else None, f"diverged at step {outcome.diverged_at}")
    measured = abs(_late(outcome) / _asked(outcome).target - 1)
    return Verdict(measured, measured <= NEAR if held else None)


def _short(outcome: Outcome, descent: Outcome) -> str:
    """Why a run doesn't get to its target, or gradient descent not beyond it; empty if they do."""
    target = _asked(outcome).target
    if descent.diverged_at is not None or not descent.records:
        return f"gradient descent diverged at step {descent.diverged_at}"
    if _late(descent) < target:
        return f"gradient descent itself stays at {_late(descent):.3g}, below the target {target:.3g}"
    if outcome.diverged_at is not None:
        return ""
    begin = [record["hessian_norm"] for record in outcome.records if record["step"] <= 2 / 3 * outcome.settings.steps]
    if not any(abs(norm / target - 1) <= NEAR for norm in begin):
        return f"the norm doesn't come within {NEAR:.0%} of {target:.3g} in the first two thirds of training"
    return ""


def _asked(outcome: Outcome) -> Settings:
    assert isinstance(outcome.settings, Settings)
    return outcome.settings


def _late(outcome: Outcome) -> float:
    """Median of the Hessian norm over the last third of training."""
    steps = outcome.settings.steps
    return median(record["hessian_norm"] for record in outcome.records if record["step"] >= 2 / 3 * steps)


def _norms(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    shown = [(name, outcome) for name, outcome in outcomes.items() if outcome.records]
    lines = [Line(outcome.column("step"), outcome.column("hessian_norm"), _label(outcome)) for _, outcome in shown]
    asked = [
        Line(outcome.column("step"), outcome.column("target"), style=":", beside=_label(outcome))
        for _, outcome in shown
    ]
    return [Panel("", "step", "Hessian norm", [*lines, *asked], logy=True)]


def _price(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    """Loss, and test error where there is one, at the end, against the norm that was asked for."""
    ended = sorted(
        ((_asked(outcome).target, outcome.records[-1]) for outcome in outcomes.values() if outcome.status == "done"),
        key=lambda pair: pair[0],
    )
    columns = [("loss", "training loss"), ("test_error", "test error")]
    shown = [pair for pair in columns if ended and all(pair[0] in record for _, record in ended)]
    norms = [norm for norm, _ in ended]
    return [
        Panel("", "Hessian norm asked for", label, [Line(norms, [r[column] for _, r in ended], "", "o-")], logx=True)
        for column, label in shown
    ]


def _label(outcome: Outcome) -> str:
    asked = _asked(outcome)
    return "gradient descent" if asked.share == 1 else f"dial at {asked.target:.3g}"


FIGURES = (
    Plot("dial", "Hessian norm; dotted: asked for", _norms),
    Plot("price", "What it costs", _price),
)
