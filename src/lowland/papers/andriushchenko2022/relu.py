"""One hidden layer of ReLUs on twelve points: SAM's function has fewer kinks (Andriushchenko & Flammarion 2022).

A million steps of SAM amplify rounding: after a change of the initial weights by 1e-15 of themselves its last losses
differ by up to 7 %, and one of five counts of kinks by 4 of 69. Gradient descent's loss is the same to 1e-11.
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
from lowland.papers.claims import last, smaller
from lowland.training import Claim, Curve, Experiment, Line, Outcome, Panel, Plot, Record, ours, paper, setting

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


# What a run comes to.


def _by_seed(outcomes: Mapping[str, Outcome], name: str) -> dict[int, Outcome]:
    return {outcome.settings.seed: outcome for label, outcome in outcomes.items() if training.repeats(label, name)}


def digest(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Kinks, losses and steps by method, each a list over the seeds; None for a run that diverged."""

    def last(outcome: Outcome, column: str) -> Any:
        return None if outcome.diverged_at is not None or not outcome.records else outcome.records[-1][column]

    columns = {"kinks": "kinks", "final_loss": "loss", "steps_made": "made", "stopped": "stopped"}
    by_method = {name: _by_seed(outcomes, name) for name in ("gd", "sam")}
    return {"seeds": list(by_method["sam"])} | {
        entry: {name: [last(arm, column) for arm in found.values()] for name, found in by_method.items()}
        for entry, column in columns.items()
    }


def _functions(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    x, y = points()
    panels = []
    for seed, gd in _by_seed(outcomes, "gd").items():
        fitted = {"gradient descent": gd, "SAM": _by_seed(outcomes, "sam").get(seed)}
        lines = [
            Line(outcome.records[-1]["function_x"], outcome.records[-1]["function_y"], label)
            for label, outcome in fitted.items()
            if outcome is not None and outcome.records and "function_x" in outcome.records[-1]
        ]
        if lines:
            panels.append(Panel(f"seed {seed}", "x", "y", [*lines, Line(x.tolist(), y.tolist(), "data", "o")]))
    return panels


def _over_steps(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    return [
        Panel(
            what, "step", what,
            [
                Line(outcome.column("step"), outcome.column(column), label)
                for name, label in (("gd", "gradient descent"), ("sam", "SAM"))
                for outcome in _by_seed(outcomes, name).values()
            ],
            logy=column == "loss",
        )
        for column, what in (("loss", "training loss"), ("kinks", "kinks"))
    ]  # fmt: skip


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
            "steps": paper(1_000_000),
            "check_every": ours(5000),
            "seed": paper(0),
            "seeds": paper(5, "the weights that each draws are ours, and so is float64"),
            "compiled": ours(True),
        },
        "desk": {},
        "laptop": {},
        "smoke": {"steps": ours(30), "check_every": ours(10), "compiled": ours(False)},
    },
    arms={"sam": {}, "gd": {"rho": 0.0, "schedule": "constant"}},
    grid={},
    claims=(
        Claim(
            "fewer-kinks",
            "SAM's function has fewer kinks than gradient descent's: mean difference, paired by seed",
            "the section on networks with one hidden layer",
            "interval < 0",
            smaller("sam", "gd", last("kinks")),
            over_seeds=True,
        ),
    ),
    figures=(
        Plot("functions", "What was fitted", _functions),
        Plot("over-steps", "Loss and kinks", _over_steps),
    ),
    cost=dict.fromkeys(("paper", "desk", "laptop"), "80 seconds, 2 cores (measured)") | {"smoke": "seconds"},
    together=ReluRuns,
    digest=digest,
    outcomes=(Curve("kinks", "kinks"), Curve("loss", "training loss")),
)
