"""The table that an experiment itself makes of a run or sweep, for the page."""

from dataclasses import dataclass

from lowland.report.page.shown import ShownDirectory


@dataclass(frozen=True)
class ShownTable:
    """Headings of the columns after the first, and rows of cells."""

    heads: list[str]
    rows: list[list[str]]


def table_of(source: ShownDirectory) -> ShownTable | None:
    """Means ± standard errors over seeds by kind of run; None where the experiment has no such table."""
    rows = [row for row in (source.summary or {}).get("table") or [] if row["measures"]]
    names = list(dict.fromkeys(name for row in rows for name in row["measures"]))
    if not rows:
        return None
    return ShownTable(
        ["seeds", *names],
        [[row["name"], str(len(row["runs"])), *(_cell(row["measures"].get(name)) for name in names)] for row in rows],
    )


def _cell(measure: dict[str, float | None] | None) -> str:
    if measure is None:
        return ""
    error = measure["standard_error"]
    return f"{measure['mean']:.4g}" + ("" if error is None else f" ± {error:.2g}")
