"""MNIST as one batch, a fully connected network, gradient descent and SAM (Long & Bartlett 2024)."""

from dataclasses import dataclass

import torch

from lowland.models import mlp
from lowland.papers.long2024 import PAPER
from lowland.papers.long2024 import settings as common
from lowland.papers.long2024.claims import claims
from lowland.papers.long2024.figures import FIGURES
from lowland.papers.long2024.task import one_batch, squared_error, task
from lowland.training import Experiment, Task, ours, paper, setting


@dataclass(frozen=True, kw_only=True)
class Settings(common.Settings):
    """The paper's settings, with the sizes of data and network."""

    examples: int = setting("training images, the first ones, all in one batch", low=10, high=60_000)
    width: int = setting("units in each of the three hidden layers", low=1, high=100_000)


def prepare(settings: Settings, device: torch.device) -> Task:
    """The first ``examples`` training images as one batch; a network of depth 4."""
    batch, held_out = one_batch("mnist", settings.examples, 256, 10, device)
    model = mlp([784, *[settings.width] * 3, 10]).to(device)
    return task(model, squared_error, batch, settings, held_out)


EXPERIMENT = Experiment(
    name="long2024/mnist",
    title="MNIST as one batch, fully connected network",
    paper=PAPER,
    datasets=("mnist",),
    settings=Settings,
    scales={
        "paper": {
            **common.VALUES,
            "lr": paper(0.3, "the largest η of the grid: the shortest way to the edge"),
            "steps": ours(100_000, "the paper trains 8 hours on a V100"),
            "check_every": ours(500, common.CHECKS),
            "examples": paper(60_000),
            "width": paper(1000),
        },
        "desk": {
            "steps": ours(3000, "gradient descent gets to 2/η within the first 1,000"),
            "check_every": ours(50),
            "examples": ours(1000, "of 2,000 a network of width 200 stays at 0.4 of 2/η for as many steps"),
        },
        "laptop": {
            "steps": ours(3000),
            "check_every": ours(50),
            "examples": ours(1000),
            "width": ours(200),
        },
        "smoke": {"steps": ours(10), "check_every": ours(5), "examples": ours(50), "width": ours(20)},
    },
    arms={"sam": {}, "gd": {"rho": 0.0}},
    grid={"lr": (0.03, 0.1, 0.3), "rho": common.RHOS},
    claims=claims(0.1),
    figures=FIGURES,
    cost={
        "paper": "about 3 hours, one H100 (estimated)",
        "desk": "80 minutes, 1 core (measured)",
        "laptop": "1 to 4 minutes, 1 core (measured)",
        "smoke": "seconds",
    },
    prepare=prepare,
    selection=common.SELECTION,
    outcomes=common.OUTCOMES,
)
