"""Networks whose two features are separate in the last hidden layer, those of all seeds and methods side by side.

Of each point the first coordinate goes into one small network of ReLUs and the second into another; each gives one
feature z, and the output is f(x) = v_easy z_easy + v_hard z_hard, on the logistic loss log(1 + exp(−y f(x))), y = ±1.
So the last layer has one weight for each feature, and what a method does to each can be read off it. Shapes: s seeds, k
networks each, 2 features, h hidden units each, n points.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowland.optim.ascent import length
from lowland.optim.functional import EPS
from lowland.papers.springer2024.toy_network import Networks


class Weights(NamedTuple):
    """``W``, ``b`` and ``a`` (s, k, 2, h): z = aᵀ relu(W x + b) of each feature; ``v`` (s, k, 2). Or a gradient."""

    W: Tensor
    b: Tensor
    a: Tensor
    v: Tensor

    def plus(self, other: "Weights", scale: Tensor) -> "Weights":
        """These + ``scale`` (s, k) · ``other``."""
        wide = scale[..., None, None]
        return Weights(
            self.W + wide * other.W, self.b + wide * other.b, self.a + wide * other.a,
            self.v + scale[..., None] * other.v,
        )  # fmt: skip


def hidden(w: Weights, x: Tensor) -> Tensor:
    """The units after their ReLU, (s, k, n, 2, h); x (s, n, 2)."""
    return (w.W[:, :, None] * x[:, None, :, :, None] + w.b[:, :, None]).relu()


def features(w: Weights, x: Tensor) -> Tensor:
    """The two features, (s, k, n, 2)."""
    return (hidden(w, x) * w.a[:, :, None]).sum(-1)


def outputs(w: Weights, x: Tensor) -> Tensor:
    """f(x), (s, k, n)."""
    return (features(w, x) * w.v[:, :, None]).sum(-1)


def pulls(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss' derivative by each output, −y sigmoid(−y f)/n, (s, k, n); y (s, n)."""
    y = y[:, None]
    return -y * torch.sigmoid(-y * outputs(w, x)) / x.shape[1]


def gradient(d: Tensor, v: Tensor, w: Weights, x: Tensor) -> Weights:
    """The gradient that derivatives ``d`` by the outputs give, with the features of ``w`` and a last layer ``v``."""
    r = hidden(w, x)
    dz = d[..., None] * v[:, :, None]  # (s, k, n, 2)
    inside = dz[..., None] * w.a[:, :, None] * (r > 0)
    return Weights(
        (inside * x[:, None, :, :, None]).sum(2), inside.sum(2), (dz[..., None] * r).sum(2),
        (d[..., None] * (r * w.a[:, :, None]).sum(-1)).sum(2),
    )  # fmt: skip


def phantom(networks: Networks, w: Weights, g: Weights) -> Weights:
    """W + ρ g/‖g‖ over what is perturbed; w where the norm is 0 or not finite."""
    everything = (~networks.last_only).to(w.v.dtype)
    before = sum(part.square().sum((2, 3)) for part in (g.W, g.b, g.a))
    norm = (everything * before + g.v.square().sum(2)).sqrt()
    scale = length(norm, EPS, networks.rho)
    wide = everything[..., None, None]
    return w.plus(Weights(g.W * wide, g.b * wide, g.a * wide, g.v), scale)


def step(networks: Networks, w: Weights, x: Tensor, y: Tensor) -> Weights:
    """The weights after a step along the gradient that is asked for; x (s, n, 2), y (s, n)."""
    d = pulls(w, x, y)
    there = phantom(networks, w, gradient(d, w.v, w, x))
    d = torch.where(networks.phantom_weights[..., None], pulls(there, x, y), d)
    v = torch.where(networks.phantom_scaling[..., None], there.v, w.v)
    at = networks.phantom_features[..., None, None]
    W, b, a = (torch.where(at, *each) for each in ((there.W, w.W), (there.b, w.b), (there.a, w.a)))
    seen = Weights(W, b, a, v)
    return w.plus(gradient(d, v, seen, x), -networks.lr)


def initial_weights(seed: int, width: int) -> Weights:
    """Each small network as torch draws a pair of linear layers, v equal to 1/√2, ``(1, 1, …)``, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [(nn.Linear(1, width), nn.Linear(width, 1, bias=False)) for _ in range(2)]
    W, b, a = (
        torch.stack([each.detach().flatten() for each in several])[None, None]
        for several in (
            [first.weight for first, _ in layers], [first.bias for first, _ in layers],
            [last.weight for _, last in layers],
        )
    )  # fmt: skip
    return Weights(W, b, a, torch.full((1, 1, 2), 0.5).sqrt())
