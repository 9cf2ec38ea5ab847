"""Fully connected ReLU networks."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from lowland.models.init import glorot_normal_


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """The fully connected ReLU network of Long & Bartlett 2024; truncated Glorot normal weights, zero biases.

    Args:
        widths: widths of input, hidden layers and output. Inputs of shape ``(n, ...)`` are flattened.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return glorot_normal_(nn.Sequential(*layers[:-1]))
