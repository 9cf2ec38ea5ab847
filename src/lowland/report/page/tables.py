"""The table that an experiment itself makes of a run or sweep, for the page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lowland.report.page.groups import Group
from lowland.report.page.shown import ShownDirectory
from lowland.values import Read
from lowland.wording import seeds_of


@dataclass(frozen=True)
class ShownTable:
    """Headings of the columns after the first, and rows of cells."""

    heads: list[str]
    rows: list[list[str]]


def table_of(source: ShownDirectory, groups: Sequence[Group], columns: Iterable[str]) -> ShownTable | None:
    """Means ± standard errors over seeds by kind of run.

    None where the experiment has no such table, or one that says again what the table of results says.

    Args:
        source: the directory.
        groups: of the page, which has a row of results for each.
        columns: of numbers in the records.
    """
    rows = [row for row in (source.summary or {}).get("table") or [] if row["measures"]]
    names = list(dict.fromkeys(name for row in rows for name in row["measures"]))
    results = _results(source, groups, list(columns))
    if all(_repeats(row, results.get(row["name"], [])) for row in rows):
        return None
    return ShownTable(
        ["seeds", *names],
        [[row["name"], seeds_of(len(row["runs"]), row["measures"].values()),
          *(_cell(row["measures"].get(name)) for name in names)] for row in rows],
    )  # fmt: skip


def _results(source: ShownDirectory, groups: Sequence[Group], columns: Sequence[str]) -> dict[str, list[float]]:
    """By arm the means that the table of results has of the directory's runs."""
    runs = {id(run) for run in source.runs}
    found = {}
    for group in groups:
        if all(id(member.run) in runs for member in group.members):
            means = [group.latest(column)[0] for column in columns]
            found[group.arm] = [mean.mean for mean in means if mean is not None]
    return found


def _repeats(row: Mapping[str, Read], results: Sequence[float]) -> bool:
    """Whether every mean of a row stands among the ``results``."""
    return all(any(math.isclose(each["mean"], mean) for mean in results) for each in row["measures"].values())


def _cell(measure: dict[str, float | None] | None) -> str:
    if measure is None:
        return ""
    error = measure["standard_error"]
    return f"{measure['mean']:.4g}" + ("" if error is None else f" ± {error:.2g}")
