"""Where a monitor's records go: a file, TensorBoard, Weights & Biases, any function. None of them is imported here."""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lowland.files import naming, open_regular

Record = dict[str, Any]
Sink = Callable[[int, Record], Any]

_PREFIX = "lowland/"  # of the names on somebody else's dashboard
_BEGINNING = b'{"step": '  # of every record


def sinks(to: Any) -> list[Sink]:
    """What ``to`` means: a path, a SummaryWriter, a W&B run, a function of step and record, or a list of those.

    Raises:
        TypeError: for anything else.
        ValueError: for a path where something else than a monitor's records is.
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


def numbers(record: Record) -> dict[str, float]:
    """What is known of a record, under the names that it has on somebody else's dashboard; without the step."""
    return {f"{_PREFIX}{key}": float(value) for key, value in record.items() if value is not None and key != "step"}


def _to_tensorboard(writer: Any) -> Sink:
    def sink(step: int, record: Record) -> None:
        for name, value in numbers(record).items():
            writer.add_scalar(name, value, step)

    return sink


def _to_wandb(run: Any) -> Sink:
    # W&B has one count of rows for everything that a run logs, and drops what comes out of order. A check is a row of
    # its own, and the charts have the monitor's steps below them.
    if hasattr(run, "define_metric"):
        run.define_metric(f"{_PREFIX}step")
        run.define_metric(f"{_PREFIX}*", step_metric=f"{_PREFIX}step")

    def sink(step: int, record: Record) -> None:
        run.log({**numbers(record), f"{_PREFIX}step": step})

    return sink


class JsonLines:
    """Appends a line of JSON for each record, written out at once: a killed process loses none.

    What a file holds already is kept, but for a torn record at its end; after `resume`, only what belongs to the
    checkpoint. Numbers that are not finite become null. A record that can't be written whole isn't written at all.

    Args:
        path: made with its folder if need be.

    Raises:
        ValueError: if something else than a monitor's records is there: a file that was not ours isn't touched.
    """

    def __init__(self, path: Path):
        self.path = path
        self._last: float = math.inf
        self._tidy = False
        self._kept()

    def resume(self, step: int) -> None:
        """Before the next record, cut what was recorded after ``step``: it will be recorded again."""
        self._last, self._tidy = step, False

    def __call__(self, step: int, record: Record) -> None:
        """Append ``record`` as one line of JSON."""
        line = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n"
        if not self._tidy:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            keep = self._kept()
            if keep is not None:
                os.truncate(self.path, keep)
            self._tidy = True
        self._append(line.encode())

    def _append(self, line: bytes) -> None:
        """Append all of the line, or leave the file as it was."""
        with naming(self.path), self.path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                while line:
                    line = line[file.write(line) :]
            except BaseException:
                self._tidy = False  # should cutting it off fail, too, it is done before the next
                os.ftruncate(file.fileno(), before)
                raise

    def _kept(self) -> int | None:
        """How many bytes of the file stay; None if there is no file."""
        keep = read = 0
        try:
            with open_regular(self.path) as file:
                for number, line in enumerate(file, 1):
                    read += len(line)
                    if not _begins(line):  # JSON of somebody else's, perhaps
                        raise _no_record(self.path, number)
                    step = _step_of(self.path, number, line)
                    # What stands before a record that is kept belongs to it, or to a run before.
                    if step is not None and step <= self._last:
                        keep = read
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(f"{self.path} can't be a monitor's file: {error.strerror or error}") from error
        return keep


def read_jsonl(path: str | os.PathLike[str]) -> list[Record]:
    """The records that a monitor wrote to ``path``, those of the last run where several wrote one after another.

    A record takes the place of those before it with the same or a later step. A torn record at the end, from a killed
    process, is left out.

    Raises:
        ValueError: for a line that is no record.
        OSError: if it can't be read, or is no file.
    """
    records: list[Record] = []
    with open_regular(path) as file:
        for number, line in enumerate(file, 1):
            step = _step_of(path, number, line)
            if step is None:
                break
            while records and records[-1]["step"] >= step:
                records.pop()
            records.append(json.loads(line))
    return records


def _step_of(path: str | os.PathLike[str], number: int, line: bytes) -> int | None:
    """The step of the record in a line of the file; None if it is a torn one, which has no end."""
    if line.endswith(b"\n"):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            step = None
        if isinstance(step, int) and not isinstance(step, bool):
            return step
    elif _begins(line):
        return None
    raise _no_record(path, number)


def _begins(line: bytes) -> bool:
    """Whether it can be a record of ours, or the first bytes of one."""
    written = line.rstrip(b"\0")  # which a crash of the whole machine leaves in place of bytes
    return written.startswith(_BEGINNING) or _BEGINNING.startswith(written)


def _no_record(path: str | os.PathLike[str], number: int) -> ValueError:
    return ValueError(
        f"{path}, line {number}: this is no record of a monitor. Choose another file, or remove this one if nobody "
        "needs it"
    )


def _finite(record: Mapping[str, Any]) -> Record:
    """JSON knows neither infinity nor NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
