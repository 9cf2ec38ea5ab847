"""The networks and batches of benchmarks/msam.py, with random weights and data."""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.models import Transformer, mlp, preact_resnet

Made = tuple[nn.Module, Tensor, Tensor]


def perceptron(asked: argparse.Namespace) -> Made:
    """Three layers, for MNIST."""
    return mlp([784, 1000, 1000, 10]), torch.randn(128, 784), torch.randint(10, (128,))


def transformer(asked: argparse.Namespace) -> Made:
    """That of long2024/shakespeare, 16 windows of 64 characters."""
    model = Transformer(symbols=128, length=64, layers=6, width=128, heads=8, key_size=32)
    return model, torch.randint(128, (16, 64)), torch.randint(128, (16, 64))


def resnet(asked: argparse.Namespace) -> Made:
    """ResNet-18 with group norm."""
    n = asked.images
    return preact_resnet(width=asked.width, norm="group"), torch.randn(n, 3, 32, 32), torch.randint(10, (n,))


def encoder(asked: argparse.Namespace) -> Made:
    """Torch's own Transformer, with the batch first."""
    layer = nn.TransformerEncoderLayer(128, 8, 512, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), _First(), nn.Linear(128, 10))
    return model, torch.randn(16, 64, 128), torch.randint(10, (16,))


class _First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """At the first position."""
        return x[:, 0]


def convnext(asked: argparse.Namespace) -> Made:
    """Timm's ConvNeXt-atto, eight images of 96 × 96."""
    return _of_timm("convnext_atto"), torch.randn(8, 3, 96, 96), torch.randint(10, (8,))


def mobilenet(asked: argparse.Namespace) -> Made:
    """Timm's MobileNetV3, sixteen images of 96 × 96; batch norm takes the statistics of each group."""
    return _of_timm("mobilenetv3_small_100"), torch.randn(16, 3, 96, 96), torch.randint(10, (16,))


def _of_timm(name: str) -> nn.Module:
    from architectures.timm_beside import make_importable

    make_importable()
    import timm

    made: nn.Module = timm.create_model(name, num_classes=10, drop_rate=0.0, drop_path_rate=0.0)
    return made


#: By name: the network, what the table calls it, and the sizes of groups.
NETWORKS = {
    "perceptron": (perceptron, "perceptron 784-1000-1000-10, 128 examples", (1, 2, 4, 16, 64)),
    "transformer": (transformer, "Transformer of `long2024/shakespeare`, 16 × 64 characters", (1, 2, 3, 4, 8)),
    "resnet": (
        resnet,
        "ResNet-18 with group norm, width 16, 64 images",
        (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48),
    ),
    "encoder": (encoder, "`nn.TransformerEncoder` 4 × 128, batch first, 16 × 64 positions", (1, 4)),
    "convnext": (convnext, "ConvNeXt-atto, 8 images of 96 × 96", (1, 4)),
    "mobilenet": (mobilenet, "MobileNetV3-small, 16 images of 96 × 96", (1, 4)),
}


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One for each example, the mean over its positions."""
    found = F.cross_entropy(model(x).movedim(-1, 1), y, reduction="none")
    return found.flatten(1).mean(1) if found.ndim > 1 else found
