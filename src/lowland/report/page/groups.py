"""Groups of runs that differ in nothing but their seed: what the page draws as one line with a band."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lowland.report.axes import labelled
from lowland.report.page.rounding import number
from lowland.report.page.shown import ShownDirectory, ShownRun
from lowland.training.statistics import Estimate, estimate
from lowland.values import JsonObject, Read

_NO_COLUMNS = ("arm", "step", "epoch")  # they say where, not what


@dataclass(frozen=True)
class RunIn:
    """A run, and the number of the directory that it is in."""

    directory: int
    run: ShownRun


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Attributes:
        name: for people, unlike that of any other group on the page.
        experiment: that its runs are of.
        arm: its arm, or its point of a grid, as its directory names it.
        settings: those of all its runs, without the seed and the number of seeds.
        varied: of a sweep: those that vary over its grid, without the seed.
        members: its runs, of one directory or of several.
    """

    name: str
    experiment: str
    arm: str
    settings: Mapping[str, Read]
    varied: tuple[str, ...]
    members: Sequence[RunIn]

    @property
    def directory(self) -> int:
        """The number of the first directory that it has runs of."""
        return self.members[0].directory

    @property
    def rho(self) -> float | None:
        """The radius ρ of its runs; None where their experiment has none."""
        return number(self.settings.get("rho"))

    def finals(self, column: str) -> dict[int, float]:
        """Seed → the value in the last record, of the runs that are done and have a finite one."""
        found = {}
        for member in self.members:
            run = member.run
            value = number(run.records[-1].get(column)) if run.status == "done" and run.records else None
            if value is not None:
                found[run.seed] = value
        return found

    def latest(self, column: str) -> tuple[Estimate | None, bool]:
        """The mean of `finals` over seeds; without any, that of the latest values so far, marked with False."""
        if finals := self.finals(column):
            return estimate(list(finals.values())), True
        open_ = [member.run for member in self.members if member.run.status == "under way" and member.run.records]
        so_far = [value for run in open_ if (value := number(run.records[-1].get(column))) is not None]
        return estimate(so_far), False


def names_of(paths: Sequence[Path]) -> list[str]:
    """A short name for each directory: the end of its path, as long as it takes to tell it from the others."""
    whole = [path.resolve().parts for path in paths]
    longest = max(map(len, whole), default=1)
    for length in range(1, longest + 1):
        names = ["/".join(parts[-length:]) for parts in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]  # one directory, named twice


def groups_of(sources: Sequence[ShownDirectory], names: Sequence[str]) -> list[Group]:
    """The groups of all directories, in order.

    Runs of several directories are one group where they have the same experiment, arm and settings, and no seed twice.
    """
    found: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for index, source in enumerate(sources):
        for group in _of_source(source, index):
            alike = found[source.experiment, group.arm, _key(group.settings)]
            if alike and not _seeds(alike[-1]) & _seeds(group):
                alike[-1] = replace(alike[-1], members=[*alike[-1].members, *group.members])
            else:
                alike.append(group)
    groups = sorted((group for several in found.values() for group in several), key=lambda group: group.directory)
    taken = Counter(group.name for group in groups)
    return [
        replace(group, name=f"{group.name} · {_places(group, names)}") if taken[group.name] > 1 else group
        for group in groups
    ]


def _places(group: Group, names: Sequence[str]) -> str:
    """The directories of a group: the first, and how many more."""
    several = len({member.directory for member in group.members})
    return names[group.directory] + (f" and {several - 1} more" if several > 1 else "")


def columns_of(sources: Sequence[ShownDirectory]) -> dict[str, str]:
    """The columns of numbers in all records, each with its label; first those that the experiments name."""
    labels: dict[str, str] = {}
    for source in sources:
        described = source.description or {"columns": {}, "figures": []}
        curves = [curve for figure in described["figures"] for curve in figure["curves"]]
        for column, text in (*described["columns"].items(), *((curve["column"], curve["label"]) for curve in curves)):
            labels.setdefault(column, text)
    records = [record for source in sources for run in source.runs for record in run.records]
    there = dict.fromkeys(name for record in records for name, value in record.items() if number(value) is not None)
    return {name: labels.get(name, name.replace("_", " ")) for name in dict.fromkeys([*labels, *there])
            if name in there and name not in _NO_COLUMNS}  # fmt: skip


def _of_source(source: ShownDirectory, index: int) -> list[Group]:
    varied = tuple(name for name in source.varied if name != "seed")
    telling = [name for name in varied if len({_key({name: run.settings.get(name)}) for run in source.runs}) > 1]
    found: dict[tuple[str, str], list[RunIn]] = {}
    for run in source.runs:
        arm = (labelled({name: run.settings.get(name) for name in telling}) or "all") if source.is_sweep else stem(run)
        found.setdefault((arm, _key(_seedless(run.settings))), []).append(RunIn(index, run))
    return [
        Group(arm, source.experiment, arm, _seedless(members[0].run.settings), varied, members)
        for (arm, _), members in found.items()
    ]


def stem(run: ShownRun) -> str:
    """The arm of which a run is one of several seeds: NAME of NAME-0, NAME-1, ..."""
    seeds = run.settings.get("seeds", 1)
    return re.sub(r"-\d+$", "", run.label) if isinstance(seeds, int) and seeds > 1 else run.label


def _seedless(settings: Mapping[str, Read]) -> JsonObject:
    """Without the seed, and without how many an arm has: a sweep has those of its grid."""
    return {name: value for name, value in settings.items() if name not in ("seed", "seeds")}


def _seeds(group: Group) -> set[int]:
    return {member.run.seed for member in group.members}


def _key(settings: Mapping[str, Read]) -> str:
    return json.dumps(settings, sort_keys=True)
