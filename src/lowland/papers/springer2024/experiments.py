"""The experiments on images with two features: one dataset each, everything else shared."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lowland.data.stacked import STACKS
from lowland.papers.springer2024 import PAPER
from lowland.papers.springer2024.claims import CLAIMS, GRID_CLAIMS, GROUPED_MEASURES, table
from lowland.papers.springer2024.figures import feature_figures, probe_curves
from lowland.papers.springer2024.methods import ARMS, LSAM_NOTE, METHODS
from lowland.papers.springer2024.settings import (
    CELEBA_VALUES,
    CIFAR_MNIST_VALUES,
    FMNIST_MNIST_VALUES,
    GROUPED_GRID,
    SEEDS,
    STACKED_GRID,
    WATERBIRDS_VALUES,
    GroupedSettings,
    Scales,
    StackedSettings,
)
from lowland.papers.springer2024.task import grouped_task, stacked_task
from lowland.training import Curve, Experiment, Reference, Selection, Task, chance
from lowland.training.experiment import GridPart

_GROUPED_ARMS = ("sgd", "sam", "lsam")


def _experiment(
    name: str,
    title: str,
    prepare: Callable[[Any, torch.device], Task],
    grid: Mapping[str, tuple[float, ...]],
    classes: int = 2,
    **more: Any,
) -> Experiment:
    """What they share.

    ``grid`` has the η and ρ of the paper's, ρ = 0 first; ``classes`` are those of each feature; ``more`` is of
    `Experiment`.
    """
    # Seed by seed, so that what is there early is a whole grid of few seeds.
    sgd: GridPart = {"seed": SEEDS, "method": ("sam",), "lr": grid["lr"], "rho": (0.0,)}
    climbing: GridPart = {"seed": SEEDS, "method": METHODS, "lr": grid["lr"], "rho": grid["rho"][1:]}
    return Experiment(
        name=f"springer2024/{name}",
        title=title,
        paper=PAPER,
        arms=ARMS,
        arm_notes={"lsam": LSAM_NOTE},
        grid={"seed": SEEDS, **grid},
        more_grids={"mechanism": (sgd, climbing)},
        claims=(*CLAIMS, *GRID_CLAIMS),
        figures=(*feature_figures(list(ARMS), classes), probe_curves(classes)),
        sweep_figures=(probe_curves(classes),),
        prepare=prepare,
        table=table,
        selection=Selection("validation_error", "validation", ties="validation_loss", test="test_error"),
        outcomes=(
            Curve("hard_error", "probing error, hard feature", level=chance(classes)),
            Curve("easy_error", "probing error, easy feature", level=chance(classes)),
            Curve("worst_group_error", "error of the worst group"),
            Curve("test_error", "test error"),
        ),
        **more,
    )


def _stacked(name: str, title: str, scales: Scales, cost: Mapping[str, str]) -> Experiment:
    """An experiment on the stacked images ``name`` of `lowland.data.stacked.STACKS`."""

    def prepare(settings: StackedSettings, device: torch.device) -> Task:
        return stacked_task(name, settings, device)

    stack = STACKS[name]
    return _experiment(
        name, title, prepare, STACKED_GRID, len(stack.digits),
        datasets=("mnist", stack.below), settings=StackedSettings, scales=scales, cost=cost,
    )  # fmt: skip


def _grouped(name: str, title: str, scales: Scales, cost: str, references: Mapping[str, Reference]) -> Experiment:
    """An experiment on CelebA or Waterbirds, of fewer arms.

    ``cost`` is that at paper scale, and ``references`` what the paper has of a claim on these data in particular.
    """

    def prepare(settings: GroupedSettings, device: torch.device) -> Task:
        return grouped_task(name, settings, device)

    costs = {
        "paper": cost,
        "desk": "1 to 2 hours, 1 core (from steps and checks on drawn images)",
        "laptop": "2 to 4 minutes, 1 core (drawn images)",
        "smoke": "seconds",
    }
    made = _experiment(
        name, title, prepare, GROUPED_GRID, datasets=(name,), settings=GroupedSettings, scales=scales, cost=costs
    )
    return replace(
        made,
        arms={kind: ARMS[kind] for kind in _GROUPED_ARMS},
        claims=tuple(replace(claim, reference=references.get(claim.id, claim.reference)) for claim in made.claims),
        figures=feature_figures(_GROUPED_ARMS),
        table=partial(table, measures=GROUPED_MEASURES),
    )


CIFAR_MNIST = _stacked(
    "cifar-mnist",
    "MNIST above CIFAR-10: does SAM learn the harder feature better than SGD?",
    CIFAR_MNIST_VALUES,
    {
        "paper": "5 to 8 hours, 1 core (from desk's time)",
        "desk": "4 hours, 1 core",
        "laptop": "2 to 4 minutes, 1 core (from one seed's arms)",
        "smoke": "seconds",
    },
)
FMNIST_MNIST = _stacked(
    "fmnist-mnist",
    "MNIST above Fashion-MNIST: does SAM learn the harder feature better than SGD?",
    FMNIST_MNIST_VALUES,
    {
        "paper": "15 to 30 hours, 1 core (from cifar-mnist's)",
        "desk": "3 to 5 hours, 1 core (from cifar-mnist's)",
        "laptop": "2 to 4 minutes, 1 core (from cifar-mnist's)",
        "smoke": "seconds",
    },
)
CELEBA = _grouped(
    "celeba",
    "CelebA, hair colour and gender: does SAM learn the harder feature better?",
    CELEBA_VALUES,
    "a day, one H100 (estimated)",
    {
        claim: Reference("SAM lowers both errors", "Table 1, as the paper's reviewers say")
        for claim in ("hard-feature", "easy-feature")
    },
)
WATERBIRDS = _grouped(
    "waterbirds",
    "Waterbirds, bird and background: does SAM learn the harder feature better?",
    WATERBIRDS_VALUES,
    "three hours, one H100 (estimated)",
    {},
)
