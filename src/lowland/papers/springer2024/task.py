"""What the experiments on images train: networks, one of the methods around SGD, batches, a check."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lowland.data import data_root
from lowland.data.stacked import STACKS
from lowland.errors import DataError
from lowland.models import bottleneck_resnet, group_norm_cnn, strided_cnn
from lowland.papers.images import switched
from lowland.papers.springer2024.check import FeatureCheck, GroupedCheck
from lowland.papers.springer2024.data import FeatureSets, ShuffledImages, Views, grouped_sets, layout, stacked_sets
from lowland.papers.springer2024.methods import make_optimizer
from lowland.papers.springer2024.settings import DomainSettings, FeatureSettings, GroupedSettings, StackedSettings
from lowland.training import Task
from lowland.training.weights import load_pretrained

SHOW = {"loss": "train_loss", "easy": "easy_error", "hard": "hard_error"}


def stacked_task(name: str, settings: StackedSettings, device: torch.device) -> Task:
    """One run on the stacked images ``name``. The pairs, and which images are held out, are drawn with the seed."""
    sets = stacked_sets(name, settings, device)
    _, _, height, width = sets.train.inputs.shape
    model = strided_cnn(height, width, len(STACKS[name].images)).to(device)
    return feature_task(
        model,
        sets,
        settings,
        batch=ShuffledImages(sets, settings),
        check=FeatureCheck(model, sets, settings, settings.probe_on),
        autocast=torch.bfloat16 if settings.precision == "bfloat16" else None,
    )


def grouped_task(name: str, settings: GroupedSettings, device: torch.device) -> Task:
    """One run on CelebA or Waterbirds; ``name`` says which."""
    sets = grouped_sets(name, settings, device)
    model = network(settings.network, settings.width, 2, sets.train.inputs.shape, settings.weights)
    model = placed(model, device)
    return feature_task(
        model,
        sets,
        settings,
        batch=Views(sets, settings, device) if settings.augment == "on" else ShuffledImages(sets, settings),
        check=GroupedCheck(model, sets, settings),
        autocast=torch.bfloat16 if switched(settings.amp, device) else None,
    )


def feature_task(model: nn.Module, sets: FeatureSets, settings: FeatureSettings, **more: Any) -> Task:
    """One of the methods around SGD with momentum and a cosine schedule; ``more`` is of `Task`."""
    return Task(
        model,
        F.cross_entropy,
        make_optimizer(settings.method, momentum_sgd(model, settings), settings.rho, model),
        show=SHOW,
        schedule=lambda step: (1 + math.cos(math.pi * step / settings.steps)) / 2,
        **more,
    )


def momentum_sgd(model: nn.Module, settings: FeatureSettings | DomainSettings) -> torch.optim.SGD:
    """SGD with momentum and weight decay."""
    decay = settings.weight_decay
    return torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=decay)


def network(name: str, width: int, classes: int, shape: torch.Size, weights: str = "none") -> nn.Module:
    """One of `NETWORKS`: that of the stacked images, that of the domain benchmark for MNIST, or a ResNet-50.

    Args:
        name: which.
        width: channels of the first convolution; small has its own.
        classes: outputs.
        shape: of the images, ``(..., channels, height, width)``.
        weights: a file in torchvision's naming for the ResNet-50, imagenet for that in the data root, or none.

    Raises:
        RunError: if the weights can't be read, or are another network's.
        DataError: for imagenet, if they are missing.
    """
    if name == "small":
        return strided_cnn(shape[-2], shape[-1], classes, shape[-3])
    if name == "cnn":
        return group_norm_cnn(classes, shape[-3], width)
    model = bottleneck_resnet(width=width, classes=classes)
    if weights != "none":
        load_pretrained(model, _weights_file(weights))
    return model


def _weights_file(weights: str) -> str:
    """The file that the setting ``weights`` names; for ``imagenet`` the one in the data root."""
    if weights != "imagenet":
        return weights
    file = data_root() / "imagenet" / "resnet50.pth"
    if not file.is_file():
        raise DataError(
            f"{file} is missing: place a ResNet-50's ImageNet weights there, in torchvision's naming, or set "
            "weights to a file, or weights=none to start from nothing"
        )
    return str(file)


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` on ``device``, in the layout in which convolutions are fast there."""
    return model.to(device, memory_format=layout(device))  # type: ignore[call-overload,no-any-return]
