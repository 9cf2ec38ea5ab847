"""One hidden layer of ReLUs on twelve points: SAM's function has fewer kinks (Andriushchenko & Flammarion 2022).

A million steps of SAM amplify rounding: after a change of the initial weights by 1e-15 of themselves its last losses
differ by up to 3 %, and one of five counts of kinks by 4 of 69. Gradient descent's loss is the same to 2e-11
(`benchmarks/rounding.py`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lowland.training as training
from lowland.papers.andriushchenko2022 import PAPER
from lowland.papers.andriushchenko2022.relu_network import (
    ReluHyperparameters,
    SamSteps,
    State,
    initial_weights,
    loss_and_gradient,
    points,
    relu_function,
)
from lowland.papers.claims import NOT_IN_PAPER, Measure, Unfit, last, smaller
from lowland.training import (
    Claim,
    Curve,
    Experiment,
    Line,
    Outcome,
    Panel,
    Plot,
    Record,
    Reference,
    ours,
    over_seeds,
    paper,
    setting,
)

LONG = 1_000_000  # steps over which the paper's step size falls
_MARGIN = 0.05  # by which the drawn interval exceeds the data


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Settings of one run on the twelve points."""

    seeds: int = setting("seeds, from seed on", low=1, high=1000)
    schedule: str = setting("step size over training", choices=("constant", "linear"))
    stop_at: float = setting("loss at which a run stops, for SAM at w + ε", low=0)
    compiled: bool = setting("whether the program is compiled")


class ReluRuns:
    """All runs as one program, a row for each."""

    def __init__(self, arms: Mapping[str, Settings], device: torch.device):
        self.names, self.settings = list(arms), list(arms.values())

        def column(values: Iterable[float], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        hyperparameters = ReluHyperparameters(
            lr=column(s.lr for s in self.settings),
            fall=column(1 / s.steps if s.schedule == "linear" else 0.0 for s in self.settings),
            rho=column(s.rho for s in self.settings),
            steps=column((s.steps for s in self.settings), torch.int64),
            stop_at=column(s.stop_at for s in self.settings),
        )
        self.device = device
        self.program = SamSteps(hyperparameters, compiled=any(s.compiled for s in self.settings))
        weights = torch.stack([initial_weights(s.seed) for s in self.settings]).to(device)
        self.state = State(weights, torch.full((len(weights),), -1, device=device))
        self.step = 0

    def train(self, steps: int) -> None:
        """Each run until it stops, or to its own last step."""
        self.program(self.state, self.step, self.step + steps)
        self.step += steps

    def measure(self) -> dict[str, Record | FloatingPointError]:
        """Loss at w, kinks, steps made and whether the run has stopped; at the end also the function."""
        x, y = points(self.device)
        with torch.no_grad():
            losses = loss_and_gradient(self.state.weights, x, y)[0].tolist()
        low, high = x[0].item() - _MARGIN, x[-1].item() + _MARGIN
        stopped, ended = self.state.stopped.tolist(), self.ended()
        records: dict[str, Record | FloatingPointError] = {}
        for k, (name, settings) in enumerate(zip(self.names, self.settings, strict=True)):
            if not math.isfinite(losses[k]):
                records[name] = FloatingPointError(f"the loss is {losses[k]}")
                continue
            w, b, a = self.state.weights[k].cpu().numpy()
            fitted = relu_function(w, b, a, low, high)
            made = stopped[k] if stopped[k] >= 0 else min(self.step, settings.steps)
            record: Record = {"loss": losses[k], "kinks": fitted.kinks(), "made": made, "stopped": stopped[k] >= 0}
            if ended or self.step >= settings.steps:
                record |= {"function_x": fitted.x.tolist(), "function_y": fitted.y.tolist()}
            records[name] = record
        return records

    def ended(self) -> bool:
        """Whether every run has stopped."""
        return bool((self.state.stopped >= 0).all())

    def state_dict(self) -> dict[str, Any]:
        """Weights, where runs stopped, and the step."""
        return {"weights": self.state.weights, "stopped": self.state.stopped, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore weights, stops and step."""
        weights, stopped = (state_dict[name].to(self.device, copy=True) for name in ("weights", "stopped"))
        self.state, self.step = State(weights, stopped), state_dict["step"]


# What a run comes to. Gradient descent and SAM are each trained with both step sizes, so that what comes of the ascent
# can be told from what comes of a step size that falls.
_FALLING, _CONSTANT = "falling step size", "constant step size"
ARMS = {
    "sam": ("SAM", _FALLING),
    "gd": ("gradient descent", _CONSTANT),
    "sam-constant": ("SAM", _CONSTANT),
    "gd-falling": ("gradient descent", _FALLING),
}


_DRAWN = sorted(ARMS.items())  # gradient descent first


def _by_seed(outcomes: Mapping[str, Outcome], name: str) -> dict[int, Outcome]:
    return {outcome.settings.seed: outcome for label, outcome in outcomes.items() if training.repeats(label, name)}


def digest(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Kinks, losses and steps by kind of arm, a list over the ``seeds``; None where a run diverged, or isn't there."""

    def last(outcome: Outcome | None, column: str) -> Any:
        ended = outcome is not None and outcome.diverged_at is None and outcome.records
        return outcome.records[-1][column] if outcome is not None and ended else None

    columns = {"kinks": "kinks", "final_loss": "loss", "steps_made": "made", "stopped": "stopped"}
    by_method = {name: _by_seed(outcomes, name) for name in ARMS}
    seeds = list(dict.fromkeys(seed for found in by_method.values() for seed in found))
    return {"seeds": seeds} | {
        entry: {name: [last(found.get(seed), column) for seed in seeds] for name, found in by_method.items()}
        for entry, column in columns.items()
    }


def _kinks(schedule: str) -> Measure:
    """Those at the end of a run with that step size; raises Unfit for another."""

    def measure(outcome: Outcome) -> float:
        own = getattr(outcome.settings, "schedule", "")
        if own != schedule:
            raise Unfit(f"a run has schedule={own}, and the claim is about {schedule}")
        return last("kinks")(outcome)

    return measure


def _too_short(outcomes: Mapping[str, Outcome]) -> str:
    """Why these runs are too short: SAM's step size falls to zero over a million steps in the paper."""
    steps = min(outcome.settings.steps for outcome in outcomes.values())
    return "" if steps >= LONG else f"the runs have {steps:,} steps, and the claim is about {LONG:,}"


def _functions(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    """A row of seeds for each step size."""
    x, y = points()
    panels = []
    for schedule in (_FALLING, _CONSTANT):
        arms = {method: _by_seed(outcomes, name) for name, (method, its) in _DRAWN if its == schedule}
        for seed in sorted({seed for found in arms.values() for seed in found}):
            ends = {method: found[seed].records[-1] for method, found in arms.items() if found[seed].records}
            lines = [
                Line(end["function_x"], end["function_y"], method)
                for method, end in ends.items()
                if "function_x" in end
            ]
            if lines:
                data = Line(x.tolist(), y.tolist(), "data", "o")
                panels.append(Panel(f"seed {seed}, {schedule}", "x", "y", [*lines, data]))
    return panels


def _over_steps(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    """Loss and kinks, of each step size for itself."""
    return [
        Panel(
            schedule, "step", what,
            [
                over_seeds(
                    {seed: _curve(outcome, column) for seed, outcome in _by_seed(outcomes, name).items()}, method
                )
                for name, (method, its) in _DRAWN
                if its == schedule
            ],
            logy=column == "loss", against=["gradient descent"],
        )
        for column, what in (("loss", "training loss"), ("kinks", "kinks"))
        for schedule in (_FALLING, _CONSTANT)
    ]  # fmt: skip


def _curve(outcome: Outcome, column: str) -> dict[float, float]:
    return dict(zip(outcome.column("step"), outcome.column(column), strict=True))


def _fewer(which: str, text: str, pair: tuple[str, str], kinks: Measure, reference: Reference = NOT_IN_PAPER) -> Claim:
    """That the first kind of a pair has fewer kinks than the second."""
    return Claim(
        f"fewer-kinks{which}", f"{text}: mean difference, paired by seed",
        "the section on networks with one hidden layer", "interval < 0", smaller(*pair, kinks),
        over_seeds=True, regime=_too_short, reference=reference, figure="over-steps",
    )  # fmt: skip


CLAIMS = (
    _fewer(
        "", "SAM's function has fewer kinks than gradient descent's", ("sam", "gd"), last("kinks"),
        Reference("a simpler function, with fewer kinks", "its figure of the fitted functions; no number"),
    ),
    _fewer(
        "-falling", "SAM's function has fewer kinks, too, if both are trained with the falling step size (ours)",
        ("sam", "gd-falling"), _kinks("linear"),
    ),
    _fewer(
        "-constant", "SAM's function has fewer kinks, too, if both are trained with the constant step size (ours)",
        ("sam-constant", "gd"), _kinks("constant"),
    ),
)  # fmt: skip

EXPERIMENT = Experiment(
    name="andriushchenko2022/relu",
    title="SAM and gradient descent fit a function of one variable with ReLUs",
    paper=PAPER,
    datasets=(),
    settings=Settings,
    scales={
        "paper": {
            "lr": paper(5e-5),
            "rho": paper(0.3),
            "schedule": paper("linear", "constant for gradient descent, as in the authors' code"),
            "stop_at": paper(1e-5),
            "steps": paper(LONG),
            "check_every": ours(5000),
            "seed": paper(0),
            "seeds": paper(5, "the weights that each draws are ours, and so is float64"),
            "compiled": ours(True),
        },
        "desk": {},
        "laptop": {"steps": ours(LONG // 10), "check_every": ours(500)},
        "smoke": {"steps": ours(30), "check_every": ours(10), "compiled": ours(False)},
    },
    arms={
        "sam": {},
        "gd": {"rho": 0.0, "schedule": "constant"},
        "sam-constant": {"schedule": "constant"},
        "gd-falling": {"rho": 0.0},
    },
    arm_notes=dict.fromkeys(("sam-constant", "gd-falling"), "ours: the other kind's step size, as a control"),
    grid={},
    claims=CLAIMS,
    figures=(
        Plot("functions", "What was fitted", _functions, columns=5),
        Plot("over-steps", "Loss and kinks, mean over seeds", _over_steps, columns=2),
    ),
    cost=dict.fromkeys(("paper", "desk"), "15 minutes, 1 core (measured)")
    | {"laptop": "2 minutes, 1 core (a tenth of that)", "smoke": "seconds"},
    together=ReluRuns,
    digest=digest,
    outcomes=(Curve("kinks", "kinks"), Curve("loss", "training loss")),
)
