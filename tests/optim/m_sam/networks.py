"""Networks of the tests of m-SAM, in float64, and what they are fed."""

from itertools import pairwise

import torch
from torch import nn

N = 7


def rand(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


class Net(nn.Module):
    """The mean over positions of what ``body`` makes of an image, sequence or vector."""

    def __init__(self, *body):
        super().__init__()
        self.body = nn.Sequential(*body)
        self.double()

    def forward(self, x):
        y = self.body(x).flatten(1)
        return y.tanh().sum(1) + y.square().mean(1)


def perceptron(*between, widths=(5, 7, 6, 3)):
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), *between]
    return nn.Sequential(*layers[: len(layers) - len(between)]).double()


def batch(n=11, width=5, classes=3):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, width, generator=generator).double(), torch.arange(n) % classes


class Clipped(torch.autograd.Function):
    """Clips the gradient on its way back: a backward that isn't linear."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, d):
        return d / (1 + d.norm())


class Centring(torch.autograd.Function):
    """Row by row in forward alone."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, d):
        return d - d.mean(0)
