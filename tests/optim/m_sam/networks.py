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


def on_the_way_back(name, change):
    """An identity of this name whose gradient is changed: ``change(d)`` of what comes from above."""
    ways = {"forward": staticmethod(lambda ctx, x: x.clone()), "backward": staticmethod(lambda ctx, d: change(d))}
    return type(name, (torch.autograd.Function,), ways)


#: Not linear, for the batch as a whole.
Clipped = on_the_way_back("Clipped", lambda d: d / (1 + d.norm()))
#: Row by row in forward alone.
Centring = on_the_way_back("Centring", lambda d: d - d.mean(0))
#: Row by row in both directions, which nobody can know.
Reversed = on_the_way_back("Reversed", torch.neg)
