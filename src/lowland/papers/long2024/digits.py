"""Scikit-learn's handwritten digits: the edge of stability in a minute, without a download (ours)."""

import torch
from torch import Tensor

from lowland.models import mlp
from lowland.papers.long2024.edge_of_stability import (
    OUTCOMES,
    PAPER,
    SELECTION,
    Settings,
    claims,
    one_batch,
    squared_error,
    task,
)
from lowland.training import Experiment, Task, ours, paper
from lowland.training.figures import EDGE_OF_STABILITY


def loss_fn(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, mean over batch and outputs."""
    return squared_error(output, target) / 2


def prepare(settings: Settings, device: torch.device) -> Task:
    """All 1,797 digits as one batch; a network 64-100-100-100-10."""
    batch = one_batch("digits", None, 16, 10, device)
    return task(mlp([64, 100, 100, 100, 10]).to(device), loss_fn, batch, settings)


EXPERIMENT = Experiment(
    name="long2024/digits",
    title="SAM and gradient descent at their edges of stability, on handwritten digits",
    paper=PAPER,
    datasets=(),
    settings=Settings,
    scales={
        "paper": {
            "lr": ours(0.3),
            "rho": ours(0.1),
            "eps": paper(1e-5),
            "steps": ours(3000),
            "check_every": ours(50, "the paper checks by the clock"),
            "tol": ours(1e-3),
            "seed": ours(0),
        },
        "laptop": {},
        "smoke": {"steps": ours(20), "check_every": ours(5)},
    },
    arms={"sam": {}, "gd": {"rho": 0.0}, "gd-edge": {"rho": 0.0, "lr": 12.0}},
    grid={"lr": (0.1, 0.3, 1.0), "rho": (0.0, 0.05, 0.1, 0.3), "seed": (0, 1, 2, 3)},
    claims=claims(0.05, gd_edge="gd-edge"),
    figures=EDGE_OF_STABILITY,
    cost={"paper": "a minute, 2 cores", "laptop": "a minute, 2 cores", "smoke": "seconds"},
    prepare=prepare,
    selection=SELECTION,
    outcomes=OUTCOMES,
)
