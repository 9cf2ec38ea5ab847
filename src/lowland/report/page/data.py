"""All that the page's script draws, as one plain value."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from lowland.report.axes import symbol
from lowland.report.page.answer import at_the_end
from lowland.report.page.comparison import differences
from lowland.report.page.curves import Drawing
from lowland.report.page.groups import Group, RunIn
from lowland.report.page.panels import first_open, panels_of
from lowland.report.page.rounding import drawn, number, short
from lowland.report.page.shown import STATUSES, ShownDirectory, ShownRun
from lowland.values import JsonObject, Read
from lowland.wording import trend_of

_COLUMNS = 4  # of a directory that the table of results shows at first, where its experiment names none


def script_data(
    sources: Sequence[ShownDirectory],
    names: Sequence[str],
    groups: Sequence[Group],
    columns: Mapping[str, str],
    drawing: Drawing,
) -> JsonObject:
    """Everything about groups and runs, in JSON's types.

    Args:
        sources: the directories.
        names: theirs.
        groups: of runs, of all directories.
        columns: of numbers in the records, each with its label.
        drawing: the curves.
    """
    panels = panels_of(sources, columns)
    return {
        "directories": [_directory(source, name, groups, index)
                        for index, (source, name) in enumerate(zip(sources, names, strict=True))],
        "columns": dict(columns),
        "main": _main(sources, columns),
        "panels": panels,
        "open": first_open(panels),
        "axes": {name: symbol(name) for name in axes_of(sources, groups)},
        "groups": [_group(group, drawing.runs[index], drawing.bands[index], columns)
                   for index, group in enumerate(groups)],
        "differences": differences(groups, list(columns)),
    }  # fmt: skip


def axes_of(sources: Sequence[ShownDirectory], groups: Sequence[Group]) -> list[str]:
    """The settings that tell groups apart: within a directory, or between directories of one experiment."""
    found: dict[str, None] = {}
    for experiment in dict.fromkeys(source.experiment for source in sources):
        alike = [group for group in groups if group.experiment == experiment]
        named = [name for group in alike for name in (*group.varied, *group.settings)]
        for name in dict.fromkeys(named):
            values = [group.settings.get(name) for group in alike]
            # Not as they are written, with few digits; numbers as such, so that 1 is 1.0.
            if len({json.dumps(value) if number(value) is None else number(value) for value in values}) > 1:
                found[name] = None
    return list(found)


def _directory(source: ShownDirectory, name: str, groups: Sequence[Group], index: int) -> JsonObject:
    selection = (source.summary or {}).get("selection") or {}
    chosen = selection.get("selected")
    selected = [
        number
        for number, group in enumerate(groups)
        if chosen is not None and group.directory == index
        and all(group.settings.get(key) == value for key, value in chosen.items())
    ]  # fmt: skip
    return {
        "name": name,
        "sweep": source.is_sweep,
        "varied": [key for key in source.varied if key != "seed"],
        "selected": selected[0] if len(selected) == 1 else None,
        "end": at_the_end(source, chosen) if chosen else "",
        "metric": _metric(source),
        "trends": _trends(source),
    }


def _trends(source: ShownDirectory) -> list[str]:
    """The trend of each compared metric with ρ, over all other settings together, in words."""
    labels = source.description["columns"] if source.description else {}
    metrics = ((source.summary or {}).get("differences") or {}).get("metrics") or {}
    last = {metric: found["trends"][-1] for metric, found in metrics.items() if found["trends"]}
    return [trend_of(labels.get(metric) or metric, trend) for metric, trend in last.items()]


def _metric(source: ShownDirectory) -> str | None:
    """The column that the sweep selects by."""
    selection = (source.summary or {}).get("selection") or (source.description or {}).get("selection") or {}
    metric = selection.get("metric")
    return str(metric) if metric else None


def _main(sources: Sequence[ShownDirectory], columns: Mapping[str, str]) -> list[str]:
    """The columns that the table of results shows at first."""
    found: dict[str, None] = {}
    for source in sources:
        there = [name for name in columns if any(name in record for run in source.runs for record in run.records[-1:])]
        named = [*(source.description["columns"] if source.description else ()), _metric(source)]
        found |= dict.fromkeys([name for name in named if name in there] or there[:_COLUMNS])
    return list(found)


def _group(
    group: Group, curves: Sequence[Mapping[str, Read]], bands: Mapping[str, Read], columns: Mapping[str, str]
) -> JsonObject:
    counts = Counter(member.run.status for member in group.members)
    finals = {column: found for column in columns if (found := _final(group, column)) is not None}
    return {
        "name": group.name,
        "arm": group.arm,
        "directories": list(dict.fromkeys(member.directory for member in group.members)),
        "settings": {name: value if isinstance(value, int | float | str | bool) else short(value)
                     for name, value in group.settings.items()},
        "told": _told(group, counts),
        **_cost([member.run for member in group.members]),
        "diverged": counts["diverged"],
        "finals": finals,
        "runs": [_run(member) | dict(own) for member, own in zip(group.members, curves, strict=True)],
        "bands": dict(bands),
    }  # fmt: skip


def _final(group: Group, column: str) -> list[float | int | None] | None:
    """Mean, standard error, the interval's ends, how many seeds, and whether they are done (1) or under way (0)."""
    found, done = group.latest(column)
    if found is None:
        return None
    low, high = found.interval or (None, None)
    return [drawn(found.mean), drawn(found.standard_error), drawn(low), drawn(high), found.n, int(done)]


def _told(group: Group, counts: Mapping[str, int]) -> str:
    if len(group.members) == 1:
        return group.members[0].run.told
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])


def _run(member: RunIn) -> JsonObject:
    run = member.run
    return {
        "label": run.label, "directory": member.directory, "seed": run.seed, "status": run.status, "told": run.told,
        **_cost([run]),
    }  # fmt: skip


def _cost(runs: Sequence[ShownRun]) -> JsonObject:
    """What a run took: gradients, and seconds of training where they are known, means over ``runs``."""
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return {
        "gradients": drawn(fmean(run.gradients for run in runs)),
        "seconds": drawn(fmean(seconds)) if seconds else None,
    }
