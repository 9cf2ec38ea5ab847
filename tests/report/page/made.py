"""Run and sweep directories as training writes them, of made-up records."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from lowland import training
from lowland.experiments.sweeping import configuration
from lowland.training import Curve, Figure, Outcome, Selection
from lowland.training.sweep.summary import summarize_sweep

from ...fakes import TOY

CPU = torch.device("cpu")
EXPERIMENT = replace(
    TOY,
    title="A toy <b>of</b> records & claims",
    paper="A paper on toys",
    selection=Selection("loss", "training"),
    outcomes=(Curve("loss", "training loss"), Curve("error", "test error")),
    figures=(
        Figure("norm", "Hessian norm", "norm", (Curve("norm", "Hessian norm"), Curve("edge", "SAM edge", "--"))),
        Figure("loss", "Loss", "loss", (Curve("loss", "loss"),)),
    ),
)
SETTINGS = EXPERIMENT.configure("paper", {})["sam"]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645"
    "400000000049454e44ae426082"
)


def records(settings, steps, value=1.0, columns=()):
    """The records of one run: curves that fall, with peaks; ``columns`` are further names."""
    return [
        {
            "step": step,
            "loss": value * math.exp(-step / 20) + 0.01 * settings.seed,
            "error": 0.5 * value / (1 + step),
            "norm": value * (1 + step),
            "edge": 2 / settings.lr,
            "converged": True,
            "list": [1, 2],
            "nothing": None,
            **{column: value * math.sin(step + index) for index, column in enumerate(columns)},
        }
        for step in steps
    ]


def outcome(settings=SETTINGS, steps=range(0, 41, 5), *, diverged_at=None, value=1.0, columns=()):
    """What became of one run."""
    return Outcome(settings, records(settings, steps, value, columns), diverged_at, {"train_seconds": 1.0})


def append(directory, outcomes):
    for name, one in outcomes.items():
        for record in one.records:
            directory.append({"arm": name, **record})


def a_figure(path):
    (path / "figures").mkdir(exist_ok=True)
    (path / "figures/norm.png").write_bytes(PNG)
    (path / "figures/norm.pdf").write_bytes(b"%PDF-1.4 none")


def run(path, outcomes, *, experiment=EXPERIMENT, finished=True, described=True, progress=None):
    """A run directory, of arms by name; ``progress`` says how far arms are that are under way."""
    arms = {name: one.settings for name, one in outcomes.items()}
    config = training.configuration(experiment, "paper", arms, CPU)
    with training.RunDirectory(Path(path), config) as directory:
        if described:
            training.write_description(directory, training.description(experiment, "paper", arms))
        append(directory, outcomes)
        if progress is not None:
            directory.save({"arms": progress})
        if finished:
            a_figure(directory.path)
            directory.conclude(training.summarize(experiment, directory.config, outcomes, CPU))
    return Path(path)


def described_grid(outcomes, varied):
    points = {label: {name: getattr(one.settings, name) for name in varied} for label, one in outcomes.items()}
    return {"varied": list(varied), "points": points}


def sweep(path, outcomes, varied, *, experiment=EXPERIMENT, finished=True, begun=()):
    """A sweep directory, of points by label; of one that is under way the labels in ``begun`` have directories."""
    grid = described_grid(outcomes, varied)
    with training.RunDirectory(Path(path), configuration(experiment, "paper", SETTINGS, CPU)) as directory:
        arms = {label: one.settings for label, one in outcomes.items()}
        training.write_description(directory, training.description(experiment, "paper", arms, grid))
        if finished:
            append(directory, outcomes)
            a_figure(directory.path)
            config = directory.config | {"grid": grid, "halving": None}
            directory.conclude(summarize_sweep(experiment, config, outcomes, varied, CPU, 1.0))
    for number, label in enumerate(begun):
        part = {label: outcomes[label]}
        config = training.configuration(experiment, "paper", {label: outcomes[label].settings}, CPU)
        with training.RunDirectory(Path(path) / "runs" / f"part-{number}", config) as directory:
            append(directory, part)
            whole = outcomes[label].records[-1]["step"] == SETTINGS.steps
            directory.save({"arms": {label: {"step": None, "finished": whole, "diverged_at": None}}})
    return Path(path)


def grid(*, lrs=(0.1, 1.0), rhos=(0.0, 0.1, 0.3), seeds=(0, 1, 2), **how):
    """Points by label; the best are at the largest lr and ρ = 0.1."""
    found = {}
    for lr, rho, seed in product(lrs, rhos, seeds):
        settings = replace(SETTINGS, lr=lr, rho=rho, seed=seed)
        value = 2 - lr / max(lrs) + (1 + 0.1 * seed) * abs(rho - 0.1)
        found[f"lr={lr},rho={rho},seed={seed}"] = outcome(settings, value=value, **how)
    return found


def arms(seed=0, rho=0.1, **how):
    """The arms of a run."""
    return {
        "sam": outcome(replace(SETTINGS, seed=seed, rho=rho), value=0.8, **how),
        "plain": outcome(replace(SETTINGS, seed=seed, rho=0.0), **how),
    }
