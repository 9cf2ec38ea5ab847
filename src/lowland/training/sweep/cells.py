"""The cells of a grid: runs that differ in nothing but their seed."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lowland.training.outcome import Outcome
from lowland.training.settings import SettingValue
from lowland.training.statistics import Estimate, estimate

SEED = "seed"
_SHARED = "compile_seconds"  # programs of several runs say these
_NOT_METRICS = ("arm", "step")


@dataclass(frozen=True)
class Cell:
    """The runs of one combination of settings, over their seeds.

    Attributes:
        settings: those that vary over the grid, but the seed.
        runs: label → what became of it, in the order of the grid.
    """

    settings: Mapping[str, SettingValue]
    runs: Mapping[str, Outcome]

    @property
    def rho(self) -> float:
        """The radius ρ that all its runs have."""
        return next(iter(self.runs.values())).settings.rho

    def count(self, status: str) -> int:
        """How many of its runs ended as ``status``."""
        return Counter(outcome.status for outcome in self.runs.values())[status]

    @property
    def complete(self) -> bool:
        """Whether every run was trained to its end."""
        return self.count("done") == len(self.runs)

    @property
    def step_seconds(self) -> float | None:
        """What a training step took, in seconds, mean over the runs that are done; None where none says.

        Runs of a program don't: its steps are shared by all of them, and take the less for each the more there are.
        """
        took = [
            outcome.seconds["train_seconds"] / outcome.settings.steps
            for outcome in self.runs.values()
            if outcome.status == "done" and outcome.seconds.get("train_seconds") and _SHARED not in outcome.seconds
        ]
        return fmean(took) if took else None

    @property
    def gradients(self) -> float:
        """How many gradients a whole run takes, on as many batches, mean over the runs."""
        return fmean(outcome.settings.steps * outcome.settings.gradients_a_step for outcome in self.runs.values())

    def metrics(self) -> list[str]:
        """Columns of numbers in the last records, in the order in which they appear."""
        lasts = [outcome.records[-1] for outcome in self.runs.values() if outcome.status == "done" and outcome.records]
        names = dict.fromkeys(key for last in lasts for key in last if key not in _NOT_METRICS)
        return [name for name in names if self.values(name)]

    def values(self, metric: str) -> dict[int, float]:
        """Seed → ``metric`` in the last record of each run that is done and has it, as a finite number."""
        found = {}
        for outcome in self.runs.values():
            value = outcome.records[-1].get(metric) if outcome.status == "done" and outcome.records else None
            if isinstance(value, int | float) and math.isfinite(value):
                found[outcome.settings.seed] = float(value)
        return found

    def estimate(self, metric: str) -> Estimate | None:
        """Mean of ``metric`` over the seeds that have it."""
        return estimate(list(self.values(metric).values()))


def cells_of(outcomes: Mapping[str, Outcome], varied: Sequence[str]) -> list[Cell]:
    """The cells of a grid whose settings ``varied`` vary, in its order."""
    names = [name for name in varied if name != SEED]
    found = defaultdict[tuple[SettingValue, ...], dict[str, Outcome]](dict)
    for label, outcome in outcomes.items():
        found[tuple(getattr(outcome.settings, name) for name in names)][label] = outcome
    return [Cell(dict(zip(names, values, strict=True)), runs) for values, runs in found.items()]
