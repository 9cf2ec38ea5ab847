"""The summary of a sweep: every run, every setting over its seeds, the selected one, the claims over the grid."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from lowland.training.environment import environment
from lowland.training.experiment import Experiment
from lowland.training.outcome import Outcome
from lowland.training.registry import source
from lowland.training.summary import final, table_entry, worsened_entry
from lowland.training.sweep.cells import Cell, cells_of
from lowland.training.sweep.claims import judge_claims
from lowland.training.sweep.differences import summarize_differences
from lowland.training.sweep.selection import summarize_selection
from lowland.values import Json, JsonObject

_STATUSES = ("done", "diverged", "stopped", "failed")


def summarize_sweep(
    experiment: Experiment,
    config: JsonObject,
    outcomes: Mapping[str, Outcome],
    varied: Sequence[str],
    device: torch.device,
    seconds: float,
) -> dict[str, Json]:
    """What a sweep's ``summary.json`` holds.

    Args:
        experiment: which.
        config: the sweep directory's.
        outcomes: label → run, in the order of the grid.
        varied: the settings that vary over it.
        device: the runs were trained on.
        seconds: the whole sweep took, by the clock.
    """
    cells = cells_of(outcomes, varied)
    return {
        "experiment": experiment.name,
        "scale": config["scale"],
        "seed": list(dict.fromkeys(outcome.settings.seed for outcome in outcomes.values())),
        "config": dict(config),
        "totals": _totals(outcomes, seconds),
        "selection": summarize_selection(cells, experiment.selection),
        "differences": summarize_differences(cells, experiment),
        "claims": judge_claims(experiment, config, outcomes, varied),
        **worsened_entry(outcomes),
        **table_entry(experiment, outcomes),
        "settings": [_over_seeds(cell, cells) for cell in cells],
        "metrics": {label: final(outcome) for label, outcome in outcomes.items()},
        **source(experiment),
        "environment": environment(device),
    }


def _totals(outcomes: Mapping[str, Outcome], seconds: float) -> dict[str, Json]:
    """How many runs ended in which way; what they took together, and the sweep by the clock."""
    spent = Counter[str]()
    for outcome in outcomes.values():
        spent.update(outcome.seconds)
    rate = len(outcomes) / seconds if seconds > 0 else None
    counts = Counter(outcome.status for outcome in outcomes.values())
    return {
        "runs": len(outcomes),
        **{status: counts[status] for status in _STATUSES},
        "seconds": {"total": seconds, **spent, "runs_per_second": rate},
    }


def _cost(cell: Cell, cells: Sequence[Cell]) -> dict[str, Json]:
    """How many times as many gradients a run takes as the shortest with ρ = 0, and how many times as long a step took.

    None where there is nothing to compare.
    """
    without = [each for each in cells if each.rho == 0]
    steps = [each.step_seconds for each in without if each.step_seconds]
    return {
        "gradients": cell.gradients,
        "cost_in_gradients": cell.gradients / min(each.gradients for each in without) if without else None,
        "cost_in_time": cell.step_seconds / fmean(steps) if cell.step_seconds and steps else None,
    }


def _over_seeds(cell: Cell, cells: Sequence[Cell]) -> dict[str, Json]:
    """One combination of settings; its metrics are those of the seeds that were trained to their end."""
    return {
        **_cost(cell, cells),
        "settings": dict(cell.settings),
        "runs": list(cell.runs),
        **{status: cell.count(status) for status in _STATUSES},
        "metrics": {name: estimate.entry() for name in cell.metrics() if (estimate := cell.estimate(name)) is not None},
    }
