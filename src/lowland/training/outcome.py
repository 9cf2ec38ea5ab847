"""What became of an arm: its settings, its records, how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from lowland.training.settings import Settings
from lowland.values import Json, JsonObject, StateDict

#: What a check measured at a step, by name.
Record: TypeAlias = JsonObject
#: The columns of the training loss: records have one of them, if any.
TRAINING_LOSSES = ("train_loss", "loss")


def seconds_in(state: StateDict) -> dict[str, float]:
    """What training, checks and the like took, among the entries of a saved state."""
    return {key: value for key, value in state.items() if key.endswith("_seconds")}


@dataclass(frozen=True)
class Outcome:
    """What became of one arm.

    Attributes:
        settings: it ran with.
        records: in the order of steps.
        diverged_at: the step whose loss was not finite, or None.
        seconds: what training and checks took, by name.
        stopped_at: the step at which a sweep gave it up for better ones, or None.
        error: why it could not be trained to its end, in one line; empty if it could.
        finished: whether nothing of it is left to train: it has made its steps, has diverged, or its program has ended
            by a criterion of its own.
    """

    settings: Settings
    records: list[Record]
    diverged_at: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    stopped_at: int | None = None
    error: str = ""
    finished: bool = True

    @property
    def status(self) -> str:
        """How it ended: ``"done"``, ``"diverged"``, ``"stopped"`` or ``"failed"``."""
        if self.error:
            return "failed"
        if self.diverged_at is not None:
            return "diverged"
        return "done" if self.stopped_at is None else "stopped"

    @property
    def worsened(self) -> dict[str, Json] | None:
        """The training loss before the first step and at the end, where it is higher at the end; else None."""
        if self.status != "done" or not self.records or self.records[0]["step"] != 0:
            return None
        first, last = self.records[0], self.records[-1]
        column = next((name for name in TRAINING_LOSSES if name in first and name in last), None)
        if column is None or not last[column] > first[column]:
            return None
        return {"column": column, "first": first[column], "last": last[column]}

    def column(self, name: str) -> list[float]:
        """The entry ``name`` of every record."""
        return [record[name] for record in self.records]

    def late(self, name: str) -> list[float]:
        """`column` over the second half of training."""
        return [record[name] for record in self.records if record["step"] >= self.settings.steps / 2]


def outcomes_of(
    arms: Mapping[str, Settings], states: Mapping[str, StateDict], records: Mapping[str, list[Record]]
) -> dict[str, Outcome]:
    """What became of each of ``arms``, from their states in a checkpoint and their records, by name."""
    found = {name: states.get(name, {}) for name in arms}
    return {
        name: Outcome(
            arms[name], records.get(name, []), state.get("diverged_at"), seconds_in(state),
            finished=bool(state.get("finished")) or state.get("diverged_at") is not None,
        )
        for name, state in found.items()
    }  # fmt: skip
