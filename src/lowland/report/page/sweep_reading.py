"""Reads a sweep directory: the whole of a finished one, or the parts of one that is under way."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lowland.report.page.shown import ShownDirectory, ShownRun
from lowland.report.page.standing import begun, summed_up
from lowland.training import Record, RunDirectory, read_json, read_records
from lowland.training.files import Each, Maybe, Shape, damaged, fault
from lowland.training.run_directory import read_progress
from lowland.values import Read

_SETTINGS = Each(object)
_SUMMARY: Shape = {
    "config": {"grid": {"varied": [str], "points": Each(_SETTINGS)}},
    "metrics": Each({"status": str, "diverged_at": Maybe(int), "stopped_at": Maybe(int)}),
    "selection": {"selected": Maybe(_SETTINGS), "reason": str, "metric": Maybe(str), "on": Maybe(str)},
}
_PART: Shape = {"arms": Each(_SETTINGS)}
_ENDED = Each({"diverged_at": Maybe(int)})
_AGAIN = "remove it, and the same command writes it again"


@dataclass(frozen=True)
class _Part:
    """A run that has begun: its settings, its records, and how far it is."""

    settings: Mapping[str, Read]
    records: Sequence[Record] = ()
    progress: Mapping[str, Read] = field(default_factory=dict)


def read_sweep(directory: RunDirectory, description: Mapping[str, Read] | None) -> ShownDirectory:
    """The sweep in ``directory``, which says in its ``description`` what it is about.

    A summary counts only if it is of the grid that was asked for last: a grid may have grown since.

    Raises:
        RunError: if a file is damaged.
        OSError: if one can't be read.
    """
    grid = description["grid"] if description else None
    summary = directory.summary(verified=False)
    if summary is not None:
        if wrong := fault(summary, _SUMMARY):
            raise damaged(directory.path / "summary.json", wrong, _AGAIN)
        if grid is None or grid["points"] == summary["config"]["grid"]["points"]:
            directory.summary()  # verifies that the records are those which it sums up
            return _finished(directory, description, summary)
    parts = _parts(directory.path)
    if description is None or grid is None:
        runs = [begun(label, part.settings, part.records, part.progress, None) for label, part in parts.items()]
        return ShownDirectory(directory.path, directory.config, description, None, _varied(runs), runs)
    found = {_key(part.settings): part for part in parts.values()}
    runs = []
    for label, point in grid["points"].items():
        settings = {**directory.config["settings"], **point}
        part = found.get(_key(settings), _Part(settings))
        runs.append(begun(label, settings, part.records, part.progress, description))
    return ShownDirectory(directory.path, directory.config, description, None, tuple(grid["varied"]), runs)


def _finished(
    directory: RunDirectory, description: Mapping[str, Read] | None, summary: Mapping[str, Read]
) -> ShownDirectory:
    records, grid, ends = read_records(directory.path), summary["config"]["grid"], summary["metrics"]
    if lacking := [label for label in grid["points"] if label not in ends]:
        raise damaged(directory.path / "summary.json", f"metrics lacks {lacking[0]}", _AGAIN)
    runs = [
        summed_up(label, {**directory.config["settings"], **point}, records.get(label, []), ends[label], description)
        for label, point in grid["points"].items()
    ]
    return ShownDirectory(directory.path, directory.config, description, summary, tuple(grid["varied"]), runs)


def _parts(path: Path) -> dict[str, _Part]:
    """Every run that has begun, by its label."""
    found: dict[str, _Part] = {}
    for part in sorted((path / "runs").glob("*")):
        if not (part / "config.json").exists():
            continue  # killed before it began
        again = f"remove {part}, and its runs are trained again"
        arms = read_json(part / "config.json", _PART, again)["arms"]
        ended = read_json(part / "ended.json", _ENDED, again) if (part / "ended.json").exists() else {}
        progress = read_progress(part) | {label: {**how, "finished": True} for label, how in ended.items()}
        records = read_records(part, torn=set(ended) != set(arms))
        for label, settings in arms.items():
            found[label] = _Part(settings, records.get(label, []), progress.get(label, {}))
    return found


def _key(settings: Mapping[str, Read]) -> str:
    return json.dumps(settings, sort_keys=True)


def _varied(runs: list[ShownRun]) -> tuple[str, ...]:
    """The settings in which runs differ, where no grid says so."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return tuple(name for name in names if len({_key({"": run.settings.get(name)}) for run in runs}) > 1)
