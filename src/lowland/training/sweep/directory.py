"""What a sweep's directory holds: under ``runs``, a run directory for each run, or for those trained as one program."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lowland.errors import RunError, SettingError
from lowland.training.experiment import Experiment
from lowland.training.files import (
    NUMBER,
    Each,
    Maybe,
    Shape,
    Within,
    damaged,
    fault,
    fingerprint,
    read_json,
    read_records,
    write_json,
)
from lowland.training.outcome import Outcome, Record, seconds_in
from lowland.training.run_directory import holds_nothing
from lowland.training.settings import Settings, checked, values_of
from lowland.values import JsonObject

_ENDED = "ended.json"
_CONFIG: Shape = {"arms": Each(Each(object)), "stacked": Maybe(bool), "alike": Maybe(Within(1, 2**31))}
_STEP = Maybe(Within(0, 2**63 - 1))
_ENDS = Each({"diverged_at": _STEP, "step": _STEP, "records_sha256": Maybe(str)})


@dataclass(frozen=True)
class SweepPart:
    """One of them.

    Attributes:
        path: its run directory.
        arms: label → settings, the label being that of the sweep that began it.
        vectorized: whether they are trained as one program.
        alike: how many such programs of the same kind the grid made that began it.
        ended: label → how a run that is finished ended.
    """

    path: Path
    arms: Mapping[str, Settings]
    vectorized: bool
    alike: int
    ended: Mapping[str, JsonObject]

    @property
    def finished(self) -> bool:
        """Whether nothing of it is left to train."""
        return set(self.ended) == set(self.arms)

    def results(self, every: bool = False) -> dict[Settings, Outcome]:
        """What became of its finished runs, or of ``every`` run so far.

        Raises:
            RunError: if records are damaged or missing.
        """
        if not (every or self.ended):
            return {}
        records = read_records(self.path, torn=not self.finished)
        results = {}
        for label, settings in self.arms.items():
            if every or label in self.ended:
                how = self.ended.get(label, {})
                outcome = Outcome(settings, records.get(label, []), how.get("diverged_at"), seconds_in(how))
                if label in self.ended and not _has_its_end(how, outcome):
                    raise RunError(f"{self.path} lacks records of a finished run: remove it, and it is trained again")
                _check(self.path, label, how, outcome.records)
                results[settings] = outcome
        return results


def finish(path: Path, trained: Mapping[str, Outcome]) -> None:
    """Note which runs of the part at ``path``, where this process is alone, are finished, and how."""
    ended = {
        label: {
            "diverged_at": outcome.diverged_at,
            "step": outcome.records[-1]["step"] if outcome.records else None,
            **outcome.seconds,
            "records_sha256": fingerprint(outcome.records),
        }
        for label, outcome in trained.items()
        if outcome.finished
    }
    write_json(path / _ENDED, ended)


def verify_parts(directory: Path, experiment: Experiment) -> None:
    """Make sure that the finished runs under a sweep's directory have the records that were written, and no more.

    Raises:
        RunError: if they haven't.
    """
    for part in find_parts(directory, experiment):
        part.results()


def _check(path: Path, label: str, how: JsonObject, records: list[Record]) -> None:
    if how.get("records_sha256") not in (None, fingerprint(records)):
        reason = f"the records of {label} are not those that were written"
        raise damaged(path / "metrics.jsonl", reason, _again(path))


def _again(path: Path) -> str:
    return f"remove {path}, and its runs are trained again"


def find_parts(directory: Path, experiment: Experiment) -> list[SweepPart]:
    """The parts under a sweep's directory, in order of their names.

    Raises:
        RunError: for one that is damaged.
    """
    parts = []
    for path in sorted((directory / "runs").glob("*")):
        if not (path / "config.json").exists():
            continue  # killed before it began
        if holds_nothing(path):
            continue  # ended before its first step: it begins anew, perhaps with other settings
        again = _again(path)
        config = read_json(path / "config.json", remedy=again)
        wrong = fault(config, _CONFIG)
        try:
            arms = {} if wrong else {name: checked(experiment.settings, one) for name, one in config["arms"].items()}
        except SettingError as error:
            wrong = str(error)
        if wrong:
            raise RunError(f"{path} holds no run of {experiment.name} ({wrong}): {again}")
        ended = read_json(path / _ENDED, _ENDS, again) if (path / _ENDED).exists() else {}
        for label, how in ended.items():
            seconds = fault(seconds_in(how), Each(NUMBER), label)
            if seconds or label not in arms:
                raise damaged(path / _ENDED, seconds or f"it names {label}, which is no run of this part", again)
        parts.append(SweepPart(path, arms, bool(config.get("stacked")), config.get("alike") or 1, ended))
    return parts


def _has_its_end(how: JsonObject, outcome: Outcome) -> bool:
    """Whether the last record of a finished run is there; an earlier version noted no step, and took all of them."""
    last = how.get("step", outcome.settings.steps)
    return outcome.diverged_at is not None or (bool(outcome.records) and outcome.records[-1]["step"] == last)


def new_path(directory: Path, arms: Mapping[str, Settings]) -> Path:
    """Where a part with these ``arms`` belongs: always the same place for the same settings."""
    content = "\n".join(sorted(repr(values_of(settings)) for settings in arms.values()))
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    name = next(iter(arms)) if len(arms) == 1 else f"stack-of-{len(arms)}"
    return (directory / "runs" / f"{name[:120].replace(os.sep, '_')}-{digest}").absolute()
