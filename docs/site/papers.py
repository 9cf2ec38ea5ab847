"""The papers, claim by claim: of each claim the paper's value, ours, the verdict and the command, from `results/`."""

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
from lowland.training.undecided import deciding  # noqa: E402

#: Verdict → the heading of its claims, and what stands below it.
KINDS = {
    "holds": ("What Lowland confirms", "The run got to where the claim speaks, and the claim held there."),
    "fails": ("What Lowland does not confirm", "The run got to where the claim speaks, and there the claim was wrong."),
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
experiments or about experiments of ours: they are counted apart. A few rules have changed after a first run;
[All records](../results/README.md#rules-that-have-changed) says which.
"""
_HOW_TO_READ = """*Reported* is measured without a threshold; *open* has not been run. A claim that was run at several
scales counts once, at the largest one that decides it. Most of our runs are smaller than the papers': fewer images,
narrower networks, fewer epochs. So a claim that fails here fails *at that scale*, and each record says in what it
differs from the paper's. Where a paper gives no number for a claim, its words stand in place of
one. [All records](../results/README.md) has the smaller scales, too.
"""
_HEAD = "| claim | the paper has | ours | holds if | verdict |\n|---|---|---|---|---|"


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
                for entry in summary["claims"]
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
    """How many claims of each paper hold, fail and are open, and how many of ours beside them."""
    rows = []
    for paper, claims in every.items():
        for ours, name in ((False, f"[{heading(claims)}]({paper}.md)"), (True, "claims of ours beside them")):
            counts = [sum(each.kind == kind for each in claims if each.ours is ours) for kind in KINDS]
            rows.append(f"| {name} | {' | '.join(map(str, counts))} |")
    lines = [
        _INTRODUCTION,
        f"| paper | {' | '.join(KINDS)} |",
        "|---|" + "---:|" * len(KINDS),
        *rows,
        "",
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
    said = [
        ", ".join(f"{n} {kind}" for kind, those in counts.items() if (n := sum(each.ours is ours for each in those)))
        for ours in (False, True)
    ]
    lines = [
        f"# {heading(claims)}: claim by claim\n",
        f"{claims[0].experiment.paper}.\n",
        f"The paper's claims: {said[0]}. Ours beside them: {said[1]}.\n",
        "Which command is which result, and how the settings were found:",
        f"[the guide to this paper](../docs/{paper}.md).\n",
    ]
    for kind, (title, below) in KINDS.items():
        if counts[kind]:
            lines += [f"## {title}\n", f"{below}\n", *_tables(counts[kind])]
    lines.append("## The records\n")
    for there in make_index.records():
        if there.name.startswith(f"{paper}-"):
            lines.append(_record(there))
    return "\n".join(lines)


def _tables(claims: list[Found]) -> list[str]:
    """A table for each record, or command, that decides some of the claims."""
    lines: list[str] = []
    by_record: dict[str, list[Found]] = {}
    for each in claims:
        by_record.setdefault(_by(each), []).append(each)
    for by, those in by_record.items():
        rows = [make_index.row_of(each.claim, each.entry) if each.entry else _open_row(each) for each in those]
        lines += [f"{by}\n", _HEAD, *rows, ""]
        decided = [each.entry["decided_by"] for each in those if each.entry and each.kind == "undecided"]
        if commands := dict.fromkeys(f"`{by['command']}`" for by in decided if by):
            lines.append(f"What gets there: {', '.join(commands)}.\n")
    return lines


def _open_row(each: Found) -> str:
    """The row of a claim that nothing has decided."""
    empty = {"measured": None, "threshold": each.claim.threshold, "passed": None, "reason": ""}
    return re.sub(r"\| (undecided|reported) \|$", "| not run |", make_index.row_of(each.claim, empty))


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
    text = re.sub(rf"(?<!!)\[([\w.-]+)\]\(({folder}/[^)]*\.png)\)", r"![\1](\2)", text)
    return re.sub(rf"\]\((?={folder}/)", "](../results/", text)
