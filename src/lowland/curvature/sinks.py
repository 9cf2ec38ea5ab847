"""Where a monitor's records go: a file, TensorBoard, Weights & Biases, any function. None of them is imported here."""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Sink = Callable[[int, Record], Any]

_PREFIX = "lowland/"  # of the names on somebody else's dashboard


def sinks(to: Any) -> list[Sink]:
    """What ``to`` means: a path, a SummaryWriter, a W&B run, a function of step and record, or a list of those.

    Raises:
        TypeError: for anything else.
    """
    if to is None:
        return []
    if isinstance(to, list | tuple):
        return [sink for one in to for sink in sinks(one)]
    if isinstance(to, str | os.PathLike):
        return [JsonLines(Path(to))]
    if hasattr(to, "add_scalar"):
        return [_to_tensorboard(to)]
    if hasattr(to, "log") and not isinstance(to, logging.Logger):
        return [_to_wandb(to)]
    if callable(to):
        return [to]
    raise TypeError(
        "to= takes a path, a TensorBoard SummaryWriter, a W&B run, a function sink(step, record), or a list of those: "
        f"not {to!r}"
    )


def _numbers(record: Record) -> dict[str, float]:
    return {f"{_PREFIX}{key}": float(value) for key, value in record.items() if value is not None and key != "step"}


def _to_tensorboard(writer: Any) -> Sink:
    def sink(step: int, record: Record) -> None:
        for name, value in _numbers(record).items():
            writer.add_scalar(name, value, step)

    return sink


def _to_wandb(run: Any) -> Sink:
    # W&B has one count of rows for everything that a run logs, and drops what comes out of order. A check is a row of
    # its own, and the charts have the monitor's steps below them.
    if hasattr(run, "define_metric"):
        run.define_metric(f"{_PREFIX}step")
        run.define_metric(f"{_PREFIX}*", step_metric=f"{_PREFIX}step")

    def sink(step: int, record: Record) -> None:
        run.log({**_numbers(record), f"{_PREFIX}step": step})

    return sink


class JsonLines:
    """Appends a line of JSON for each record, written out at once: a killed process loses none.

    What a file holds already is kept, but for half a line at its end; after `resume`, only what belongs to the
    checkpoint. Numbers that are not finite become null.

    Args:
        path: made with its folder if need be.

    Raises:
        ValueError: at the first record, if a file that a resumed run shall go on with isn't a monitor's.
    """

    def __init__(self, path: Path):
        self.path = path
        self._last: float = math.inf
        self._tidy = False

    def resume(self, step: int) -> None:
        """Before the next record, cut what was recorded after ``step``: it will be recorded again."""
        self._last, self._tidy = step, False

    def __call__(self, step: int, record: Record) -> None:
        """Append ``record``."""
        line = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n"
        if not self._tidy:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._cut()
            self._tidy = True
        with self.path.open("ab") as file:
            file.write(line.encode())

    def _cut(self) -> None:
        if not self.path.exists():
            return
        keep = read = 0
        with self.path.open("rb") as file:
            for line in file:
                read += len(line)
                # What stands before a record that is kept belongs to it, or to a run before.
                if line.endswith(b"\n") and (self._last == math.inf or _step(line) <= self._last):
                    keep = read
        os.truncate(self.path, keep)


def read_jsonl(path: str | os.PathLike[str]) -> list[Record]:
    """The records that a monitor wrote to ``path``, those of the last run where several wrote one after another.

    A record takes the place of those before it with the same or a later step. Half a line at the end, from a killed
    process, is left out.

    Raises:
        ValueError: for a line that is no record.
    """
    records: list[Record] = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            step = _step(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        while records and records[-1]["step"] >= step:
            records.pop()
        records.append(json.loads(line))
    return records


def _step(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        raise ValueError("this is no record of a monitor") from None


def _finite(record: Mapping[str, Any]) -> Record:
    """JSON knows neither infinity nor NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
