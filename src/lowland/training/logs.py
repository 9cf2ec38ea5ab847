"""Where records go beside the run directory, each arm by itself: TensorBoard, Weights & Biases, JSON lines."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowland.errors import SettingError, install, suggestion
from lowland.training.outcome import Record
from lowland.values import Foreign, JsonObject

KINDS = ("tensorboard", "wandb", "jsonl")


#: Takes a step and its record, whose first entry is the step.
Sink = Callable[[int, Record], object]


@dataclass(frozen=True)
class Log:
    """What is asked for: it can be pickled, and opened by whoever trains.

    Attributes:
        kind: one of `KINDS`.
        experiment: its name.
        folder: under which each arm has its own file or folder.

    Raises:
        SettingError: for another kind, or if the package that it takes isn't installed.
    """

    kind: str
    experiment: str
    folder: Path

    def __post_init__(self) -> None:
        """Refuse what can't be written."""
        if self.kind not in KINDS:
            raise SettingError(f"unknown log {self.kind}.{suggestion(self.kind, KINDS)}")
        try:
            if self.kind == "tensorboard":
                import torch.utils.tensorboard  # noqa: F401
            elif self.kind == "wandb":
                import wandb  # noqa: F401
        except ImportError:
            raise SettingError(f"--log {self.kind} needs {self.kind}; {install('logs')}") from None

    @classmethod
    def beside(cls, kind: str, experiment: str, directory: Path) -> "Log":
        """The log in the run or sweep ``directory``: ``tensorboard/ARM/``, ``wandb/`` or ``log/ARM.jsonl``."""
        folder = {"jsonl": "log"}.get(kind, kind)
        return cls(kind, experiment, directory.absolute() / folder)

    def open(self, arms: Mapping[str, JsonObject]) -> "OpenLog":
        """The log, to be written to; ``arms``: name → settings."""
        return OpenLog(self, arms)


class OpenLog:
    """Writes records as they come; what was recorded before a run went on is there, too, and once."""

    def __init__(self, log: Log, arms: Mapping[str, JsonObject]):
        self._log, self._arms = log, arms
        self._sinks: dict[str, Sink] = {}
        self._kept: Mapping[str, Sequence[Record]] = {}
        self._to_close: list[Foreign] = []

    def begin(self, kept: Mapping[str, Sequence[Record]]) -> None:
        """Training goes on behind the records ``kept``, by arm: what the log has beyond them is taken back."""
        self._kept = kept
        for arm, records in kept.items():
            if records and not self._path(arm).exists():  # the log is asked for only now
                self._open(arm, records)

    def write(self, record: Record) -> None:
        """One record, under its ``arm``."""
        arm = record["arm"]
        sink = self._sinks.get(arm) or self._open(arm, self._kept.get(arm, []))
        sink(record["step"], _numbers(record))

    def close(self) -> None:
        """Write out what is still held back."""
        while self._to_close:
            self._to_close.pop()()

    def _path(self, arm: str) -> Path:
        name = arm.replace(os.sep, "_")
        return self._log.folder / (f"{name}.jsonl" if self._log.kind == "jsonl" else name)

    def _open(self, arm: str, kept: Sequence[Record]) -> Sink:
        """The sink of an arm, with the records ``kept`` in it."""
        opened = {"tensorboard": self._tensorboard, "wandb": self._wandb, "jsonl": self._jsonl}[self._log.kind]
        sink, has_them = opened(arm, kept[-1]["step"] if kept else -1)
        for record in [] if has_them else kept:
            sink(record["step"], _numbers(record))
        self._sinks[arm] = sink
        return sink

    def _jsonl(self, arm: str, last: int) -> tuple[Sink, bool]:
        from lowland.curvature.sinks import JsonLines

        path = self._path(arm)
        there = path.exists()
        try:
            sink = JsonLines(path)
        except ValueError as error:
            raise SettingError(f"--log jsonl: {error}") from None
        sink.resume(last)
        return sink, there

    def _tensorboard(self, arm: str, last: int) -> tuple[Sink, bool]:
        from torch.utils.tensorboard import SummaryWriter

        from lowland.curvature.sinks import sinks

        path = self._path(arm)
        there = any(path.glob("events.*"))
        writer = SummaryWriter(str(path), purge_step=last + 1 if there else None)
        self._to_close.append(writer.close)
        return sinks(writer)[0], there

    def _wandb(self, arm: str, last: int) -> tuple[Sink, bool]:
        import wandb

        from lowland.curvature.sinks import sinks

        folder = self._log.folder.parent
        folder.mkdir(parents=True, exist_ok=True)
        identity = hashlib.sha256(f"{folder}\n{arm}".encode()).hexdigest()[:16]
        try:
            run = wandb.init(
                project=self._log.experiment.replace("/", "-"), group=folder.name, name=arm, id=identity,
                resume="allow", dir=str(folder), config=dict(self._arms[arm]), reinit="create_new",
            )  # fmt: skip
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise SettingError(f"--log wandb: {first}; log in with `wandb login`, or set WANDB_MODE=offline") from error
        self._to_close.append(run.finish)
        return sinks(run)[0], bool(run.resumed)


def _numbers(record: Record) -> Record:
    """The step, then all other entries that are numbers."""
    found = {
        name: value
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {"step": record["step"], **found}
