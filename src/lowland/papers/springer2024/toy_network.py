"""Two-layer ReLU networks, those of all seeds and methods in a few matrix products.

f(x) = vᵀ relu(Wx + b) + c on the logistic loss log(1 + exp(−y f(x))), y = ±1. Networks of the same seed see the same
points, so that their layers are one wide layer. Shapes: s seeds, k networks each, h hidden units, d coordinates, n
points.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowland.optim.ascent import length
from lowland.optim.functional import EPS


class Weights(NamedTuple):
    """``W`` (s, k, h, d), ``b`` (s, k, h), ``v`` (s, k, h), ``c`` (s, k); or a gradient."""

    W: Tensor
    b: Tensor
    v: Tensor
    c: Tensor

    def plus(self, other: "Weights", scale: Tensor) -> "Weights":
        """These + ``scale`` (s, k) · ``other``."""
        return Weights(
            self.W + scale[..., None, None] * other.W, self.b + scale[..., None] * other.b,
            self.v + scale[..., None] * other.v, self.c + scale * other.c,
        )  # fmt: skip


@dataclass(frozen=True)
class Networks:
    """What each network is trained with, all ``(s, k)``.

    Attributes:
        lr: η.
        rho: ρ.
        last_only: whether only v and c are perturbed: LSAM.
        phantom_weights: whether examples have their phantom importance weights.
        phantom_scaling: whether gradients go through the phantom v.
        phantom_features: whether the features, too, are those at the phantom parameters. All three are SAM; without
            this one see `lowland.papers.springer2024.methods`.
    """

    lr: Tensor
    rho: Tensor
    last_only: Tensor
    phantom_weights: Tensor
    phantom_scaling: Tensor
    phantom_features: Tensor

    def step(self, w: Weights, x: Tensor, y: Tensor) -> Weights:
        """The weights after a step along the gradient that is asked for; x (s, n, d), y (s, n)."""
        h, d, v = features(w, x), pulls(w, x, y), w.v
        phantom = self.phantom(w, gradient(d, v, h, x), self.rho)
        phantom_h, phantom_d = features(phantom, x), pulls(phantom, x, y)
        descent = gradient(
            torch.where(self.phantom_weights[:, None], phantom_d, d),
            torch.where(self.phantom_scaling[..., None], phantom.v, v),
            torch.where(self.phantom_features[:, None, :, None], phantom_h, h),
            x,
        )
        return w.plus(descent, -self.lr)

    def phantom(self, w: Weights, g: Weights, rho: Tensor) -> Weights:
        """W + ρ g/‖g‖ over what is perturbed; w where the norm is 0 or not finite."""
        everything = (~self.last_only).to(w.c.dtype)
        before = g.W.square().sum((2, 3)) + g.b.square().sum(2)
        norm = (everything * before + g.v.square().sum(2) + g.c.square()).sqrt()
        scale = length(norm, EPS, rho)
        g = Weights(g.W * everything[..., None, None], g.b * everything[..., None], g.v, g.c)
        return w.plus(g, scale)


def features(w: Weights, x: Tensor) -> Tensor:
    """The hidden layer after its ReLU, (s, n, k, h)."""
    s, k, h, d = w.W.shape
    z = torch.baddbmm(w.b.reshape(s, 1, k * h), x, w.W.reshape(s, k * h, d).mT)
    return z.relu_().view(s, -1, k, h)


def outputs(w: Weights, x: Tensor) -> Tensor:
    """f(x), (s, n, k)."""
    return (features(w, x) * w.v[:, None]).sum(3) + w.c[:, None]


def pulls(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss' derivative by each output, −y sigmoid(−y f)/n, (s, n, k)."""
    y = y[..., None]
    return -y * torch.sigmoid(-y * outputs(w, x)) / x.shape[1]


def gradient(d: Tensor, v: Tensor, h: Tensor, x: Tensor) -> Weights:
    """The gradient that derivatives ``d`` by the outputs give, with features ``h``, through the last layer ``v``."""
    s, n, k, width = h.shape
    dz = d[..., None] * v[:, None] * (h > 0)
    dW = torch.bmm(dz.view(s, n, k * width).mT, x).view(s, k, width, -1)
    return Weights(dW, dz.sum(1), (d[..., None] * h).sum(1), d.sum(1))


def initial_weights(seed: int, width: int, inputs: int) -> Weights:
    """Those of one network as torch draws a pair of linear layers, ``(1, 1, …)``, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, last = nn.Linear(inputs, width), nn.Linear(width, 1)
    made = (first.weight, first.bias, last.weight[0], last.bias[0])
    return Weights(*(tensor.detach()[None, None] for tensor in made))
