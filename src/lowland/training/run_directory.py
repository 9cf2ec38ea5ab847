"""The folder of a run: what it was asked to do, what it recorded, where it can go on."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import torch

from lowland.assigning import unassignable
from lowland.errors import LowlandError, RunError, is_memory
from lowland.files import naming, write_atomically
from lowland.saved import tensors_in
from lowland.training.environment import made_with
from lowland.training.files import (
    NUMBER,
    Each,
    Maybe,
    Shape,
    Within,
    damaged,
    fault,
    finite,
    parse_records,
    read_bytes,
    read_json,
    read_records,
    write_json,
)
from lowland.training.lock import Lock
from lowland.training.logs import Log
from lowland.training.outcome import Record
from lowland.values import Json, JsonObject, StateDict

_FAR = 2**63 - 1
_CHECKPOINT: Shape = {
    "metrics_bytes": Within(0, _FAR),
    "metrics_sha256": Maybe(str),
    "arms": Each({"finished": bool, "diverged_at": Maybe(Within(0, _FAR)), "step": Maybe(Within(0, _FAR))}),
}
_PROGRESS: dict[str, Shape] = {"step": Maybe(Within(0, _FAR)), "finished": bool, "diverged_at": Maybe(Within(0, _FAR))}
_SUMMARY: Shape = {
    "experiment": str,
    "scale": str,
    "config": dict,
    "metrics": Each(object),
    "claims": [
        {"id": str, "text": str, "source": str, "measured": Maybe(NUMBER), "threshold": Maybe(str),
         "passed": Maybe(bool), "reason": str, "reference": Maybe({"value": (str, *NUMBER), "where": str}),
         "decided_by": Maybe({"scale": str, "command": str}), "interval_95": Maybe([NUMBER])},
    ],
    "files": Maybe(Each(str)),
    "source": Maybe(Each(str)),
    "table": Maybe([{"name": str, "runs": dict, "measures": Each({"mean": NUMBER, "standard_error": Maybe(NUMBER)})}]),
}  # fmt: skip
_ENDS = Each({"status": str, "diverged_at": Maybe(int)})


@unassignable(**dict.fromkeys(("path", "config", "figures"), "it is one directory of one run. Make another"))
class RunDirectory:
    """``config.json``, ``metrics.jsonl``, ``checkpoint.pt``, ``summary.json`` and ``figures/`` under one path.

    Used as a context: it holds a lock, so that no second process writes there, and lets go of it however the
    process ends. Before each write it makes sure that the folder and the records are still the ones that it knows.

    Args:
        path: made if need be.
        config: what the run is asked to do; a directory that was made for something else is refused.
        log: where records go, too.

    Raises:
        RunError: if the path is a file, holds something else or another configuration, is damaged or in use.
        OSError: if it can't be read or written.
    """

    path: Path
    config: JsonObject
    figures: Path
    #: Why what was begun in it begins anew, in a sentence; empty where it goes on, or is new.
    anew: str = ""

    def __init__(self, path: Path, config: JsonObject, log: Log | None = None):
        self.path, self.config = Path(path), finite(json.loads(json.dumps(config)))
        self.figures = self.path / "figures"
        self._metrics = self.path / "metrics.jsonl"
        self._checkpoint = self.path / "checkpoint.pt"
        self._summary = self.path / "summary.json"
        self._lock = Lock(self.path / ".lock")
        self._known: _Known | None = None
        self._log = None if log is None else log.open(self.config["arms"])

    def __enter__(self) -> "RunDirectory":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunError(f"{self.path} can't be a run directory: there is a file in its place") from None
        strangers = [p.name for p in self.path.iterdir() if p.name != ".lock" and not p.name.endswith(".part")]
        if strangers and not (self.path / "config.json").exists():
            raise RunError(f"{self.path} holds other files ({strangers[0]}) and no run: choose another --out")
        if not self._lock.acquire():
            raise RunError(f"{self.path} is in use by another process")
        try:
            self._check_config()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._log is not None:
                self._log.close()
        finally:
            self._lock.release()

    def _check_config(self) -> None:
        path = self.path / "config.json"
        if not path.exists():
            write_json(path, self.config)
            return
        there = read_json(path)
        of_code = there != self.config and there | {"code": None} == self.config | {"code": None}
        difference = f"{_changed_code(there, self.config)} has changed since" if of_code else None
        if there != self.config and holds_nothing(self.path):
            difference = difference or _difference(there, self.config)
            self.anew = f"{self.path} begins anew: it was interrupted before its first checkpoint, and {difference}"
            write_json(path, self.config)
            return
        if there | {"processes": 1} == self.config | {"processes": 1} and there != self.config:
            raise RunError(
                f"{self.path} holds a run by {_counted(there.get('processes', 1))}, and this is one by "
                f"{_counted(self.config.get('processes', 1))}, which can't go on to the same bits: start as many, "
                "choose another --out, or remove it"
            )
        kinds = ["a sweep" if config.get("sweep") else "a single run" for config in (there, self.config)]
        if kinds[0] != kinds[1]:
            raise RunError(f"{self.path} holds {kinds[0]}, not {kinds[1]}: choose another --out, or remove it")
        if of_code:
            raise RunError(
                f"{self.path} holds a run of other code ({difference}): choose another --out, or remove "
                "the directory to start again; with the file as it was, the same command goes on"
            )
        if there != self.config:
            raise RunError(
                f"{self.path} holds a run of another configuration ({_difference(there, self.config)}): "
                "choose another --out, or remove it"
            )

    def still_held(self) -> None:
        """Make sure that the folder is the one that was entered; outside of that anybody may read it.

        Raises:
            RunError: if it was removed, moved away or replaced: what is in its place now may be another process's.
        """
        if self._lock.taken and not self._lock.held():
            raise RunError(
                f"{self.path} was removed, moved away or replaced while this run was writing to it, so the run ends: "
                "put it back and run the same command, which goes on where it stopped, or choose another --out"
            )

    # Records and checkpoints. A checkpoint says how many bytes of records belong to it, and their checksum; what a
    # killed process recorded after it is cut off and made again.

    def append(self, record: Record) -> None:
        """Add one line to ``metrics.jsonl``.

        Raises:
            RunError: if the folder or the records are not those that this process knows any more.
        """
        line = (json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode()
        known = self._records_known()
        with naming(self._metrics), self._metrics.open("ab") as file:
            if os.fstat(file.fileno()).st_size != known.size:
                raise self._changed()
            file.write(line)
        known.add(line)
        if self._log is not None:
            self._log.write(record)

    def save(self, state: StateDict) -> None:
        """Write the checkpoint; everything recorded so far belongs to it. And how far each arm is, for readers.

        Raises:
            RunError: if the folder or the records are not those that this process knows any more.
        """
        known = self._records_known()
        if known.size:
            with naming(self._metrics), self._metrics.open("rb") as file:
                os.fsync(file.fileno())
        content = BytesIO()  # torch's own writer reports a full disk as an unexpected position
        whole = {**state, "metrics_bytes": known.size, "metrics_sha256": known.digest(), "made_with": made_with()}
        torch.save(whole, content)
        write_atomically(self._checkpoint, content.getbuffer())
        arms = {name: {key: arm.get(key) for key in _PROGRESS} for name, arm in state["arms"].items()}
        write_json(self.path / "progress.json", {"arms": arms})

    def _compare(self, before: object) -> None:
        """Warn where the checkpoint was made with another version, or other threads."""
        now = made_with()
        if not isinstance(before, dict) or before == now:
            return
        changed = ", ".join(
            f"{name} {before.get(name)}, now {now[name]}" for name in now if before.get(name) != now[name]
        )
        warnings.warn(
            f"{self.path} was begun with {changed}: it goes on, and needn't end with the bits of a run in one piece",
            stacklevel=2,
        )

    def load(self, device: torch.device) -> StateDict | None:
        """The checkpoint's state, with the records cut to those that belong to it; None if there is none.

        Raises:
            RunError: if the checkpoint, or a record that belongs to it, is damaged or missing.
            OSError: if they can't be read.
        """
        self.still_held()
        if not self._checkpoint.exists():
            self._metrics.unlink(missing_ok=True)
            self._known = _Known(b"")
            self._begin_log({})
            return None
        try:
            state = tensors_in(read_bytes(self._checkpoint), device)
            wrong = fault(state, _CHECKPOINT)
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise damaged(self._checkpoint, wrong)
        self._compare(state.get("made_with"))
        size: int = state["metrics_bytes"]
        content = read_bytes(self._metrics) if self._metrics.exists() else b""
        if len(content) < size:
            raise RunError(f"{self._metrics} is shorter than its checkpoint: remove {self.path} and start again")
        known = _Known(content[:size])
        records = parse_records(self._metrics, content[:size])
        if state.get("metrics_sha256") not in (None, known.digest()):
            raise damaged(self._metrics, "it isn't what was recorded: the checksum is wrong")
        if len(content) > size:
            with naming(self._metrics):
                os.truncate(self._metrics, size)
        self._known = known
        self._begin_log(records)
        return state

    def _begin_log(self, records: dict[str, list[Record]]) -> None:
        if self._log is not None:
            self._log.begin(records)

    @contextmanager
    def taking_up(self) -> Iterator[None]:
        """Whatever fails in here, where a checkpoint's state is put to use, is the checkpoint's fault: RunError."""
        try:
            yield
        except (LowlandError, OSError):
            raise
        except Exception as error:
            if is_memory(error):
                raise
            reason = next(iter(str(error).splitlines()), "")
            raise RunError(
                f"{self._checkpoint} does not fit this run ({type(error).__name__}: {reason}): another version of "
                f"Lowland or of a library wrote it, or it is damaged; remove {self.path} and start again"
            ) from error

    def records(self) -> dict[str, list[Record]]:
        """The records of each arm.

        Raises:
            RunError: if the folder or the records are not those that this process knows any more, or are damaged.
        """
        known, content = self._records_known(), self._content()
        parsed = parse_records(self._metrics, content)
        if _Known(content).digest() != known.digest():
            raise self._changed()
        return parsed

    def _records_known(self) -> "_Known":
        """What this process knows of the records, which are still as long."""
        self.still_held()
        if self._known is None:
            self._known = _Known(self._content())
        size = self._metrics.stat().st_size if self._metrics.exists() else 0
        if size != self._known.size:
            raise self._changed()
        return self._known

    def _content(self) -> bytes:
        return read_bytes(self._metrics) if self._metrics.exists() else b""

    def _changed(self) -> RunError:
        return RunError(
            f"{self._metrics} was changed by another process while this run was writing to it, so the run ends: see "
            f"what does that, remove {self.path} and start again"
        )

    def conclude(self, summary: dict[str, Json]) -> JsonObject:
        """Write the summary, with the checksums of the files that go with it, and return it: the run is finished."""
        self.still_held()
        there = [path for path in (self._metrics, self.path / "results.csv") if path.exists()]
        files = {path.name: hashlib.sha256(read_bytes(path)).hexdigest() for path in there}
        whole = {**summary, "files": files}
        write_json(self._summary, whole)
        return whole

    def changed_file(self, summary: JsonObject) -> str:
        """The name of a file that isn't what it was when the ``summary`` was written; empty if there is none."""
        for name, checksum in (summary.get("files") or {}).items():
            path = self.path / Path(name).name
            if not path.is_file() or hashlib.sha256(read_bytes(path)).hexdigest() != checksum:
                return name
        return ""

    def summary(self, verified: bool = True) -> JsonObject | None:
        """The summary of a finished run, else None.

        Args:
            verified: whether the records must be those that it sums up.

        Raises:
            RunError: if it is damaged or of another version, or the records are damaged.
            OSError: if it can't be read.
        """
        if not self._summary.exists():
            return None
        remedy = "remove it, and the same command writes it again"
        summary = read_json(self._summary, _SUMMARY, remedy)
        arms = self.config.get("arms", {})
        wrong = fault({arm: summary["metrics"].get(arm) for arm in arms}, _ENDS, "metrics")
        if wrong:
            raise damaged(self._summary, wrong, remedy)
        if verified and (name := self.changed_file(summary)):
            raise damaged(self.path / name, "it isn't what it was when the run ended: the checksum is wrong")
        return summary


class _Known:
    """What this process knows of the records in the file: how long they are, and their checksum."""

    def __init__(self, content: bytes):
        self.size, self._hash = len(content), hashlib.sha256(content)

    def add(self, line: bytes) -> None:
        self.size += len(line)
        self._hash.update(line)

    def digest(self) -> str:
        return self._hash.hexdigest()


def holds_nothing(path: Path) -> bool:
    """Whether nothing is lost if what was begun at ``path`` begins anew: no checkpoint, no summary, no step recorded.

    Of a sweep's directory, whether that is so of all its parts.
    """
    if any((path / name).exists() for name in ("checkpoint.pt", "summary.json")):
        return False
    metrics = path / "metrics.jsonl"
    try:
        records = read_records(path, torn=True).values() if metrics.exists() else []
    except RunError:  # damaged: there was something
        return False
    if any(record.get("step") for arm in records for record in arm):
        return False
    return all(holds_nothing(part.parent) for part in (path / "runs").glob("*/config.json"))


def read_progress(path: Path) -> dict[str, JsonObject]:
    """How far each arm under ``path`` was at the last checkpoint: ``step``, ``finished``, ``diverged_at``.

    Without a checkpoint, and of runs by earlier versions, there is nothing.

    Raises:
        RunError: if the file is damaged.
        OSError: if it can't be read.
    """
    file = path / "progress.json"
    if not file.exists():
        return {}
    return read_json(file, {"arms": Each(_PROGRESS)}, "remove it; the same command writes it again")["arms"]


def _counted(processes: int) -> str:
    return f"{processes} processes" if processes != 1 else "1 process"


def _changed_code(there: JsonObject, asked: JsonObject) -> str:
    old, new = there.get("code") or {}, asked.get("code") or {}
    return ", ".join(sorted(name for name in {*old, *new} if old.get(name) != new.get(name)))


def _difference(there: JsonObject, asked: JsonObject, prefix: str = "") -> str:
    for key in sorted({*there, *asked}):
        old, new = there.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            return _difference(old, new, f"{prefix}{key}.")
        if old != new:
            return f"{prefix}{key} is {_brief(old)} there, {_brief(new)} here"
    return "it differs"


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
