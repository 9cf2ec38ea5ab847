"""A thousand images of CIFAR-10 as one batch, a small convolutional network (Long & Bartlett 2024)."""

from dataclasses import dataclass

import torch

from lowland.models import norm_cnn
from lowland.papers.long2024 import PAPER
from lowland.papers.long2024 import settings as common
from lowland.papers.long2024.claims import claims
from lowland.papers.long2024.figures import FIGURES
from lowland.papers.long2024.task import one_batch, squared_error, task
from lowland.training import Experiment, Task, ours, paper, setting


@dataclass(frozen=True, kw_only=True)
class Settings(common.Settings):
    """The paper's settings, with the sizes of data and network."""

    examples: int = setting("training images, the first ones, all in one batch", low=10, high=50_000)
    channels: int = setting("channels of the first block; the second has twice as many", low=1, high=10_000)


def prepare(settings: Settings, device: torch.device) -> Task:
    """The first ``examples`` training images as one batch; two blocks of convolution, layer norm and pooling."""
    batch, held_out = one_batch("cifar-10", settings.examples, 256, 10, device)
    model = norm_cnn([settings.channels, 2 * settings.channels], size=32, classes=10)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return task(model, squared_error, batch, settings, held_out)


EXPERIMENT = Experiment(
    name="long2024/cifar10",
    title="CIFAR-10, a thousand images as one batch, convolutional network",
    paper=PAPER,
    datasets=("cifar-10",),
    settings=Settings,
    scales={
        "paper": {
            **common.VALUES,
            "lr": paper(0.003, "of the grid: at 0.01 the Hessian norm starts above 2/η and gradient descent diverges"),
            "steps": ours(1_000_000, "the paper trains 12 hours on a V100"),
            "check_every": ours(5000, common.CHECKS),
            "examples": paper(1000, "which ones: ours, the first"),
            "channels": paper(16),
        },
        "desk": {
            "lr": ours(0.006, "at 0.003 gradient descent stays at 0.7 of 2/η for 1,000 steps, at 0.01 it diverges"),
            "steps": ours(4000, "gradient descent is within 5 % of 2/η from step 100 on"),
            "check_every": ours(100),
            "examples": ours(500),
        },
        "laptop": {"steps": ours(1000), "check_every": ours(50), "examples": ours(100)},
        "smoke": {"steps": ours(4), "check_every": ours(2), "examples": ours(20), "channels": ours(4)},
    },
    arms={"sam": {}, "gd": {"rho": 0.0}},
    grid={"lr": (0.0003, 0.001, 0.003, 0.01), "rho": common.RHOS},
    claims=claims(0.1),
    figures=FIGURES,
    cost={
        "paper": "about 2 hours, one H100 (estimated)",
        "desk": "2 hours, 2 cores (measured)",
        "laptop": "2 to 3 minutes, 1 core (measured)",
        "smoke": "seconds",
    },
    prepare=prepare,
    selection=common.SELECTION,
    outcomes=common.OUTCOMES,
)
