"""Write `README.md` beside this file: every run of every experiment, recorded or open.

    python results/make_index.py [RUN ...]

Each RUN is a finished run directory, whose summary and figures are recorded here first. A test fails while the
index differs from what this writes, so it stays true as experiments are added.
"""

import json
import shutil
import sys
from pathlib import Path

from lowland.papers import experiments

HERE = Path(__file__).resolve().parent
_INTRODUCTION = """# Recorded runs

Every experiment at its paper and laptop scale: the command, what it is expected to cost, and whether a run is
recorded here. A recorded run is its `summary.json` (settings, final metrics, verdict on each claim, machine and
versions) and its figures. Claims that failed stand here as failed, with a note on the cause where it is
known. This page is written by `python results/make_index.py`; with a run directory as argument that records a run.

Beside the experiments: [the SAM family on Fashion-MNIST](family-fashion-mnist/README.md), made by
`python benchmarks/compare_family.py`; and [error against m](andriushchenko2022-cifar10-m/README.md), down to m = 1,
made by `lowland sweep andriushchenko2022/cifar10 --grid m --scale laptop`.

| command | expected cost | state | claims | record |
|---|---|---|---|---|
"""


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


def row(name: str, scale: str) -> str:
    """One line of the table."""
    experiment, there = experiments()[name], folder(name, scale)
    command = f"`lowland run {name} --scale {scale}`"
    if not (there / "summary.json").exists():
        return f"| {command} | {experiment.cost[scale]} | open | | |"
    summary = json.loads((there / "summary.json").read_text(encoding="utf-8"))
    verdicts = {True: "true", False: "**false**", None: "null"}
    claims = ", ".join(f"{claim['id']} {verdicts[claim['passed']]}" for claim in summary["claims"])
    machine = summary["environment"]
    arms = (summary["metrics"][arm] for arm in summary["config"]["arms"])
    seconds = sum(value for arm in arms for key, value in arm.items() if key.endswith("_seconds"))
    state = f"{machine['time']}, {machine['device']}, torch {machine['torch']}, {seconds:.0f} s"
    links = f"[summary]({there.name}/summary.json), [figure]({there.name}/{experiment.figures[0].name}.png)"
    return f"| {command} | {experiment.cost[scale]} | {state} | {claims} | {links} |"


def index() -> str:
    """The whole page."""
    rows = [row(name, scale) for name in experiments() for scale in ("paper", "laptop")]
    notes = [
        f"\n## {name}, {scale}\n\n{note.read_text(encoding='utf-8')}"
        for name in experiments()
        for scale in ("paper", "laptop")
        if (note := folder(name, scale) / "note.md").exists()
    ]
    return _INTRODUCTION + "\n".join(rows) + "\n" + "".join(notes)


if __name__ == "__main__":
    for run in sys.argv[1:]:
        record(Path(run))
    (HERE / "README.md").write_text(index(), encoding="utf-8")
