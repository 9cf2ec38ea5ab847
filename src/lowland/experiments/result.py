"""A run or sweep directory as an object: records, claims, summary and figures, also of one that is under way."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowland.errors import RunError, SettingError
from lowland.experiments.page import page
from lowland.experiments.summary import Summary
from lowland.training import read_json, read_records
from lowland.training.files import Each, Maybe, Shape, read_bytes
from lowland.wording import verdict_of

if TYPE_CHECKING:
    from pandas import DataFrame

_CONFIG: Shape = {"experiment": str, "scale": str, "arms": Maybe(Each(Each(object)))}


class Picture:
    """A figure that was drawn; a notebook shows it.

    Attributes:
        path: of the PNG file.
    """

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        return f"Picture({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


class Result:
    """A run or sweep directory. Each attribute reads what is there now.

    Attributes:
        path: of the directory.

    Args:
        path: of the directory.

    Raises:
        RunError: if there is no run or sweep.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not (self.path / "config.json").exists():
            raise RunError(f"{self.path} holds no run or sweep: it has no config.json")

    @property
    def config(self) -> dict[str, Any]:
        """What was asked for: experiment, scale, device, and the settings of each arm."""
        return read_json(self.path / "config.json", _CONFIG)

    @property
    def finished(self) -> bool:
        """Whether there is a summary."""
        return (self.path / "summary.json").exists()

    @property
    def is_sweep(self) -> bool:
        """Whether it is a sweep."""
        return bool(self.config.get("sweep"))

    @property
    def records(self) -> list[dict[str, Any]]:
        """What every check recorded: a dictionary with ``arm``, ``step`` and the measures; arm after arm."""
        return [record for path in self._parts() for arm in read_records(path, torn=True).values() for record in arm]

    def _parts(self) -> list[Path]:
        """The directories that hold the records: those of the runs, while a sweep is under way."""
        if self.finished or not self.is_sweep:
            return [self.path]
        return [path.parent for path in sorted((self.path / "runs").glob("*/config.json"))]

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Of each arm, or point of a grid, the settings by name."""
        if not self.is_sweep:
            return dict(self.config["arms"])
        if not self.finished:
            configs = [read_json(path / "config.json", _CONFIG) for path in self._parts()]
            return {label: values for config in configs for label, values in (config["arms"] or {}).items()}
        config = self.summary["config"]
        return {label: {**config["settings"], **values} for label, values in config["grid"]["points"].items()}

    def frame(self) -> "DataFrame":
        """The `records` as a pandas DataFrame, with the settings in which the arms differ.

        Raises:
            SettingError: if pandas isn't installed.
        """
        try:
            import pandas
        except ImportError:
            raise SettingError("frame() needs pandas: pip install pandas") from None
        settings, records = self.settings, self.records
        names = dict.fromkeys(name for values in settings.values() for name in values)
        taken = {name for record in records for name in record}
        varied = [
            name
            for name in names
            if name not in taken and len({repr(values.get(name)) for values in settings.values()}) > 1
        ]
        rows = [
            {"arm": record["arm"], **{name: settings[record["arm"]].get(name) for name in varied}, **record}
            for record in records
        ]
        return pandas.DataFrame(rows)

    @property
    def summary(self) -> Summary:
        """What the run or sweep came to, the content of ``summary.json``.

        Raises:
            RunError: if it isn't finished.
        """
        if not self.finished:
            raise RunError(f"{self.path} isn't finished: the same call or command goes on; records are there already")
        return Summary(read_json(self.path / "summary.json"))

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Each claim with its verdict: ``id``, ``text``, ``measured``, ``threshold``, ``passed``, ``reason``, ..."""
        return list(self.summary["claims"])

    @property
    def figures(self) -> Mapping[str, Picture]:
        """The figures by name, the experiment's first one first."""
        files = sorted((self.path / "figures").glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return {file.stem: Picture(file) for file in files}

    def __repr__(self) -> str:
        config = self.config
        kind = "a sweep" if self.is_sweep else "a run"
        said = f"{self.path}: {kind} of {config['experiment']} at {config['scale']} scale"
        if not self.finished:
            return f"<{said}, under way>"
        claims = [f"{claim['id']} {verdict_of(claim)}" for claim in self.claims]
        return f"<{said}; {', '.join(claims)}>" if claims else f"<{said}>"

    def _repr_html_(self) -> str:
        pictures = {name: read_bytes(picture.path) for name, picture in self.figures.items()}
        return page(repr(self)[1:-1], self.summary.tables() if self.finished else [], pictures)


def open_directory(path: str | os.PathLike[str]) -> Result:
    """The run or sweep in a directory, finished or under way; the experiment's code isn't needed.

    Raises:
        RunError: if there is none.
    """
    return Result(path)
