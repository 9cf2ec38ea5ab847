"""What to descend along: rules that make the step's gradient of those at w and at w + ε.

A rule is a class with a formula. Without one the step goes along the gradient at w + ε, as in SAM.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowland.checks import is_count, number
from lowland.optim.memory import is_finite, keep

Number = float | Tensor


@dataclass(slots=True)
class Pair:
    """What a rule sees: two gradients of one evaluation each, over all trainable parameters.

    Attributes:
        at_w: g, the gradient at w; what this process holds of each parameter's.
        perturbed: g_s, that at w + ε; in a pass that doesn't climb, the same as ``at_w``.
        dot: inner product of two lists like these, over all processes: a float on the CPU, else a 0-d tensor.
        memory: by name, tensors like these that are kept from step to step, zero at first.
    """

    at_w: list[Tensor]
    perturbed: list[Tensor]
    dot: Callable[[Sequence[Tensor], Sequence[Tensor]], Number]
    memory: Callable[[str], list[Tensor]]


class Descent:
    """The base of all rules."""

    #: Names of the tensors that it keeps from step to step.
    memory: ClassVar[tuple[str, ...]] = ()
    #: Whether it must be told of a GradScaler.
    needs_scale: ClassVar[bool] = False
    #: Whether `SAM.backward` runs the passes, on the loss of each example.
    per_example: ClassVar[bool] = False
    #: The share of the examples that such a rule chooses.
    keep: float = 1.0

    def climbs(self, step: int) -> bool:
        """Whether this step evaluates the gradient at w + ε at all; if not, `alone` makes the gradient of that at w."""
        return True

    def combine(self, pair: Pair) -> list[Tensor]:
        """The step's gradient, in new tensors."""
        raise NotImplementedError(f"{type(self).__name__} has no combine(pair)")

    def beside(self, pair: Pair) -> list[Tensor] | None:
        """What is subtracted from the weights after the base optimizer's step, times the learning rate, if anything."""
        return None

    def alone(self, pair: Pair) -> list[Tensor]:
        """The step's gradient where `climbs` says no, in new tensors."""
        raise NotImplementedError(f"{type(self).__name__} has no alone(pair)")


def ratio(a: Number, b: Number) -> Number:
    """a/b; 0 where b is."""
    if isinstance(b, Tensor):
        return torch.where(b != 0, a / b, 0)
    return a / b if b else 0.0


def root(a: Number) -> Number:
    """The square root of a float or a tensor."""
    return a.sqrt() if isinstance(a, Tensor) else a**0.5


def linear(a: Number, x: Sequence[Tensor], b: Number, y: Sequence[Tensor]) -> list[Tensor]:
    """The sum of a x and b y."""
    result = list(torch._foreach_mul(list(x), a))
    if isinstance(b, Tensor):
        for r, t in zip(result, y, strict=True):
            r.add_(b * t)
    else:
        torch._foreach_add_(result, list(y), alpha=b)
    return result


@dataclass(frozen=True)
class SurrogateGap(Descent):
    """g_s − α g⊥, with g⊥ the part of g that is orthogonal to g_s (Zhuang et al. 2022, *GSAM*, Algorithm 1).

    It decreases the gap L(w + ε) − L(w) without increasing L(w + ε) to first order.
    """

    alpha: float = 0.6
    needs_scale = True

    def __post_init__(self) -> None:
        number("alpha", self.alpha, -1e30, 1e30)

    def combine(self, pair: Pair) -> list[Tensor]:
        """(1 + α c) g_s − α g, c = ⟨g, g_s⟩/‖g_s‖²."""
        c = ratio(pair.dot(pair.at_w, pair.perturbed), pair.dot(pair.perturbed, pair.perturbed))
        return linear(1 + self.alpha * c, pair.perturbed, -self.alpha, pair.at_w)


@dataclass(frozen=True)
class Reuse(Descent):
    """SAM every k-th step; between, the part of its gradient that the plain one lacks (Liu et al. 2022, *LookSAM*).

    With g_v = g_s − (⟨g_s, g⟩/‖g‖²) g from the last step that climbed, the others descend along g + α (‖g‖/‖g_v‖) g_v.
    """

    every: int = 5
    alpha: float = 0.7
    memory = ("reused",)
    needs_scale = True

    def __post_init__(self) -> None:
        if not is_count(self.every, 1):
            raise ValueError(f"k says how often to climb: an integer of at least 1, not {self.every!r}")
        number("alpha", self.alpha, 0, 1e30)

    def climbs(self, step: int) -> bool:
        """Every k-th step, the first one included."""
        return step % self.every == 0

    def combine(self, pair: Pair) -> list[Tensor]:
        """SAM's gradient; its part beside the plain one is kept."""
        g, length = pair.at_w, pair.dot(pair.perturbed, pair.perturbed)
        c = ratio(pair.dot(pair.perturbed, g), pair.dot(g, g))
        orthogonal = (s - c * t for s, t in zip(pair.perturbed, g, strict=True))
        keep(pair.memory("reused"), orthogonal, is_finite(c + length))
        return list(pair.perturbed)

    def alone(self, pair: Pair) -> list[Tensor]:
        """The plain gradient and what was kept, α times as long as it."""
        g, kept = pair.at_w, pair.memory("reused")
        return linear(1.0, g, self.alpha * root(ratio(pair.dot(g, g), pair.dot(kept, kept))), kept)


@dataclass(frozen=True)
class Weighted(Descent):
    """g + γ/(1 − γ) (g_s − g): sharpness as a weighted penalty (Yue et al. 2023, *WSAM*).

    γ = 0 is the base optimizer, ½ is SAM, more weighs sharpness beyond it.

    Args:
        gamma: γ.
        decoupled: as in the paper: the base optimizer steps along g, and the penalty's part is then subtracted from the
            weights, times the learning rate; so momentum, preconditioners, clipping and hooks on the base optimizer
            don't see it. Otherwise it steps along the sum.
    """

    gamma: float = 0.9
    decoupled: bool = True
    needs_scale = True

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma weighs sharpness against the loss: at least 0 and below 1, not {self.gamma!r}")

    def combine(self, pair: Pair) -> list[Tensor]:
        """What the base optimizer steps along."""
        if self.decoupled:
            return list(pair.at_w)
        weight = self.gamma / (1 - self.gamma)
        return linear(1 - weight, pair.at_w, weight, pair.perturbed)

    def beside(self, pair: Pair) -> list[Tensor] | None:
        """The penalty γ/(1 − γ) (g_s − g) if ``decoupled``, else None."""
        if not self.decoupled:
            return None
        weight = self.gamma / (1 - self.gamma)
        return linear(weight, pair.perturbed, -weight, pair.at_w)


@dataclass(frozen=True)
class StepSize(Descent):
    """g ‖g_s‖/‖g‖: SAM's length along the plain direction, to see what the length alone does.

    (Andriushchenko & Flammarion 2022.)
    """

    def combine(self, pair: Pair) -> list[Tensor]:
        """The plain gradient, as long as SAM's."""
        g, s = pair.at_w, pair.perturbed
        return list(torch._foreach_mul(g, root(ratio(pair.dot(s, s), pair.dot(g, g)))))


@dataclass(frozen=True)
class Selected(Descent):
    """g_s over the share ``keep`` of the batch whose loss climbs most: γ (Du et al. 2022, *ESAM*, equation 9).

    `SAM.step` and `SAM.backward` then take the loss of each example. With dropout give SAM ``same_masks=True``, or
    masks decide which loss climbs.
    """

    keep: float = 0.5
    per_example = True

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(
                f"gamma, the share of the batch that is chosen, must be above 0 and at most 1: {self.keep!r}"
            )
