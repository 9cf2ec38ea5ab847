"""Reads a run or sweep directory, finished or under way, and changes nothing in it."""

from collections.abc import Mapping
from pathlib import Path

from lowland.errors import RunError
from lowland.report.page.shown import ShownDirectory, ShownRun
from lowland.report.page.standing import begun, summed_up
from lowland.report.page.sweep_reading import read_sweep
from lowland.training import RunDirectory, read_description, read_json, read_records
from lowland.training.files import Each, Maybe, Shape, damaged, fault
from lowland.training.run_directory import read_progress
from lowland.values import Read

_CONFIG: Shape = {"experiment": str, "scale": str, "sweep": Maybe(bool)}
_OF_RUN: Shape = {"arms": Each(Each(object))}
_OF_SWEEP: Shape = {"settings": Each(object)}


def read_source(path: Path) -> ShownDirectory:
    """The run or sweep under ``path``.

    Raises:
        RunError: if there is none, or a file of it is missing or damaged.
        OSError: if it can't be read.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "isn't there"
        raise RunError(f"{path} {what}: name a directory that `lowland run` or `lowland sweep` wrote")
    file = path / "config.json"
    if not file.exists():
        inside = [str(each.parent) for each in sorted(path.glob("*/config.json"))]
        wrote = "name a directory that `lowland run` or `lowland sweep` wrote"
        to_do = f"name those inside, as in `lowland report {' '.join(inside[:3])}`" if inside else wrote
        raise RunError(f"{path} is neither a run nor a sweep (there is no config.json): {to_do}")
    config = read_json(file, _CONFIG)
    if wrong := fault(config, _OF_SWEEP if config.get("sweep") else _OF_RUN):
        raise damaged(file, wrong)
    description = read_description(path)
    directory = RunDirectory(path, config)
    if config.get("sweep"):
        return read_sweep(directory, description)
    summary = directory.summary()  # it is written last: what it sums up is there
    return ShownDirectory(path, config, description, summary, (), _runs(path, config, description, summary))


def _runs(
    path: Path, config: Mapping[str, Read], description: Mapping[str, Read] | None, summary: Mapping[str, Read] | None
) -> list[ShownRun]:
    records = read_records(path, torn=summary is None)
    if summary is not None:
        ends = summary["metrics"]
        return [
            summed_up(arm, one, records.get(arm, []), ends[arm], description) for arm, one in config["arms"].items()
        ]
    progress = read_progress(path)
    return [
        begun(arm, one, records.get(arm, []), progress.get(arm, {}), description) for arm, one in config["arms"].items()
    ]
