"""Write `README.md` beside this file: every run of every experiment, recorded or open.

    python results/make_index.py [RUN ...]

Each RUN is the directory of a finished run or sweep, whose summary and figures are recorded here first; one whose
claims are no longer the experiment's is refused. Of a sweep that isn't finished the runs that are finished are kept in
`under-way/`, so that it can go on elsewhere. A test fails while the index differs from what this writes, so it
stays true as experiments are added.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowland.experiments import sweeping
from lowland.papers import COSTS_ARE_OF, experiments
from lowland.training import Claim
from lowland.training.settings import values_of
from lowland.training.sweep.directory import find_parts
from lowland.wording import counted

HERE = Path(__file__).resolve().parent
KEPT = HERE / "under-way"
_INTRODUCTION = """# Recorded runs

What the papers claim, what they report, and what came out here. Each section is an experiment, at each scale that is
recorded: the command, the machine, and a table of its claims, the paper's own value beside ours. *Holds*, *fails* and
*undecided* are explained below. A record is a run's `summary.json` (settings, final metrics, verdicts, machine and
versions), its figures, and, since the end of November, its `metrics.jsonl` where that is short. `python results/last.py
RECORD COLUMN` prints a record's last values by kind of arm, over seeds. The line under a command says what is other
than at paper scale, each with the paper scale's value behind it; what is other there than in the paper itself `lowland
show` marks ours. The last table lists what has not been run. This page is written by `python results/make_index.py`;
with a run directory as argument that records a run.

A claim about a difference holds if the whole 95 % interval over seeds lies on the claimed side, fails if it lies whole
on the other, and is undecided between. It is undecided, too, where a run doesn't get to the regime of which the paper
speaks. A run is judged anew, from its records, by the same command once its `summary.json` is removed.

Beside the experiments: [the SAM family on Fashion-MNIST](family-fashion-mnist/README.md), made by
`python benchmarks/compare_family.py`; and [error against m](andriushchenko2022-cifar10-m/README.md), down to m = 1, of
short runs.
"""
_WHOLE = "No setting is other than at our paper scale; `lowland show` says which are ours, where the paper gives none."
_HISTORY = """## Rules that have changed

Until November 2026 a difference whose mean lay on the wrong side counted as false, whatever its interval. No verdict of
the runs above changed by the new rule.

Laptop runs of `cifar10`, `cifar100`, `finetune`, `label-noise`, `convergence`,
`cifar-mnist`, `fmnist-mnist`, `domainbed` and `toy` were recorded here before. The settings of those experiments have
changed, and most of the runs ended far from the regimes of the claims; so they gave way. By the new rule
`sam-beats-erm` of `cifar10`, and `hard-feature` and `last-layer` of `cifar-mnist`, false then, would be undecided.

Since the end of November claims of `convergence` take a run twice as long as ERM needs: a run of 25 epochs, in which
both failed, gave way to one of 100. Claims of `long2024` about alignment and flatness take a run that gets to SAM's
edge, and that of `springer2024` about the easy feature fails above its margin alone: no verdict above changed by these
two. Where neither SAM nor SGD makes an error on the easy feature that claim holds vacuously, and says so; by the rule
for differences alone, seeds that all give the same would leave it undecided.
"""
_NOT_RUN = f"""## Not run yet

The commands of which there is no record above, and how long each takes. An experiment has up to three sizes, its
scales: *paper* as in the paper, or as near as we come; *desk* small enough for an evening on two cores, and mostly
large enough to decide the claims; *laptop* a few minutes, to see that it works. The last column leads to records of the
same experiment at another scale; where it is empty there is none at any. Whoever runs one can record it, with the
command in the introduction. {COSTS_ARE_OF}

| command | expected cost | the same experiment above |
|---|---|---|
"""
SCALES = ("paper", "desk", "laptop")
SHORT = 200_000  # bytes of a `metrics.jsonl`
_CHECKS = ("seed", "check_every", "check_epochs", "line_points", "line_examples", "sharpness_examples")
VERDICTS = {True: "holds", False: "**fails**", None: "undecided"}
#: Of a table of claims. The verdict stands before the numbers, where a phone shows it.
HEAD = ("| claim | verdict | the paper has | ours | holds if |", "|---|---|---|---|---|")


def folder(experiment: str, scale: str, grid: str | None = None, dataset: str | None = None) -> Path:
    """Where a run, or the sweep over ``grid``, is recorded; a data set other than the scale's is part of the name."""
    parts = [experiment.replace("/", "-"), *([dataset] if dataset else []), *([f"sweep-{grid}"] if grid else []), scale]
    return HERE / "-".join(parts)


def record(run: Path) -> None:
    """Copy summary and figures of the finished run or sweep under ``run``; the seconds it took are in the summary.

    A run's `metrics.jsonl`, from which what is said of its course can be checked, is kept if it is short.

    Raises:
        SystemExit: if it was judged by other claims than the experiment has now, or made by settings that no command
            here would name.
    """
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    experiment = experiments()[summary["experiment"]]
    if [claim["id"] for claim in summary["claims"]] != [claim.id for claim in experiment.claims]:
        raise SystemExit(
            f"{run} was judged by other claims than {experiment.name} has now: remove its summary.json and run the "
            "same command, which judges its records anew"
        )
    grid = grid_of(summary) if summary["config"].get("sweep") else None
    if summary["config"].get("sweep") and grid is None:
        raise SystemExit(f"{run} is a sweep over none of {experiment.name}'s own grids at {summary['scale']} scale")
    target = folder(summary["experiment"], summary["scale"], grid, dataset_of(summary))
    target.mkdir(exist_ok=True)
    for arm, metrics in summary["metrics"].items():  # lists are in the figures, and too long to keep
        if isinstance(metrics, dict):
            summary["metrics"][arm] = {key: value for key, value in metrics.items() if not isinstance(value, list)}
    (target / "summary.json").write_text(json.dumps(summary) + "\n", encoding="utf-8")
    for figure in sorted((run / "figures").glob("*.png")):
        shutil.copy(figure, target)
    course = run / "metrics.jsonl"
    if course.exists() and course.stat().st_size <= SHORT:
        shutil.copy(course, target)


def keep(sweep: Path) -> None:
    """Copy what is finished of a sweep, in place of what was kept before: configurations and records, no networks.

    Raises:
        SystemExit: if it isn't a sweep, or one over a grid that no command here would name.
    """
    described = _described(sweep)
    grid = grid_of(described)
    if grid is None:
        raise SystemExit(f"{sweep} is a sweep over none of {described['experiment']}'s own grids")
    target = KEPT / folder(described["experiment"], described["scale"], grid, dataset_of(described)).name
    shutil.rmtree(target, ignore_errors=True)
    for part in find_parts(sweep, experiments()[described["experiment"]]):
        if part.finished:
            shutil.copytree(part.path, target / "runs" / part.path.name, ignore=shutil.ignore_patterns("*.pt", ".lock"))
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "about.json"):
        shutil.copy(sweep / name, target)


def _described(sweep: Path) -> dict[str, Any]:
    """What a summary says of a sweep's settings and grid, of one that has no summary yet."""
    config, about = (json.loads((sweep / name).read_text(encoding="utf-8")) for name in ("config.json", "about.json"))
    if not config.get("sweep"):
        raise SystemExit(f"{sweep} is a run that isn't finished: the same command finishes it")
    return {**config, "config": {**config, "grid": about["grid"]}}


def _under_way() -> list[str]:
    """The section on the sweeps that are kept, if there are any."""
    rows = []
    for there in sorted(path.parent for path in KEPT.glob("*/config.json")):
        described, out = _described(there), f"runs/{there.name}"
        done = sum(len(part.ended) for part in find_parts(there, experiments()[described["experiment"]]))
        of = len(described["config"]["grid"]["points"])
        commands = f"`cp -r results/under-way/{there.name} {out}`, then `{command(described)} --out {out}`"
        rows.append(f"| {commands} | {done} of {of} |")
    head = (
        "## Under way\n\nSweeps of which a part is finished. The commands, in a clone of Lowland, train the rest.\n\n"
        "| commands | runs finished |\n|---|---|\n"
    )
    return [head + "\n".join(rows) + "\n"] if rows else []


def settings_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Those that all runs have alike, of its first."""
    config = summary["config"]
    return dict(config["settings"] if config.get("sweep") else next(iter(config["arms"].values())))


def dataset_of(summary: dict[str, Any]) -> str | None:
    """The data set of a summary, if it isn't the one that the experiment has at that scale."""
    usual = experiments()[summary["experiment"]].values(summary["scale"]).get("dataset")
    there = settings_of(summary).get("dataset")
    return None if usual is None or there == usual.value else str(there)


def grid_of(summary: dict[str, Any]) -> str | None:
    """The name of the experiment's grid that a sweep covers, or None."""
    experiment = experiments()[summary["experiment"]]
    changes = {"dataset": dataset} if (dataset := dataset_of(summary)) else {}
    base = sweeping.base_settings(experiment, summary["scale"], changes)
    for name in experiment.grids:
        grid = sweeping.choose_grid(experiment, name, base, {})
        points = {label: {key: getattr(at, key) for key in grid.varied} for label, at in grid.points.items()}
        if json.loads(json.dumps(points)) == summary["config"]["grid"]["points"]:
            return name
    return None


def command(summary: dict[str, Any]) -> str:
    """The line that makes such a record."""
    verb, grid = "run", ""
    if summary["config"].get("sweep"):
        verb, grid = "sweep", f" --grid {grid_of(summary)}"
    dataset = dataset_of(summary)
    change = f" --set dataset={dataset}" if dataset else ""
    return f"lowland {verb} {summary['experiment']}{grid} --scale {summary['scale']}{change}"


def section(there: Path) -> str:
    """A record: how it was made, its claims, its differences, its figures, what is to be said of it."""
    summary = json.loads((there / "summary.json").read_text(encoding="utf-8"))
    experiment, machine = experiments()[summary["experiment"]], summary["environment"]
    swept = bool(summary["config"].get("sweep"))
    runs = [summary["metrics"][arm] for arm in ({} if swept else summary["config"]["arms"])] or [
        *summary["metrics"].values()
    ]
    seconds = sum(value for arm in runs for key, value in arm.items() if key.endswith("_seconds"))
    seeds = len(summary["seed"] if swept else {arm["seed"] for arm in summary["config"]["arms"].values()})
    diverged = sum(arm["status"] == "diverged" for arm in runs)
    lines = [
        f"### {title(summary)}\n",
        f"`{command(summary)}`: {machine['time']}, {machine['device']}, torch {machine['torch']}, "
        f"{seconds:.0f} s; {counted(len(runs), 'run')}, {counted(seeds, 'seed')}"
        + (f", {diverged} diverged" if diverged else "")
        + f". [summary]({there.name}/summary.json)\n",
        f"{_unlike_the_paper(summary)}\n",
        *HEAD,
        *(
            row_of(claim, entry, {"text": _figure(claim, there)}, beside(there).get(claim.id, ""))
            for claim, entry in zip(experiment.claims, summary["claims"], strict=True)
        ),
        "",
        *(_differences(summary) if swept else []),
        " ".join(f"[{figure.stem}]({there.name}/{figure.name})" for figure in sorted(there.glob("*.png"))),
    ]
    note = there / "note.md"
    return "\n".join(lines) + "\n" + (f"\n{note.read_text(encoding='utf-8')}" if note.exists() else "")


def figure_of(claim: Claim, there: Path) -> str:
    """The figure that shows a claim in the record ``there``, by name; empty where there is none."""
    return claim.figure if claim.figure and (there / f"{claim.figure}.png").exists() else ""


def said_by(summary: dict[str, Any], there: Path) -> list[dict[str, Any]]:
    """The claims on which a record decides: a sweep of another grid draws no figure of one, and says nothing of it."""
    known = {claim.id: claim for claim in experiments()[summary["experiment"]].claims}
    return [entry for entry in summary["claims"] if entry["id"] in known and figure_of(known[entry["id"]], there)]


def _figure(claim: Claim, there: Path) -> str:
    name = figure_of(claim, there)
    return f"[{name}]({there.name}/{name}.png)" if name else ""


def _unlike_the_paper(summary: dict[str, Any]) -> str:
    """Which of data, network, length and seeds are other than at paper scale, in one sentence."""
    experiment, config = experiments()[summary["experiment"]], summary["config"]
    changes = {"dataset": dataset} if (dataset := dataset_of(summary)) else {}
    if config.get("sweep"):
        name = str(grid_of(summary))
        base = sweeping.base_settings(experiment, "paper", changes)
        whole = name.removesuffix("-desk")  # the grid of the paper's scale
        grid = sweeping.choose_grid(experiment, whole if whole in experiment.grids else name, base, {})
        ours = _shared([config["settings"] | point for point in config["grid"]["points"].values()])
        theirs = _shared([values_of(point) for point in grid.points.values()])
    else:
        ours = _shared(list(config["arms"].values()))
        theirs = _shared([values_of(arm) for arm in experiment.configure("paper", changes).values()])
    found = [
        f"`{name}` {_number(value)} for {_number(theirs[name])}"
        for name, value in ours.items()
        if name in theirs and name not in _CHECKS and value != theirs[name]
    ]
    return f"Other than at paper scale: {', '.join(found)}." if found else _WHOLE


def _shared(several: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings that all of several have alike."""
    first, *others = several
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"


def title(summary: dict[str, Any]) -> str:
    """Experiment, data set and grid where they are others than usual, and scale."""
    what = [dataset_of(summary), f"sweep {grid_of(summary)}" if summary["config"].get("sweep") else None]
    return ", ".join([summary["experiment"], *(each for each in what if each), summary["scale"]])


def _differences(summary: dict[str, Any]) -> list[str]:
    """SAM against ρ = 0 at each point, of the experiment's first outcome."""
    metrics = summary.get("differences", {}).get("metrics", {})
    if not metrics:
        return []
    metric, found = next(iter(metrics.items()))
    names = list(found["points"][0]["settings"])
    rows = []
    for point in found["points"]:
        at, between = list(point["settings"].values()), point["difference"]
        if between is None:
            rows.append("| " + " | ".join([*map(str, at), "", "", "", "all diverged"]) + " |")
            continue
        interval = between["interval_95"]
        spread = "" if interval is None else f"{interval[0]:.2g} to {interval[1]:.2g}"
        p = "" if point["p_holm"] is None else f"{point['p_holm']:.2g}"
        rows.append("| " + " | ".join([*map(str, at), f"{between['mean']:+.3g}", spread, p, _side(point)]) + " |")
    trends = [
        f"Trend of `{metric}` with ρ{_where(trend['settings'])}: {trend['per_decade']['mean']:+.2g} for each tenfold ρ"
        + ("" if (i := trend["per_decade"]["interval_95"]) is None else f" (95 % interval {i[0]:.2g} to {i[1]:.2g})")
        + _without_largest(trend)
        + "."
        for trend in found["trends"]
    ]
    head = f"| {' | '.join(names)} | `{metric}` less that of ρ = 0 | 95 % interval | p (Holm) | |"
    return [head, "|" + "---|" * (len(names) + 4), *rows, "", *([" ".join(trends), ""] if trends else [])]


def _without_largest(trend: dict[str, Any]) -> str:
    without = trend.get("without_largest")
    return f"; {without['mean']:+.2g} without the largest ρ, {trend['largest']:g}" if without else ""


def _side(point: dict[str, Any]) -> str:
    alone = point["verdict"] in ("below", "above") and not point.get("stands", True)
    return f"{point['verdict']}, not when corrected" if alone else str(point["verdict"])


def _where(settings: dict[str, Any] | None) -> str:
    if settings is None:
        return ", over all"
    return "".join(f", {name} = {value}" for name, value in settings.items())


def verdict_of(entry: dict[str, Any]) -> str:
    """What a claim's entry came to, in one word; reported is what has no threshold."""
    return VERDICTS[entry["passed"]] if entry["threshold"] or entry["passed"] is not None else "reported"


def beside(there: Path) -> dict[str, str]:
    """Claim → what is to be said beside its verdict in the record ``there``: `beside.json`, if there is one."""
    path = there / "beside.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def row_of(claim: Claim, entry: dict[str, Any], links: Mapping[str, str], said: str = "") -> str:
    """A claim's row of a table below `HEAD`.

    Args:
        claim: as the experiment has it.
        entry: of the record.
        links: what stands behind the claim (``"text"``) and behind the threshold (``"threshold"``), as Markdown.
        said: beside the verdict.
    """
    value = "" if claim.reference is None else claim.reference.value
    shown = f"{value:.3g}" if isinstance(value, float) else value
    paper = "" if claim.reference is None else f"{shown} ({claim.reference.where})"
    ours = "" if entry["measured"] is None else f"{entry['measured']:.3g}"
    verdict = verdict_of(entry)
    reason = f": {entry['reason']}" if entry["reason"] and verdict != "reported" else ""
    text, threshold = f"{claim.text} (`{claim.id}`)", entry["threshold"] or ""
    text, threshold = (
        " ".join(filter(None, (cell, links.get(name)))) for name, cell in (("text", text), ("threshold", threshold))
    )
    cells = [text, ". ".join(filter(None, (verdict + reason, said))), paper, ours, threshold]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _glance() -> str:
    """A row for each experiment, of its largest recorded scale: its claims by verdict."""
    rows, seen = [], set()
    for there in records():
        summary = json.loads((there / "summary.json").read_text(encoding="utf-8"))
        named = title(summary)
        if (what := named.removesuffix(f", {summary['scale']}")) in seen:
            continue
        seen.add(what)
        verdicts: dict[str, list[str]] = {word: [] for word in (*VERDICTS.values(), "reported")}
        for entry in said_by(summary, there):
            vacuous = " (vacuously)" if entry["reason"].startswith("vacuously") else ""
            verdicts[verdict_of(entry)].append(f"`{entry['id']}`{vacuous}")
        cells = [f"[{named}](#{_anchor(summary)})", experiments()[summary["experiment"]].title]
        cells += [", ".join(of) for of in verdicts.values()]
        rows.append("| " + " | ".join(cells) + " |")
    head = (
        "## At a glance\n\n| record | what it is about | holds | **fails** | undecided | reported, no threshold |\n"
        "|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def _anchor(summary: dict[str, Any]) -> str:
    """Where on the page a record stands."""
    return title(summary).replace("/", "").replace(", ", "-").replace(" ", "-")


def index() -> str:
    """The whole page."""
    every = [(name, scale) for name in experiments() for scale in SCALES if scale in experiments()[name].scales]
    pages, paper = [_INTRODUCTION, _glance()], ""
    above: dict[str, list[str]] = {}
    for there in records():
        summary = json.loads((there / "summary.json").read_text(encoding="utf-8"))
        name = summary["experiment"]
        above.setdefault(name, []).append(f"[{summary['scale']}](#{_anchor(summary)})")
        if experiments()[name].paper != paper:
            paper = experiments()[name].paper
            pages.append(f"## {paper}\n")
        pages.append(section(there))
    recorded = [run for run in every if (folder(*run) / "summary.json").exists()]
    rows = [
        f"| `lowland run {name} --scale {scale}` | {experiments()[name].cost[scale]} | {beside_it} |"
        for name, scale in every
        for beside_it in [", ".join(above.get(name, []))]
        if not any(name == other and _alike(name, scale, at) for other, at in recorded)
    ]
    pages.append(_NOT_RUN + "\n".join(rows) + "\n")
    return "\n".join([*pages, *_under_way(), _HISTORY])


def _alike(name: str, scale: str, other: str) -> bool:
    """Whether two scales of an experiment are the same run."""
    experiment = experiments()[name]
    return experiment.configure(scale, {}) == experiment.configure(other, {})


def records() -> list[Path]:
    """Every record, by experiment, the larger scale first."""
    order = {}
    for path in HERE.glob("*/summary.json"):
        summary = json.loads(path.read_text(encoding="utf-8"))
        order[path.parent] = (summary["experiment"], SCALES.index(summary["scale"]), path.parent.name)
    return sorted(order, key=lambda there: order[there])


if __name__ == "__main__":
    for run in map(Path, sys.argv[1:]):
        record(run) if (run / "summary.json").exists() else keep(run)
    (HERE / "README.md").write_text(index(), encoding="utf-8")
