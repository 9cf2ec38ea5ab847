"""Digits and small networks, for the tests of adapters."""

from functools import cache

import torch
from torch import nn

from lowland.data import load


@cache
def digits(dtype=torch.float32):
    """Pixels (n, 64) between 0 and 1, and labels (n,)."""
    train = load("digits").train
    return train.inputs.flatten(1).to(dtype) / 16, train.targets


def batches(count, size=16, dtype=torch.float32):
    """The first ``count`` batches."""
    x, y = digits(dtype)
    return [(x[i * size : (i + 1) * size], y[i * size : (i + 1) * size]) for i in range(count)]


def network(seed=0, dropout=0.0, batch_norm=False):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 30), nn.BatchNorm1d(30) if batch_norm else nn.LayerNorm(30), nn.GELU(), nn.Dropout(dropout),
        nn.Linear(30, 10),
    )  # fmt: skip


def equal(one, other):
    """Whether the weights are the same bits."""
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
