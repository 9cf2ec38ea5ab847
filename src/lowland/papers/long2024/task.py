"""What the experiments of Long & Bartlett 2024 share: the task, and a training set as one batch."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.data import WholeBatch, data_root, load
from lowland.data.transforms import center, one_hot, scale
from lowland.optim import SAM
from lowland.papers.long2024.check import EdgeCheck, HeldOut
from lowland.papers.long2024.settings import Settings
from lowland.training import Task


def task(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batch: Callable[[int], tuple[Any, Any]],
    settings: Settings,
    held_out: HeldOut | None = None,
) -> Task:
    """SAM around plain gradient descent, checked for its edge of stability, and on ``held_out`` at the end."""
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=settings.lr), rho=settings.rho, eps=settings.eps)
    check = EdgeCheck(model, loss_fn, settings, held_out)
    return Task(model, loss_fn, optimizer, batch, check, {"loss": "loss", "‖H‖": "hessian_norm", "edge": "edge"})


def one_batch(
    dataset: str, examples: int | None, divisor: float, classes: int, device: torch.device
) -> tuple[WholeBatch, HeldOut | None]:
    """The first ``examples`` training images (None: all) as one batch, and the test set; the same objects for all arms.

    Pixels/``divisor`` minus their mean over those training images, and one-hot targets. In memory the channels of a
    pixel lie together, which convolutions and norms over channels are faster on.
    """
    return _one_batch(data_root(), dataset, examples, divisor, classes, device)


@lru_cache(maxsize=1)
def _one_batch(
    root: Path, dataset: str, examples: int | None, divisor: float, classes: int, device: torch.device
) -> tuple[WholeBatch, HeldOut | None]:
    read = load(dataset)
    train = read.train if examples is None else read.train.take(torch.arange(examples))
    x = scale(train.inputs.to(device), divisor)
    assert train.targets is not None
    tested = [] if read.test is None else [scale(read.test.inputs.to(device), divisor)]
    x, *tested = (images.contiguous(memory_format=torch.channels_last) for images in center(x, *tested))
    batch = WholeBatch(x, one_hot(train.targets.to(device), classes))
    if read.test is None or read.test.targets is None:
        return batch, None
    labels = read.test.targets.to(device)
    return batch, HeldOut(tested[0], one_hot(labels, classes), labels)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The squared error, mean over batch and outputs."""
    return F.mse_loss(output, target)
