"""What lies between two groups of runs, paired by seed; and what can be compared at all."""

from collections.abc import Iterator, Mapping, Sequence

from lowland.report.page.groups import Group
from lowland.report.page.rounding import drawn, number, settled
from lowland.report.page.shown import ShownDirectory
from lowland.training.statistics import Estimate, holm, paired_difference
from lowland.values import JsonObject

RULE = (
    "Each difference is taken seed by seed, of the last records of runs that are done. Its mean over the seeds has "
    "Student's 95 % interval. It is below or above where the whole interval lies on that side of 0, else undecided. "
    "p is two-sided, of a paired t-test, and corrected by Holm for the number of differences in the table."
)


def pairs(groups: Sequence[Group]) -> Iterator[tuple[int, int, str]]:
    """Which groups are compared: the number of the one, that of what it is compared to, and why.

    Within a directory: SAM to the group with ρ = 0 and the same settings otherwise, but for settings that the groups
    with ρ = 0 don't vary. Between directories: each group to that of the same arm, or point, in the first directory.
    """
    directories = dict.fromkeys(group.directory for group in groups)
    for directory in directories:
        yield from _to_zero(groups, directory)
    first = next(iter(directories), 0)
    base = {_identity(group): index for index, group in enumerate(groups) if group.directory == first}
    for index, group in enumerate(groups):
        against = base.get(_identity(group))
        if group.directory != first and against is not None:
            yield index, against, "between directories"


def _identity(group: Group) -> tuple[str, str, tuple[str, ...]]:
    return group.experiment, group.arm, group.varied


def _to_zero(groups: Sequence[Group], directory: int) -> Iterator[tuple[int, int, str]]:
    own = [(index, group) for index, group in enumerate(groups) if group.directory == directory]
    without = [(index, group) for index, group in own if group.rho == 0]
    names = [name for name in dict.fromkeys(name for _, group in own for name in group.settings) if name != "rho"]
    values = {name: {str(group.settings.get(name)) for _, group in without} for name in names}
    telling = [name for name in names if len(values[name]) > 1]

    def key(group: Group) -> tuple[str, ...]:
        return tuple(str(group.settings.get(name)) for name in telling)

    base = {key(group): index for index, group in without}
    for index, group in own:
        if group.rho and (against := base.get(key(group))) is not None:
            yield index, against, "to ρ = 0"


def differences(groups: Sequence[Group], columns: Sequence[str]) -> dict[str, list[JsonObject]]:
    """By column the difference of each of `pairs` that share a seed; columns without any are left out."""
    wanted = list(pairs(groups))
    found = {}
    for column in columns:
        finals = [group.finals(column) for group in groups]
        rows = [
            (pair, between) for pair in wanted if (between := _between(finals[pair[0]], finals[pair[1]])) is not None
        ]
        ps = [between.p for _, between in rows]
        corrected = iter(holm([p for p in ps if p is not None]))
        entries = [
            {
                "group": one, "against": other, "kind": kind, "n": between.n, "mean": drawn(between.mean),
                "interval": None if between.interval is None else [drawn(end) for end in between.interval],
                "p": None if between.p is None else drawn(next(corrected)),
                "verdict": between.side or "undecided", "lacks": between.lacks,
            }
            for ((one, other, kind), between) in rows
        ]  # fmt: skip
        if entries:
            found[column] = entries
    return found


def _between(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """The difference paired by seed, in which values are the same that differ by nothing but their rounding."""
    shared = {seed: (value, second[seed]) for seed, value in first.items() if seed in second}
    told_apart = {
        seed: value if settled(value - other, max(abs(value), abs(other))) else other
        for seed, (value, other) in shared.items()
    }
    return paired_difference(told_apart, second)


def comparable(sources: Sequence[ShownDirectory], names: Sequence[str]) -> list[str]:
    """What can be compared between several directories, in sentences."""
    if len(sources) < 2:
        return []
    said = []
    experiments = list(dict.fromkeys(source.experiment for source in sources))
    if len(experiments) == 1:
        said.append(f"All are of {experiments[0]}: settings, claims, curves and differences can be compared.")
    else:
        shared = _shared([_columns(source) for source in sources])
        said.append(
            f"They are of different experiments ({', '.join(experiments)}). What an arm or a setting means differs "
            "between them: claims stand side by side, and no difference between experiments is taken."
        )
        said.append(
            f"Columns that all record are drawn on the same axes: {', '.join(shared)}."
            if shared
            else "They record no column in common: no curves share axes."
        )
    scales = {name: source.config["scale"] for name, source in zip(names, sources, strict=True)}
    if len(set(scales.values())) > 1:
        said.append("Their scales differ: " + ", ".join(f"{name} is {scale}" for name, scale in scales.items()) + ".")
    return said


def _columns(source: ShownDirectory) -> list[str]:
    records = (record for run in source.runs for record in run.records[-1:])
    return list(dict.fromkeys(name for record in records for name, value in record.items()
                              if name != "step" and number(value) is not None))  # fmt: skip


def _shared(several: Sequence[Sequence[str]]) -> list[str]:
    return [name for name in several[0] if all(name in each for each in several)]
