"""Scikit-learn's handwritten digits: the edge of stability in a minute, without a download (ours)."""

import torch
from torch import Tensor

from lowland.models import mlp
from lowland.papers.long2024 import PAPER
from lowland.papers.long2024.claims import claims
from lowland.papers.long2024.figures import FIGURES
from lowland.papers.long2024.settings import OUTCOMES, Settings
from lowland.papers.long2024.task import one_batch, squared_error, task
from lowland.training import Experiment, Selection, Task, ours, paper


def loss_fn(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, mean over batch and outputs."""
    return squared_error(output, target) / 2


def prepare(settings: Settings, device: torch.device) -> Task:
    """All 1,797 digits as one batch; a network 64-100-100-100-10."""
    batch, _ = one_batch("digits", None, 16, 10, device)
    return task(mlp([64, 100, 100, 100, 10]).to(device), loss_fn, batch, settings)


EXPERIMENT = Experiment(
    name="long2024/digits",
    title="SAM and gradient descent at their edges of stability, on handwritten digits (ours)",
    paper=PAPER,
    datasets=(),
    settings=Settings,
    scales={
        "paper": {
            "lr": ours(0.3),
            "rho": ours(0.1),
            "eps": paper(1e-5, "as in its own experiments"),
            "steps": ours(3000),
            "check_every": ours(50),
            "tol": ours(1e-3),
            "eigenvalues": ours(1),
            "seed": ours(0),
        },
        "desk": {},
        "laptop": {"steps": ours(1500)},  # SAM's norm is at its edge after 350
        "smoke": {"steps": ours(20), "check_every": ours(5)},
    },
    arms={"sam": {}, "gd": {"rho": 0.0}, "gd-edge": {"rho": 0.0, "lr": 12.0}},
    grid={"lr": (0.1, 0.3, 1.0), "rho": (0.0, 0.05, 0.1, 0.3), "seed": (0, 1, 2, 3)},
    claims=claims(0.05, gd_edge="gd-edge"),
    figures=FIGURES,
    cost=dict.fromkeys(("paper", "desk"), "2 to 8 minutes, 1 core (measured)")
    | {"laptop": "1 to 4 minutes, 1 core (measured)", "smoke": "seconds"},
    prepare=prepare,
    selection=Selection(metric="loss", on="training"),
    outcomes=OUTCOMES[:2],  # there is no test set
)
