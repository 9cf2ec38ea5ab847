"""The SAM family on Fashion-MNIST at an equal number of gradients: test error over five seeds.

    python benchmarks/compare_family.py [--out results/family-fashion-mnist] [--only SAM ASAM] [--processes 1]

Everything is fixed here before a run: 5,000 training images (the first of a random order), 5,000 others for
validation, the publishers' test set; a convolutional network with batch norm; SGD with momentum 0.9, weight decay
0.0005, cosine schedule, batches of 128. Every rule gets the gradients of 30 epochs of SGD. SGD's learning rate is
chosen first, of four, and is then everybody's; each rule's rho is chosen of four, by the mean validation error of two
seeds that the comparison itself doesn't use. A run is a line of ``runs.jsonl``: those that are there are not made
again. At the end it writes ``comparison.json``, a page of it, and ``comparison.png``.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.data import load
from lowland.files import write_atomically
from lowland.optim import SAM, presets, with_previous
from lowland.training.environment import environment

TRAIN, VALIDATION, BATCH, EPOCHS = 5_000, 5_000, 128, 30
BUDGET = EPOCHS * (TRAIN // BATCH)  # gradients
SELECTION_SEEDS, SEEDS = (100, 101), (0, 1, 2, 3, 4)
LEARNING_RATES = (0.02, 0.05, 0.1, 0.2)

# What a step costs in gradients, and the radii that are tried: around what the papers use, where that is known.
USUAL = (0.02, 0.05, 0.1, 0.2)
RULES: dict[str, tuple[float, tuple[float, ...]]] = {
    "SAM": (2, USUAL),
    "SAM, previous batch": (2, USUAL),
    "USAM": (2, USUAL),
    "ASAM": (2, (0.2, 0.5, 1.0, 2.0)),
    "MultiStepSAM": (3, USUAL),
    "PreviousSAM": (1, USUAL),
    "RandomSAM": (1, (0.1, 0.3, 1.0, 3.0)),
    "FriendlySAM": (2, USUAL),
    "MomentumSAM": (1, (0.1, 0.3, 1.0, 3.0)),
    "LESAM": (2, (0.02, 0.05, 0.1, 0.35)),
    "GSAM": (2, USUAL),
    "LookSAM": (1 + 1 / 5, USUAL),
    "WSAM": (2, USUAL),
    "ESAM": (1 + (1 + 2 * 0.5) / 3, USUAL),
    "StepSizeSAM": (2, USUAL),
    "SAMON": (2, (0.1, 0.3, 1.0, 3.0)),
    "LSAM": (2, USUAL),
    "PeriodicSAM": (1 + 1 / 5, USUAL),
    "LateSAM": (1.5, USUAL),
    "EarlySAM": (1.5, USUAL),
    # Added when the others were there, to see whether alpha is what LookSAM suffers from.
    "LookSAM, alpha 0.4": (1 + 1 / 5, USUAL),
}


def network() -> nn.Module:
    """Three convolutions with batch norm, and a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4 * 4, 10))


def splits() -> dict[str, tuple[Tensor, Tensor]]:
    """Images, scaled and centred by the training images' mean and deviation, and classes."""
    data = load("fashion-mnist")
    order = torch.randperm(len(data.train.inputs), generator=torch.Generator().manual_seed(0))
    chosen = {"train": order[:TRAIN], "validation": order[TRAIN : TRAIN + VALIDATION]}
    found = {name: (data.train.inputs[i].float(), data.train.targets[i]) for name, i in chosen.items()}
    found["test"] = data.test.inputs.float(), data.test.targets
    mean, deviation = found["train"][0].mean(), found["train"][0].std()
    return {name: (((x - mean) / deviation).reshape(-1, 1, 28, 28), y.long()) for name, (x, y) in found.items()}


def batches(steps: int, seed: int) -> Iterator[Tensor]:
    """Indices, in a new order each epoch."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(TRAIN, generator=generator)
        yield order[:BATCH]
        order = order[BATCH:]


def error(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Share of wrong answers in percent, and mean loss."""
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(part) for part in x.split(1000)])
    model.train()
    return 100 * (outputs.argmax(1) != y).float().mean().item(), F.cross_entropy(outputs, y).item()


def optimizer_of(rule: str, base: torch.optim.Optimizer, model: nn.Module, rho: float, steps: int) -> SAM:
    """The preset."""
    if rule == "SGD":
        return SAM(base, rho=0.0, model=model)
    own = {"LateSAM": {"start": steps // 2}, "EarlySAM": {"end": steps // 2}, "LookSAM, alpha 0.4": {"alpha": 0.4}}
    return getattr(presets, rule.split(",")[0])(base, rho=rho, model=model, **own.get(rule, {}))


def train(data: dict[str, tuple[Tensor, Tensor]], rule: str, lr: float, rho: float, seed: int) -> dict[str, Any]:
    """One run, to its record."""
    started = time.monotonic()
    cost = RULES[rule][0] if rule != "SGD" else 1
    steps = round(BUDGET / cost)
    torch.manual_seed(seed)
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    optimizer = optimizer_of(rule, base, model, rho, steps)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(base, steps)
    x, y = data["train"]
    for climb_on, descend_on in with_previous(batches(steps, seed)):
        if rule == "ESAM":
            loss = optimizer.step(lambda i=descend_on: F.cross_entropy(model(x[i]), y[i], reduction="none"))
        else:
            for index, evaluation in enumerate(optimizer.passes()):
                chosen = climb_on if rule == "SAM, previous batch" and index == 0 else descend_on
                with evaluation:
                    loss = F.cross_entropy(model(x[chosen]), y[chosen])
                    loss.backward()
            optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    measured = {name: error(model, *data[name]) for name in data}
    return {
        "rule": rule, "lr": lr, "rho": rho, "seed": seed, "steps": steps, "diverged": not math.isfinite(loss.item()),
        **{f"{name}_error": value for name, (value, _) in measured.items()},
        **{f"{name}_loss": value for name, (_, value) in measured.items()},
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


_data: dict[str, tuple[Tensor, Tensor]] = {}


def work(job: tuple[str, float, float, int]) -> dict[str, Any]:
    """In a process of its own."""
    torch.set_num_threads(1)
    if not _data:
        _data.update(splits())
    return train(_data, *job)


class Runs:
    """The records, in a file."""

    def __init__(self, path: Path, pool: Any):
        self.path, self.pool = path, pool
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.records = [json.loads(line) for line in lines if line.endswith("}")]

    def make(self, jobs: list[tuple[str, float, float, int]]) -> None:
        """Those that are not there yet."""
        there = {(r["rule"], r["lr"], r["rho"], r["seed"]) for r in self.records}
        missing = [job for job in jobs if job not in there]
        with Progress() as bar, self.path.open("a", encoding="utf-8") as file:
            task = bar.add_task(f"{len(missing)} runs", total=len(missing))
            for record in self.pool.imap_unordered(work, missing):
                self.records.append(record)
                file.write(json.dumps(record) + "\n")
                file.flush()
                bar.update(task, advance=1)

    def of(self, rule: str, seeds: tuple[int, ...], **where: float) -> list[dict[str, Any]]:
        """Records of some seeds, in their order."""
        found = [r for r in self.records if r["rule"] == rule and all(r[key] == value for key, value in where.items())]
        return sorted((r for r in found if r["seed"] in seeds), key=lambda r: r["seed"])

    def validation(self, rule: str, **where: float) -> float:
        """Mean validation error of the seeds that select."""
        found = self.of(rule, SELECTION_SEEDS, **where)
        return statistics.fmean(math.inf if r["diverged"] else r["validation_error"] for r in found)


def interval(values: list[float]) -> float:
    """Half of the 95 % t-interval of a mean of five."""
    return 2.776 * statistics.stdev(values) / math.sqrt(len(values))


def row(runs: Runs, rule: str, lr: float, rho: float) -> dict[str, Any]:
    """What became of one rule."""
    grid = RULES[rule][1] if rule != "SGD" else ()
    tried = {f"{value:g}": runs.validation(rule, lr=lr, rho=value) for value in grid}
    if rule == "SGD":
        tried = {f"lr {value:g}": runs.validation(rule, lr=value) for value in LEARNING_RATES}
    found = runs.of(rule, SEEDS, lr=lr, rho=rho)
    errors = [r["test_error"] for r in found]
    differences = [a - b["test_error"] for a, b in zip(errors, runs.of("SGD", SEEDS, lr=lr), strict=True)]
    return {
        "rule": rule,
        "rho": rho,
        "rho_at_end_of_grid": bool(grid) and rho in (grid[0], grid[-1]),
        "validation_error": tried,
        "steps": found[0]["steps"],
        "test_error": statistics.fmean(errors),
        "test_error_interval": interval(errors),
        "difference_to_sgd": statistics.fmean(differences),
        "difference_interval": interval(differences),
        "train_loss": statistics.fmean(r["train_loss"] for r in found),
        "test_loss": statistics.fmean(r["test_loss"] for r in found),
    }


def main() -> None:
    """Select, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results/family-fashion-mnist")
    parser.add_argument("--only", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        runs = Runs(options.out / "runs.jsonl", pool)
        runs.make([("SGD", lr, 0.0, seed) for lr in LEARNING_RATES for seed in SELECTION_SEEDS])
        lr = min(LEARNING_RATES, key=lambda value: runs.validation("SGD", lr=value))
        runs.make([("SGD", lr, 0.0, seed) for seed in SEEDS])
        runs.make(
            [(rule, lr, rho, seed) for rule in options.only for rho in RULES[rule][1] for seed in SELECTION_SEEDS]
        )
        chosen = {}
        for rule in options.only:
            chosen[rule] = min(RULES[rule][1], key=lambda value, rule=rule: runs.validation(rule, lr=lr, rho=value))
        runs.make([(rule, lr, chosen[rule], seed) for rule in options.only for seed in SEEDS])
    rows = [row(runs, rule, lr, chosen.get(rule, 0.0)) for rule in ("SGD", *options.only)]
    record = {
        "task": "Fashion-MNIST", "train": TRAIN, "validation": VALIDATION, "batch_size": BATCH, "gradients": BUDGET,
        "lr": lr, "momentum": 0.9, "weight_decay": 5e-4, "seeds": SEEDS, "selection_seeds": SELECTION_SEEDS,
        "rows": rows, "environment": environment(torch.device("cpu")),
    }  # fmt: skip
    write_atomically(options.out / "comparison.json", (json.dumps(record, indent=1) + "\n").encode())
    (options.out / "README.md").write_text(page(record), encoding="utf-8")
    draw(rows, options.out / "comparison.png")
    for line in sorted(rows, key=lambda line: line["test_error"]):
        error, beside = line["test_error"], line["difference_to_sgd"]
        print(
            f"{line['rule']:20} rho {line['rho']:<5g} {error:6.2f} ± {line['test_error_interval']:.2f} %   "
            f"to SGD {beside:+.2f} ± {line['difference_interval']:.2f}"
        )


def page(record: dict[str, Any]) -> str:
    """The record for reading, best first."""
    ran_on = record["environment"]
    lines = [
        "# The SAM family on Fashion-MNIST\n",
        f"{record['train']:,} training images, a convolutional network with batch norm, SGD with momentum, "
        f"{record['gradients']:,} gradients of {record['batch_size']} examples for each rule, learning rate "
        f"{record['lr']:g} (chosen for SGD). ρ is chosen on {record['validation']:,} validation images with "
        f"{len(record['selection_seeds'])} seeds that aren't among the {len(record['seeds'])} of the test errors. "
        "± is half of a 95 % t-interval over those; differences to SGD are paired by seed. "
        "`python benchmarks/compare_family.py` made it and says what else was fixed.\n",
        f"Ran on: {ran_on['device']}, torch {ran_on['torch']}, {ran_on['time']}, commit {ran_on['commit']}.\n",
        "![Test errors](comparison.png)\n",
        "| rule | ρ | steps | test error, % | to SGD, points | training loss | validation error by ρ |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in sorted(record["rows"], key=lambda r: r["test_error"]):
        by_rho = ", ".join(f"{rho}: {value:.2f}" for rho, value in r["validation_error"].items())
        rho = f"{r['rho']:g}" + (", an end of its grid" if r["rho_at_end_of_grid"] else "") if r["rho"] else "–"
        beside = f"{r['difference_to_sgd']:+.2f} ± {r['difference_interval']:.2f}" if r["rho"] else "–"
        lines.append(
            f"| {r['rule']} | {rho} | {r['steps']:,} | {r['test_error']:.2f} ± {r['test_error_interval']:.2f} "
            f"| {beside} | {r['train_loss']:.3f} | {by_rho or '–'} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Test errors with their intervals, best first."""
    from matplotlib.figure import Figure

    rows = sorted(rows, key=lambda row: -row["test_error"])
    canvas = Figure(figsize=(6.4, 0.28 * len(rows) + 1.2), layout="constrained")
    axis = canvas.subplots()
    for height, row in enumerate(rows):
        colour = "#D55E00" if row["rule"] == "SGD" else "#0072B2"
        axis.errorbar(row["test_error"], height, xerr=row["test_error_interval"], fmt="o", color=colour, capsize=3)
    labels = [row["rule"] + (f", ρ = {row['rho']:g}" if row["rho"] else "") for row in rows]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.set_xlabel("test error in %, mean and 95 % interval over five seeds")
    axis.set_title(f"Fashion-MNIST, {TRAIN:,} training images, {BUDGET:,} gradients each", fontsize=10)
    axis.grid(axis="x", alpha=0.25)
    canvas.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
