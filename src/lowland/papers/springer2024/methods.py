"""The methods that are compared, which of their runs are, and the table of what came out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lowland.optim import SAM
from lowland.optim.scope import last_layer
from lowland.papers.springer2024.mechanism import Mechanism
from lowland.training import Outcome, Row, Settings

METHODS = ("sam", "lsam", "phantom-weights", "phantom-scaling")
SGD = "sgd"  # whatever the method, if ρ is 0
ARMS: Mapping[str, Mapping[str, Any]] = {SGD: {"rho": 0.0}, **{name: {"method": name} for name in METHODS}}
# Settings in which the runs may differ among which one is selected.
CHOSEN = ("lr", "rho")

# What the table says, by column of the records.
MEASURES = {
    "hard_error": "hard feature",
    "easy_error": "easy feature",
    "worst_group_error": "worst group",
    "test_error": "test error",
    "gini_real": "Gini, real",
    "gini_phantom": "Gini, phantom",
}
GROUPED_MEASURES = {
    **MEASURES,
    "group_balanced_error": "groups balanced",
    "reweighted_worst_group_error": "worst group, reweighted",
}


def make_optimizer(method: str, base: torch.optim.Optimizer, rho: float, model: nn.Module) -> SAM | Mechanism:
    """The optimizer of one of `METHODS` around ``base``; with ``rho`` 0 it is SGD for each."""
    if rho == 0 or method == "sam":
        return SAM(base, rho=rho, model=model)
    if method == "lsam":
        return SAM(base, rho=rho, model=model, scope=last_layer, freeze=True)
    return Mechanism(base, rho, model, weights=method == "phantom-weights", scaling=method == "phantom-scaling")


def method_of(settings: Settings) -> str:
    """`SGD`, or one of `METHODS`."""
    return SGD if settings.rho == 0 else str(settings.method)  # type: ignore[attr-defined]


def varied(outcomes: Mapping[str, Outcome]) -> set[str]:
    """The settings, other than method and seed and those to choose from, in which the runs differ."""
    first, *others = [vars(outcome.settings) for outcome in outcomes.values()]
    names = {name for other in others for name, value in other.items() if value != first[name]}
    return names - {"method", "seed", *CHOSEN}


def selected(outcomes: Mapping[str, Outcome]) -> dict[str, dict[int, str]]:
    """Method → seed → label of its run with the lowest final validation error.

    Of equals the one with the lower validation loss, then the earlier. Runs that have not ended, or have diverged, are
    no candidates.
    """
    best: dict[str, dict[int, str]] = {}
    scores: dict[str, tuple[float, float]] = {}
    for label, outcome in outcomes.items():
        if outcome.status != "done" or not outcome.records:
            continue
        error, loss = (outcome.records[-1].get(f"validation_{column}") for column in ("error", "loss"))
        if error is None or loss is None or not (math.isfinite(error) and math.isfinite(loss)):
            continue
        scores[label] = score = float(error), float(loss)
        of_method = best.setdefault(method_of(outcome.settings), {})
        if (seed := outcome.settings.seed) not in of_method or score < scores[of_method[seed]]:
            of_method[seed] = label
    return {name: best[name] for name in (SGD, *METHODS) if name in best}


def values(outcomes: Mapping[str, Outcome], runs: Mapping[int, str], column: str) -> dict[int, float]:
    """Seed → finite entry of the last record of its run."""
    found = {seed: outcomes[label].records[-1].get(column) for seed, label in runs.items()}
    return {seed: float(value) for seed, value in found.items() if value is not None and math.isfinite(value)}


def table(outcomes: Mapping[str, Outcome], measures: Mapping[str, str] = MEASURES) -> Sequence[Row]:
    """A row for each method, of the runs that are `selected`; none over a grid of other settings than those."""
    if not outcomes or varied(outcomes):
        return []
    return [
        Row(name, runs, {title: values(outcomes, runs, column) for column, title in measures.items()})
        for name, runs in selected(outcomes).items()
    ]
