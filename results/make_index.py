"""Write `README.md` beside this file: every run of every experiment, recorded or open.

    python results/make_index.py [RUN ...]

Each RUN is a finished run directory, whose summary and figures are recorded here first. A test fails while the
index differs from what this writes, so it stays true as experiments are added.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from lowland.papers import experiments
from lowland.training import Claim

HERE = Path(__file__).resolve().parent
_INTRODUCTION = """# Recorded runs

What the papers claim, what they report, and what came out here. Each section is an experiment, at each scale that is
recorded: the command, the machine, and a table of its claims, the paper's own value beside ours. *Holds*, *fails* and
*undecided* are explained below. A record is a run's `summary.json` (settings, final metrics, verdicts, machine and
versions) and its figures. The last table lists what has not been run. This page is written by
`python results/make_index.py`; with a run directory as argument that records a run.

A claim about a difference holds if the whole 95 % interval over seeds lies on the claimed side, fails if it lies whole
on the other, and is undecided between. It is undecided, too, where a run doesn't get to the regime of which the paper
speaks.
Until November 2026 a difference whose mean lay on the wrong side counted as false, whatever its interval. No verdict of
the runs below changed by the new rule. Laptop runs of `cifar10`, `cifar100`, `finetune`, `label-noise`, `convergence`,
`cifar-mnist`, `fmnist-mnist`, `domainbed` and `toy` were recorded here before. The settings of those experiments have
changed, and most of the runs ended far from the regimes of the claims; so they gave way. By the new rule
`sam-beats-erm` of `cifar10`, and `hard-feature` and `last-layer` of `cifar-mnist`, false then, would be undecided.

Beside the experiments: [the SAM family on Fashion-MNIST](family-fashion-mnist/README.md), made by
`python benchmarks/compare_family.py`; and [error against m](andriushchenko2022-cifar10-m/README.md), down to m = 1, of
short runs.
"""
_SCALES = ("paper", "desk", "laptop")
_VERDICTS = {True: "holds", False: "**fails**", None: "undecided"}


def folder(experiment: str, scale: str) -> Path:
    """Where a run is recorded."""
    return HERE / f"{experiment.replace('/', '-')}-{scale}"


def record(run: Path) -> None:
    """Copy summary and figures of the finished run under ``run``; the seconds it took are in the summary."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    target = folder(summary["experiment"], summary["scale"])
    target.mkdir(exist_ok=True)
    for arm, metrics in summary["metrics"].items():  # whole curves are in the figures, and are too long to keep
        summary["metrics"][arm] = {key: value for key, value in metrics.items() if not isinstance(value, list)}
    (target / "summary.json").write_text(json.dumps(summary) + "\n", encoding="utf-8")
    for figure in sorted((run / "figures").glob("*.png")):
        shutil.copy(figure, target)


def section(name: str, scale: str) -> str:
    """A recorded run: how it was made, its claims, its figures, what is to be said of it."""
    there = folder(name, scale)
    summary = json.loads((there / "summary.json").read_text(encoding="utf-8"))
    machine = summary["environment"]
    arms = (summary["metrics"][arm] for arm in summary["config"]["arms"])
    seconds = sum(value for arm in arms for key, value in arm.items() if key.endswith("_seconds"))
    seeds = len({arm["seed"] for arm in summary["config"]["arms"].values()})
    lines = [
        f"### {name}, {scale}\n",
        f"`lowland run {name} --scale {scale}`: {machine['time']}, {machine['device']}, torch {machine['torch']}, "
        f"{seconds:.0f} s; {seeds} {'seed' if seeds == 1 else 'seeds'}. [summary]({there.name}/summary.json)\n",
        "| claim | the paper has | ours | holds if | verdict |",
        "|---|---|---|---|---|",
        *(_claim(claim, entry) for claim, entry in zip(experiments()[name].claims, summary["claims"], strict=True)),
        "",
        " ".join(f"[{figure.stem}]({there.name}/{figure.name})" for figure in sorted(there.glob("*.png"))),
    ]
    note = there / "note.md"
    return "\n".join(lines) + "\n" + (f"\n{note.read_text(encoding='utf-8')}" if note.exists() else "")


def _claim(claim: Claim, entry: dict[str, Any]) -> str:
    value = "" if claim.reference is None else claim.reference.value
    shown = f"{value:.3g}" if isinstance(value, float) else value
    paper = "" if claim.reference is None else f"{shown} ({claim.reference.where})"
    ours = "" if entry["measured"] is None else f"{entry['measured']:.3g}"
    verdict = _VERDICTS[entry["passed"]] if entry["threshold"] or entry["passed"] is not None else "reported"
    reason = f": {entry['reason']}" if entry["reason"] else ""
    cells = [f"{entry['text']} (`{entry['id']}`)", paper, ours, entry["threshold"] or "", verdict + reason]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def index() -> str:
    """The whole page."""
    every = [(name, scale) for name in experiments() for scale in _SCALES if scale in experiments()[name].scales]
    recorded = [run for run in every if (folder(*run) / "summary.json").exists()]
    pages, paper = [_INTRODUCTION], ""
    for name, scale in recorded:
        if experiments()[name].paper != paper:
            paper = experiments()[name].paper
            pages.append(f"## {paper}\n")
        pages.append(section(name, scale))
    rows = [
        f"| `lowland run {name} --scale {scale}` | {experiments()[name].cost[scale]} |"
        for name, scale in every
        if (name, scale) not in recorded
    ]
    pages.append("## Not run yet\n\n| command | expected cost |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(pages)


if __name__ == "__main__":
    for run in sys.argv[1:]:
        record(Path(run))
    (HERE / "README.md").write_text(index(), encoding="utf-8")
