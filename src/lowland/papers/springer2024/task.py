"""The paper's training on images: network, optimizer, schedule, check."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.data import Shuffled
from lowland.papers.springer2024.check import FeatureCheck, FeatureSets
from lowland.papers.springer2024.methods import make_optimizer
from lowland.papers.springer2024.settings import FeatureSettings
from lowland.training import Task

SHOW = {"loss": "train_loss", "easy": "easy_error", "hard": "hard_error"}


class ShuffledImages:
    """Minibatches in random order, without augmentation: a function of the step alone."""

    def __init__(self, sets: FeatureSets, settings: FeatureSettings):
        assert sets.train.targets is not None
        inputs, targets = sets.train.inputs, sets.train.targets
        self.shuffled = Shuffled(inputs, targets, settings.batch_size, settings.seed, drop_last=True)
        self.prepare = sets.prepare

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The network's inputs, and int64 ``(batch,)``."""
        images, targets = self.shuffled(step)
        return self.prepare(images), targets


def feature_task(model: nn.Module, sets: FeatureSets, settings: FeatureSettings, **more: Any) -> Task:
    """One of the methods around SGD with momentum and a cosine schedule.

    Args:
        model: on the device of ``sets``.
        sets: its data.
        settings: all there is to say.
        more: of `Task`, in place of what is given here: another ``batch``, ``autocast``, ...
    """
    base = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    made: dict[str, Any] = {
        "model": model,
        "loss_fn": F.cross_entropy,
        "optimizer": make_optimizer(settings.method, base, settings.rho, model),
        "batch": ShuffledImages(sets, settings),
        "check": FeatureCheck(model, sets, settings),
        "show": SHOW,
        "schedule": lambda step: (1 + math.cos(math.pi * step / settings.steps)) / 2,
    }
    return Task(**(made | more))
