"""The claims of each directory, with their verdicts, as the page shows them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowland.report.page.shown import ShownDirectory
from lowland.values import Read
from lowland.wording import counted, measured_of, paper_of, place_of, verdict_of


@dataclass(frozen=True)
class ShownClaim:
    """A claim in words.

    Attributes:
        id: its short name.
        text: what it says.
        source: where the paper says so.
        threshold: the condition that it holds under; empty where it is only reported.
        paper: the paper's own value, and where it stands.
        verdict: *holds*, *fails*, *undecided*, *reported* or *not judged yet*.
        measured: the value, with its 95 % interval if it has one.
        at: of a sweep, the settings at which that is.
        over_grid: of a sweep, where it holds, fails and is undecided.
        reason: why it is undecided, or what else is to be said.
        command: what decides it.
    """

    id: str
    text: str
    source: str
    threshold: str
    paper: str
    verdict: str
    measured: str = ""
    at: str = ""
    over_grid: str = ""
    reason: str = ""
    command: str = ""


@dataclass(frozen=True)
class ClaimTable:
    """The claims of directories of one experiment.

    Attributes:
        names: of the directories.
        rows: for each claim what it came to in each of them; None where a directory doesn't know it.
        sweep: whether some of them are sweeps.
        finished: whether all of them are.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[ShownClaim | None]]
    sweep: bool
    finished: bool

    @property
    def told(self) -> list[str]:
        """Of each directory how many claims have which verdict: ``"3 claims: holds 2, undecided 1"``."""
        columns = [[row[index] for row in self.rows] for index in range(len(self.names))]
        counts = [Counter(claim.verdict for claim in column if claim is not None) for column in columns]
        return [
            f"{counted(each.total(), 'claim')}: {', '.join(f'{verdict} {count}' for verdict, count in each.items())}"
            for each in counts
        ]

    @property
    def decided(self) -> bool:
        """Whether anything was measured, or decided."""
        claims = [claim for row in self.rows for claim in row if claim is not None]
        return any(claim.measured or claim.verdict in ("holds", "fails") for claim in claims)


def claims_beside(names: Sequence[str], sources: Sequence[ShownDirectory]) -> list[ClaimTable]:
    """The claims of all directories: a table for each experiment."""
    tables = []
    for experiment in dict.fromkeys(source.experiment for source in sources):
        alike = [(name, source) for name, source in zip(names, sources, strict=True) if source.experiment == experiment]
        claims = [{claim.id: claim for claim in claims_of(source)} for _, source in alike]
        rows = [[each.get(known) for each in claims] for known in dict.fromkeys(id_ for each in claims for id_ in each)]
        of = [source for _, source in alike]
        tables.append(
            ClaimTable(
                [name for name, _ in alike], rows, any(each.is_sweep for each in of), all(each.finished for each in of)
            )
        )
    return tables


def claims_of(source: ShownDirectory) -> list[ShownClaim]:
    """The claims of a directory; while it is under way those that will be judged at the end."""
    if source.summary is not None:
        return [_judged(claim) for claim in source.summary["claims"]]
    told = source.description["claims"] if source.description else []
    return [
        ShownClaim(claim["id"], claim["text"], claim["source"], claim.get("threshold") or "", paper_of(claim),
                   "not judged yet")
        for claim in told
    ]  # fmt: skip


def _judged(claim: Mapping[str, Read]) -> ShownClaim:
    by = claim.get("decided_by")
    return ShownClaim(
        claim["id"], claim["text"], claim["source"], claim.get("threshold") or "", paper_of(claim), verdict_of(claim),
        measured_of(claim), place_of(claim), claim.get("over_grid", ""), claim["reason"],
        "" if by is None else by["command"],
    )  # fmt: skip
