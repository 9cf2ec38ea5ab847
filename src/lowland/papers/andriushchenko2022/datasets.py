"""CIFAR-10 or CIFAR-100, as a setting says, with the network that the paper has for it."""

from torch import nn

from lowland.papers.andriushchenko2022 import cifar10, cifar100
from lowland.papers.andriushchenko2022.image_settings import ImageSettings

DATASETS = ("cifar-10", "cifar-100")


def network(settings: ImageSettings) -> nn.Module:
    """That of the settings' ``dataset``."""
    return (cifar10 if getattr(settings, "dataset", DATASETS[0]) == DATASETS[0] else cifar100).network(settings)
