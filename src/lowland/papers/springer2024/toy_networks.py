"""The networks of the toys, those of all seeds and methods side by side.

They give one output f(x) on the logistic loss log(1 + exp(−y f(x))), y = ±1. Shapes: s seeds, k networks each, h hidden
units, d coordinates, n points.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lowland.optim.ascent import length
from lowland.optim.functional import EPS

AnyWeights = TypeVar("AnyWeights", bound="Weights")


class Weights:
    """The parameters of all networks, or a gradient: tensors ``(s, k, …)``. The last layer's weight is ``v``."""

    v: Tensor
    #: The parameters of the last layer.
    last: ClassVar[tuple[str, ...]]
    #: The other parameters that `gradient` reads, with the hidden units given.
    inner: ClassVar[tuple[str, ...]] = ()
    #: The dimension of the points in outputs, 1 or 2; the other one of the two is that of the networks.
    points: ClassVar[int]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in order."""
        return tuple(vars(self).values())

    def plus(self, other: Self, scale: Tensor) -> Self:
        """These + ``scale`` (s, k) · ``other``."""
        pairs = zip(self.tensors, other.tensors, strict=True)
        return type(self)(*(mine + _over(scale, mine) * theirs for mine, theirs in pairs))

    def where(self, mask: Tensor) -> Self:
        """These where ``mask`` (s, k) is true, elsewhere 0."""
        return type(self)(*(torch.where(_over(mask, t), t, 0) for t in self.tensors))

    def taking(self, other: Self, masks: Mapping[str, Tensor]) -> Self:
        """These, but the named tensors of ``other`` where their mask (s, k) is true."""
        mine, theirs = vars(self), vars(other)
        taken = {name: torch.where(_over(mask, mine[name]), theirs[name], mine[name]) for name, mask in masks.items()}
        return type(self)(**{**mine, **taken})

    def perturbed(self, gradient: Self, rho: Tensor, last_only: Tensor) -> Self:
        """W + ρ g/‖g‖ over what is perturbed, the last layer or everything; W where the norm is 0 or not finite."""
        everything = (~last_only).to(self.v.dtype)
        named = vars(gradient).items()
        inner = sum(_square(g) for name, g in named if name not in self.last)
        norm = sum((_square(g) for name, g in named if name in self.last), everything * inner).sqrt()
        along = (g if name in self.last else g * _over(everything, g) for name, g in named)
        return self.plus(type(self)(*along), length(norm, EPS, rho))

    def errors_and_losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The share of the points that each network gets wrong, and its mean loss, ``(s, k)``; y (s, n)."""
        margins = y.unsqueeze(3 - self.points) * self.outputs(x)
        return (margins <= 0).double().mean(self.points), softplus(-margins).mean(self.points)

    def pulls(self, h: Tensor, y: Tensor) -> Tensor:
        """The mean loss' derivative by each output, −y sigmoid(−y f)/n; y (s, n)."""
        n, y = y.shape[1], y.unsqueeze(3 - self.points)
        return -y * torch.sigmoid(-y * self.read(h)) / n

    def outputs(self, x: Tensor) -> Tensor:
        """f(x); x (s, n, d)."""
        return self.read(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """The units after their ReLU."""
        raise NotImplementedError

    def read(self, h: Tensor) -> Tensor:
        """The outputs that `hidden` units ``h`` give."""
        raise NotImplementedError

    def gradient(self, d: Tensor, h: Tensor, x: Tensor) -> Self:
        """The gradient that derivatives ``d`` by the outputs give, where the `hidden` units are ``h``."""
        raise NotImplementedError


def _over(factor: Tensor, t: Tensor) -> Tensor:
    """A factor (s, k) of each network, in the shape of its tensors."""
    return factor.view(*factor.shape, *[1] * (t.dim() - 2))


def _square(t: Tensor) -> Tensor:
    """The squared norm of each network's part, (s, k)."""
    return t.square().sum(tuple(range(2, t.dim()))) if t.dim() > 2 else t.square()


@dataclass(frozen=True)
class JointWeights(Weights):
    """f(x) = vᵀ relu(Wx + b) + c: ``W`` (s, k, h, d), ``b`` (s, k, h), ``v`` (s, k, h), ``c`` (s, k).

    Networks of the same seed see the same points, so their layers are one wide layer. Outputs are (s, n, k).
    """

    W: Tensor
    b: Tensor
    v: Tensor
    c: Tensor

    last = ("v", "c")
    points = 1

    def hidden(self, x: Tensor) -> Tensor:
        """The units after their ReLU, (s, n, k, h)."""
        s, k, h, d = self.W.shape
        z = torch.baddbmm(self.b.reshape(s, 1, k * h), x, self.W.reshape(s, k * h, d).mT)
        return z.relu_().view(s, -1, k, h)

    def read(self, h: Tensor) -> Tensor:
        """The outputs, (s, n, k)."""
        return (h * self.v[:, None]).sum(3) + self.c[:, None]

    def gradient(self, d: Tensor, h: Tensor, x: Tensor) -> Self:
        """The gradient that derivatives ``d`` by the outputs give."""
        s, n, k, width = h.shape
        dz = d[..., None] * self.v[:, None] * (h > 0)
        dW = torch.bmm(dz.view(s, n, k * width).mT, x).view(s, k, width, -1)
        return type(self)(dW, dz.sum(1), (d[..., None] * h).sum(1), d.sum(1))

    @classmethod
    def initial(cls, seed: int, width: int, inputs: int) -> Self:
        """Those of one network as torch draws a pair of linear layers, ``(1, 1, …)``, float32."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first, last = nn.Linear(inputs, width), nn.Linear(width, 1)
        made = (first.weight, first.bias, last.weight[0], last.bias[0])
        return cls(*(tensor.detach()[None, None] for tensor in made))


@dataclass(frozen=True)
class SeparateWeights(Weights):
    """f(x) = v_easy z_easy + v_hard z_hard: ``W``, ``b``, ``a`` (s, k, 2, h), ``v`` (s, k, 2); z = aᵀ relu(W x + b).

    Of each point the first coordinate goes into one small network of ReLUs and the second into another, and each gives
    one feature z. So the last layer has one weight for each feature, and what a method does to each can be read off it.
    Outputs are (s, k, n).
    """

    W: Tensor
    b: Tensor
    a: Tensor
    v: Tensor

    last = ("v",)
    inner = ("a",)
    points = 2

    def hidden(self, x: Tensor) -> Tensor:
        """The units after their ReLU, (s, k, n, 2, h)."""
        return (self.W[:, :, None] * x[:, None, :, :2, None] + self.b[:, :, None]).relu()

    def features(self, h: Tensor) -> Tensor:
        """The two features, (s, k, n, 2)."""
        return (h * self.a[:, :, None]).sum(-1)

    def read(self, h: Tensor) -> Tensor:
        """The outputs, (s, k, n)."""
        return (self.features(h) * self.v[:, :, None]).sum(-1)

    def gradient(self, d: Tensor, h: Tensor, x: Tensor) -> Self:
        """The gradient that derivatives ``d`` by the outputs give."""
        dz = d[..., None] * self.v[:, :, None]  # (s, k, n, 2)
        inside = dz[..., None] * self.a[:, :, None] * (h > 0)
        return type(self)(
            (inside * x[:, None, :, :2, None]).sum(2), inside.sum(2), (dz[..., None] * h).sum(2),
            (d[..., None] * self.features(h)).sum(2),
        )  # fmt: skip

    @classmethod
    def initial(cls, seed: int, width: int) -> Self:
        """Each small network as torch draws a pair of linear layers, v equal to 1/√2, ``(1, 1, …)``, float32."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [(nn.Linear(1, width), nn.Linear(width, 1, bias=False)) for _ in range(2)]
        parts = ([first.weight, first.bias, last.weight] for first, last in layers)
        W, b, a = (
            torch.stack([each.detach().flatten() for each in pair])[None, None] for pair in zip(*parts, strict=True)
        )
        return cls(W, b, a, torch.full((1, 1, 2), 0.5).sqrt())


@dataclass(frozen=True)
class Networks:
    """What each network is trained with, all ``(s, k)``.

    Attributes:
        lr: η.
        rho: ρ.
        last_only: whether only the last layer is perturbed: LSAM.
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

    def step(self, w: AnyWeights, x: Tensor, y: Tensor) -> AnyWeights:
        """The weights after a step along the gradient that is asked for; x (s, n, d), y (s, n)."""
        h = w.hidden(x)
        d = w.pulls(h, y)
        there = w.perturbed(w.gradient(d, h, x), self.rho, self.last_only)
        phantom_h = there.hidden(x)
        d = torch.where(self.phantom_weights.unsqueeze(w.points), there.pulls(phantom_h, y), d)
        at = self.phantom_features.unsqueeze(w.points)
        h = torch.where(at.view(*at.shape, *[1] * (h.dim() - 3)), phantom_h, h)
        seen = w.taking(there, {"v": self.phantom_scaling} | dict.fromkeys(w.inner, self.phantom_features))
        return w.plus(seen.gradient(d, h, x), -self.lr)
