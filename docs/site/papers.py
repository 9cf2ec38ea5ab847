"""The papers, claim by claim: of each claim the paper's value, ours, the verdict and the command, from `results/`."""

import hashlib
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "results"))

import make_index  # noqa: E402 - it stands in results/
from lowland.papers.claims import NOT_IN_PAPER  # noqa: E402
from lowland.training import Claim, Experiment  # noqa: E402
from lowland.training.deciding_command import deciding  # noqa: E402

#: Verdict → the heading of its claims, and what stands below it.
KINDS = {
    "holds": ("What Lowland confirms", "The run got to where the claim speaks, and the claim held there."),
    "fails": (
        "What Lowland does not confirm",
        "The run got to where the claim speaks, and the claim did not hold there, at that scale.",
    ),
    "undecided": (
        "What is undecided",
        "The seeds can't tell, or the run doesn't get to where the claim speaks. Why stands behind each.",
    ),
    "reported": (
        "What is measured without a verdict",
        "These values are recorded beside the paper's; no threshold was set.",
    ),
    "open": (
        "What has not been run",
        "No run is recorded yet: most take hours, and the photographs of CelebA, Waterbirds and DomainBed have to be "
        "placed by hand. The command decides it, or says which one does.",
    ),
}
_INTRODUCTION = """# The papers, claim by claim

Lowland runs the experiments of three papers again, and judges what they claim. A claim is a sentence with a threshold.
It *holds*, *fails*, or is *undecided*; of a difference between methods the whole 95 % interval over seeds decides.
Every table names the command that runs it again, and links to the record. Some claims are our own, about the papers'
experiments or about experiments of ours: they are counted in a table of their own. A few rules have changed after a
first run; [All records](../results/README.md#rules-that-have-changed) says which.
"""
_HOW_TO_READ = """*Reported* is measured without a threshold; *open* has not been run. A claim that was run at several
scales counts once, at the largest one that decides it. Most of our runs are smaller than the papers': fewer images,
narrower networks, fewer epochs. So a claim that fails here fails *at that scale*, and each record says in what it
differs from the paper's. Where a paper gives no number for a claim, its words stand in place of
one. [All records](../results/README.md) has the smaller scales, too.
"""


@dataclass(frozen=True)
class Found:
    """What became of one claim of one experiment.

    Attributes:
        experiment: that makes it.
        claim: as the experiment has it.
        entry: of the record that counts; None where nothing is recorded.
        summary: of that record, and where it lies; None likewise.
    """

    experiment: Experiment
    claim: Claim
    entry: dict[str, Any] | None = None
    summary: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """Its verdict, a key of `KINDS`."""
        return "open" if self.entry is None else make_index.verdict_of(self.entry).strip("*")

    @property
    def of_our_experiment(self) -> bool:
        """Whether the whole experiment is not the paper's."""
        return "(ours)" in self.experiment.title

    @property
    def ours(self) -> bool:
        """Whether the claim, or the whole experiment, is not the paper's."""
        return self.claim.reference == NOT_IN_PAPER or self.of_our_experiment


def found() -> dict[str, list[Found]]:
    """Paper → its claims, each with the record that counts: of the largest scale at which it was decided."""
    recorded: dict[str, list[dict[str, Any]]] = {}
    for there in make_index.records():  # the larger scale first
        summary = json.loads((there / "summary.json").read_text(encoding="utf-8"))
        recorded.setdefault(summary["experiment"], []).append({**summary, "folder": there})
    every: dict[str, list[Found]] = {}
    for name, experiment in make_index.experiments().items():
        for claim in experiment.claims:
            entries = [
                Found(experiment, claim, entry, summary)
                for summary in recorded.get(name, [])
                for entry in make_index.said_by(summary, summary["folder"])
                if entry["id"] == claim.id
            ]
            decided = [each for each in entries if each.kind in ("holds", "fails")]
            best = next(iter(decided or entries), Found(experiment, claim))
            every.setdefault(name.partition("/")[0], []).append(best)
    return {paper: sorted(claims, key=lambda each: each.ours) for paper, claims in every.items()}


def write(work: Path) -> None:
    """Write `papers/index.md` and a page for each paper, and copy the figures of the records."""
    (work / "papers").mkdir()
    every = found()
    for paper, claims in every.items():
        (work / "papers" / f"{paper}.md").write_text(page(paper, claims), encoding="utf-8")
    (work / "papers" / "index.md").write_text(overview(every), encoding="utf-8")
    for there in make_index.records():
        (work / "results" / there.name).mkdir(parents=True, exist_ok=True)
        for path in [*there.glob("*.png"), there / "summary.json"]:
            shutil.copy(path, work / "results" / there.name)


def overview(every: dict[str, list[Found]]) -> str:
    """How many claims of each paper hold, fail and are open; and of ours, in a table of their own."""
    lines = [_INTRODUCTION]
    for title, ours in (("What the papers claim", False), ("What we claim beside them", True)):
        rows = {
            f"[{heading(claims)}]({paper}.md)": [
                str(sum((each.kind, each.ours) == (kind, ours) for each in claims)) for kind in KINDS
            ]
            for paper, claims in every.items()
        }
        lines += [f"## {title}\n", *_counted("paper", rows)]
    lines += [
        "## How to read this\n",
        _HOW_TO_READ,
        "```{toctree}\n:hidden:\n",
        *every,
        "```\n",
    ]
    return "\n".join(lines)


def heading(claims: list[Found]) -> str:
    """The paper, without where it appeared."""
    return re.match(r".*?\d{4}", claims[0].experiment.paper)[0]


def page(paper: str, claims: list[Found]) -> str:
    """The claims of a paper, by verdict, and then its records."""
    counts = {kind: [each for each in claims if each.kind == kind] for kind in KINDS}
    lines = [
        f"# {heading(claims)}: claim by claim\n",
        f"{claims[0].experiment.paper}.\n",
        "What became of the paper's own claims, by experiment; each count leads to the claims:\n",
        *_contents([each for each in claims if not each.ours]),
        "And of ours, which the paper doesn't make:\n",
        *_contents([each for each in claims if each.ours]),
        "Which command is which result, and how the settings were found:",
        f"[the guide to this paper](../docs/{paper}.md).\n",
    ]
    for kind, (title, below) in KINDS.items():
        if counts[kind]:
            lines += [f"## {title}\n", f"{below}\n", *_tables(kind, counts[kind])]
    if reasons := _reasons(claims):
        lines.append("## Why these thresholds\n")
        for (threshold, why), names in reasons.items():
            lines.append(f"({_why(threshold, why)})=\n`{threshold}` of {', '.join(names)}: {why}.\n")
    lines.append("## The records\n")
    for there in make_index.records():
        if there.name.startswith(f"{paper}-"):
            lines.append(_record(there))
    return "\n".join(lines)


def _contents(claims: list[Found]) -> list[str]:
    """A table of the experiments and how many of their claims came to what, each number a link."""
    rows = {}
    for name in dict.fromkeys(each.experiment.name for each in claims):
        counts = {kind: sum((each.experiment.name, each.kind) == (name, kind) for each in claims) for kind in KINDS}
        cells = [f"[{count}](#{_place(kind, name)})" if count else "" for kind, count in counts.items()]
        rows[f"`{name.partition('/')[2]}`"] = cells
    return _counted("experiment", rows)


def _counted(what: str, rows: dict[str, list[str]]) -> list[str]:
    """A table of counts by verdict: a cell for each of `KINDS`."""
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return [f"| {what} | {' | '.join(KINDS)} |", "|---|" + "---:|" * len(KINDS), *lines, ""]


def _place(kind: str, experiment: str) -> str:
    """Where on the page the claims of an experiment with that verdict begin."""
    return f"{kind}-{experiment.replace('/', '-')}"


def _reasons(claims: list[Found]) -> dict[tuple[str, str], list[str]]:
    """Threshold and why it is that → the claims that have it."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for claim in (each.claim for each in claims):
        if claim.threshold and claim.why:
            found.setdefault((claim.threshold, claim.why), {})[f"`{claim.id}`"] = None
    return {reason: list(names) for reason, names in found.items()}


def _why(threshold: str, why: str) -> str:
    """Where on the page a threshold's reason stands."""
    return f"why-{hashlib.sha256(f'{threshold} {why}'.encode()).hexdigest()[:8]}"


def _row(each: Found) -> str:
    """A claim's row, with links to its figure and to why its threshold is what it is."""
    claim, there, links = each.claim, each.summary["folder"] if each.summary else None, {}
    if claim.threshold and claim.why:
        links["threshold"] = f"[why](#{_why(claim.threshold, claim.why)})"
    if there and (figure := make_index.figure_of(claim, there)):
        links["text"] = f"[figure](#{_shown(there, figure)})"
    entry = each.entry or {"measured": None, "threshold": claim.threshold, "passed": None, "reason": ""}
    row = make_index.row_of(claim, entry, links, make_index.beside(there).get(claim.id, "") if there else "")
    return row if each.entry else re.sub(r" \| (undecided|reported) \| ", " | open | ", row, count=1)


def _shown(there: Path, figure: str) -> str:
    """Where on the page a figure of a record stands."""
    return f"{there.name}-{figure}"


def _tables(kind: str, claims: list[Found]) -> list[str]:
    """A table for each record, or command, that decides some of the claims."""
    lines: list[str] = []
    begun: set[str] = set()
    by_record: dict[str, list[Found]] = {}
    for each in claims:
        by_record.setdefault(_by(each), []).append(each)
    for by, those in by_record.items():
        names = dict.fromkeys(each.experiment.name for each in those)
        lines += [f"({_place(kind, name)})=" for name in names if name not in begun]
        begun |= set(names)
        lines += [f"{by}\n", *make_index.HEAD, *map(_row, those), ""]
        decided = [each.entry["decided_by"] for each in those if each.entry and each.kind == "undecided"]
        if commands := dict.fromkeys(f"`{by['command']}`" for by in decided if by):
            lines.append(f"What gets there: {', '.join(commands)}.\n")
    return lines


def _by(each: Found) -> str:
    """The command that decided a claim, or would."""
    if each.summary is None:
        verb, grid = ("sweep", f" --grid {each.claim.grid}") if each.claim.grid else ("run", "")
        scale = deciding(each.experiment, each.claim)[0]
        return f"`lowland {verb} {each.experiment.name}{grid} --scale {scale}`"
    ours = ", ours and not the paper's" if each.of_our_experiment else ""
    return f"`{make_index.command(each.summary)}`{ours} ([the record](#{_anchor(make_index.title(each.summary))}))"


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _record(there: Path) -> str:
    """A record's section of the index, its figures shown, without the table of claims."""
    text, folder = make_index.section(there), re.escape(there.name)
    text = re.sub(r"^\| claim \|.*?\n\n", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(
        rf" ?(?<!!)\[([\w.-]+)\]\(({folder}/[^)]*\.png)\)",
        lambda found: f"({_shown(there, found[1])})=\n![{found[1]}]({found[2]})\n\n",
        text,
    )
    return re.sub(rf"\]\((?={folder}/)", "](../results/", text)
