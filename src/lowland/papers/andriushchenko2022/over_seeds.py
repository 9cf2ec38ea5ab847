"""Means with their standard errors over the seeds of an arm, for a summary."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lowland.training import Outcome, repeats
from lowland.training.statistics import estimate


def over_seeds(kinds: Sequence[str]) -> Callable[[Mapping[str, Outcome]], dict[str, Any]]:
    """A digest: ``over_seeds``, kind of arm → column of the last records → mean, standard error and n.

    Of the seeds that were trained to their end and have a finite number there; None for the standard error of one.
    """

    def digest(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
        return {"over_seeds": {kind: _estimates(outcomes, kind) for kind in kinds}}

    return digest


def _estimates(outcomes: Mapping[str, Outcome], kind: str) -> dict[str, Any]:
    ends = [
        outcome.records[-1]
        for label, outcome in outcomes.items()
        if repeats(label, kind) and outcome.status == "done" and outcome.records
    ]
    values: dict[str, list[float]] = {}
    for end in ends:
        for column, value in end.items():
            if column not in ("step", "epoch") and isinstance(value, float):
                values.setdefault(column, []).append(value)
    return {column: found.entry() for column, several in values.items() if (found := estimate(several)) is not None}
