"""Where to climb: rules that say from w where to evaluate the gradient that descends.

A rule is a class with a formula. It goes with any descent rule, scope, schedule of ρ and base optimizer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from lowland.checks import is_count, number
from lowland.optim.memory import is_finite, keep
from lowland.optim.sharding import local, settled, shard_number

#: A norm, or norms, and what is made of them: floats of a float, a tensor of a tensor.
Norm = TypeVar("Norm", float, Tensor, float | Tensor)


class Climb(NamedTuple):
    """How far to go: the perturbation of a parameter is ρ · ``factor`` · (its direction).

    Python numbers where the gradients are on the CPU; elsewhere 0-d tensors on the device, so that nothing waits
    for it.
    """

    #: For rho 1; zero where there is nothing to climb along.
    factor: float | Tensor
    #: The ascent gradient had an entry that is not finite.
    overflow: bool | Tensor


@dataclass(slots=True)
class Slope:
    """What a rule sees: the parameters that climb, and the gradient where the weights are.

    Attributes:
        owners: the parameters that have a gradient, or all that climb if no gradient was taken.
        weights: what this process holds of each.
        gradients: what it holds of their gradients, times ``scale``; empty if none was taken. Not to be changed.
        norm: Euclidean norm of tensors like ``weights``, over all of them and all processes: a float on the CPU,
            else a 0-d tensor.
        eps: added to norms.
        scale: what a ``GradScaler`` multiplied ``gradients`` with; 1 for rules that `needs_scale`.
        step: steps made so far.
        climbed: the directions of the climb so far, for rules that take several evaluations.
        rho: the largest ρ among the parameter groups'.
        name: what the model calls a parameter, for rules that `needs_names`.
        memory: by name, tensors like ``weights`` that are kept from step to step, zero at first.
        base: the base optimizer.
    """

    owners: list[Tensor]
    weights: list[Tensor]
    gradients: list[Tensor]
    norm: Callable[[Sequence[Tensor]], float | Tensor]
    eps: float
    scale: float | Tensor
    step: int
    climbed: list[Tensor] | None
    rho: float
    name: Callable[[Tensor], str]
    memory: Callable[[str], list[Tensor]]
    base: torch.optim.Optimizer


def length(norm: Norm, eps: float | Tensor, rho: float | Tensor = 1.0) -> Norm:
    """ρ / (‖g‖ + eps): what g is multiplied with to reach the sphere; 0 where its norm is zero or not finite.

    Args:
        norm: ‖g‖: a float, or a tensor of any shape, of one norm for each group of examples say.
        eps: added to it.
        rho: radius of the sphere.

    Returns:
        What ``norm`` is: a float or a tensor of its shape.
    """
    if isinstance(norm, Tensor):
        return torch.where(usable(norm), rho / (norm + eps), 0)
    return rho / (norm + eps) if 0 < norm < math.inf else 0.0  # type: ignore[return-value]  # eps and rho are floats, too


def usable(norm: Tensor) -> Tensor:
    """Whether there is something of this norm to climb along."""
    return (norm > 0) & (norm < math.inf)


def overflows(norm: float | Tensor) -> bool | Tensor:
    """Whether an entry of what has this norm isn't finite."""
    return ~torch.isfinite(norm) if isinstance(norm, Tensor) else not math.isfinite(norm)


def l2(norm: float | Tensor, eps: float, loss_scale: float | Tensor = 1.0) -> Climb:
    """Up to the sphere of radius ρ: ε = ρ g / (‖g‖ + eps) (Foret et al. 2021, equation 2).

    A norm that is zero or not finite gives a zero perturbation.

    Args:
        norm: of the gradient over all parameters, as it was computed: times ``loss_scale``.
        eps: added to the norm of the gradient proper.
        loss_scale: what the loss was multiplied with against underflow.
    """
    if not isinstance(norm, Tensor):
        loss_scale = float(loss_scale)
    elif isinstance(loss_scale, Tensor):
        loss_scale = loss_scale.to(norm.device, norm.dtype)
    return Climb(length(norm, eps * loss_scale), overflows(norm))


def times(tensors: Sequence[Tensor], factor: float | Tensor) -> list[Tensor]:
    """``factor`` · tensors; zero where the factor is, be the tensors finite or not."""
    if isinstance(factor, Tensor):
        return [torch.where(factor != 0, t, 0) for t in torch._foreach_mul(list(tensors), factor)]
    return list(torch._foreach_mul(list(tensors), factor)) if factor else [torch.zeros_like(t) for t in tensors]


class Ascent:
    """Along the gradient to the sphere of radius ρ: ε = ρ g / (‖g‖ + eps) (Foret et al. 2021, equation 2).

    The base of all rules. Most give only a `direction`; one that doesn't end on the sphere overrides `climb`.
    """

    #: Of the gradient, before that at w + ε: the first at w, each further one where the climb so far has led.
    evaluations: int = 1
    #: Names of the tensors that it keeps from step to step.
    memory: ClassVar[tuple[str, ...]] = ()
    #: Whether it needs the gradient proper: then it gets that, and must be told of a GradScaler.
    needs_scale: ClassVar[bool] = False

    @property
    def needs_names(self) -> bool:
        """Whether it needs the model, to tell parameters apart by their names."""
        return False

    def check(self, base: torch.optim.Optimizer) -> None:
        """Raise ValueError if the rule can't go with ``base``."""

    def direction(self, slope: Slope) -> list[Tensor]:
        """The tensors to climb along, of any length: here the gradients."""
        return slope.gradients

    def reach(self, norm: Norm, eps: float, rho: float) -> Norm:
        """How far to climb along what has this ``norm``, for ρ 1: a float, or a tensor of a norm for each group.

        ``rho`` is the largest of the parameters that climb.
        """
        return length(norm, eps)

    def climb(self, slope: Slope) -> tuple[list[Tensor], Climb]:
        """Along what to climb, and how far."""
        direction = self.direction(slope)
        return direction, l2(slope.norm(direction), slope.eps, slope.scale)

    def learn(self, memory: Callable[[str], list[Tensor]], gradients: list[Tensor]) -> None:
        """Take up the gradient that a step descends along, into tensors of `memory`."""


@dataclass(frozen=True)
class Unnormalized(Ascent):
    """ε = ρ g (Andriushchenko & Flammarion 2022, *Towards Understanding Sharpness-Aware Minimization*).

    ρ then is in units of the parameters squared by units of the loss.
    """

    needs_scale = True

    def reach(self, norm: Norm, eps: float, rho: float) -> Norm:
        """1, since the norm doesn't change the step's length; 0 if the norm is 0 or not finite."""
        return usable(norm).to(norm.dtype) if isinstance(norm, Tensor) else float(0 < norm < math.inf)

    def climb(self, slope: Slope) -> tuple[list[Tensor], Climb]:
        """Without the norm, which is taken to see an overflow."""
        norm = slope.norm(slope.gradients)
        return slope.gradients, Climb(self.reach(norm, slope.eps, slope.rho), overflows(norm))


@dataclass(frozen=True)
class Adaptive(Ascent):
    """ε = ρ T² g / (‖T g‖ + eps), T = |w| + η (Kwon et al. 2021, *ASAM*, equation 5 and Algorithm 1).

    Invariant to rescaling neighbouring layers against each other. ρ is in units of relative change.

    Args:
        eta: η.
        biases: whether T = |w| + η for all parameters, or only for those whose name holds "weight" and 1 for the
            others, as the authors have it. The latter needs SAM's ``model``.
    """

    eta: float = 0.01
    biases: bool = False

    def __post_init__(self) -> None:
        number("eta", self.eta, 0, 1e30)

    @property
    def needs_names(self) -> bool:
        """Whether biases keep T = 1: they are told by their names."""
        return not self.biases

    def metric(self, weight: Tensor) -> Tensor:
        """T = |w| + η, a new tensor."""
        return weight.abs().add_(self.eta)

    def adapts(self, owner: Tensor, name: Callable[[Tensor], str]) -> bool:
        """Whether T isn't 1 for this parameter; ``name`` says what the model calls it."""
        return self.biases or "weight" in name(owner)

    def climb(self, slope: Slope) -> tuple[list[Tensor], Climb]:
        """Along T² g, with a length that divides by ‖T g‖; half precision in single: T² g underflows."""
        adapted = [self.adapts(owner, slope.name) for owner in slope.owners]
        measured = [
            self.metric(_single(w)).mul_(_single(g)) if adapts else g
            for w, g, adapts in zip(slope.weights, slope.gradients, adapted, strict=True)
        ]
        climb = l2(slope.norm(measured), slope.eps, slope.scale)
        for w, direction, adapts in zip(slope.weights, measured, adapted, strict=True):
            if adapts:
                direction.mul_(self.metric(_single(w)))
        return measured, climb


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


@dataclass(frozen=True)
class MultiStep(Ascent):
    """Several steps along normalized gradients, each projected back into the ball of radius ρ.

    e ← Π(e + s ρ g(w + e)/‖g(w + e)‖), from e = 0 (projected gradient ascent; Andriushchenko & Flammarion 2022
    take 20 steps of 0.1 ρ to measure sharpness).

    Args:
        steps: how many, each an evaluation.
        stride: s. By default 2/steps: enough to reach the sphere and to move along it.
    """

    steps: int = 2
    stride: float | None = None

    def __post_init__(self) -> None:
        if not is_count(self.steps, 1):
            raise ValueError(f"steps is how many ascent steps to take: an integer of at least 1, not {self.steps!r}")
        if self.stride is not None:
            number("stride", self.stride, 0, 1e30)

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """One evaluation of the gradient for each step of the climb."""
        return self.steps

    def climb(self, slope: Slope) -> tuple[list[Tensor], Climb]:
        """One more step from where the climb has led."""
        climb = l2(slope.norm(slope.gradients), slope.eps, slope.scale)
        stride = 2 / self.steps if self.stride is None else self.stride
        e = times(slope.gradients, climb.factor * stride)
        if slope.climbed is not None:
            torch._foreach_add_(e, slope.climbed)
        length = slope.norm(e)
        if isinstance(length, Tensor):
            torch._foreach_mul_(e, (1 / length).clamp(max=1))
        elif length > 1:
            torch._foreach_mul_(e, 1 / length)
        return e, Climb(1.0, climb.overflow)


@dataclass(frozen=True)
class Random(Ascent):
    """To a random point of the sphere: ε = ρ z/‖z‖, z normal. Takes no gradient to climb: all is evaluated at w + ε.

    z depends on ``seed`` and the step alone: the same in every process that holds the same parameters, and after a
    resume.
    """

    seed: int = 0
    evaluations = 0

    def __post_init__(self) -> None:
        number("seed", self.seed)

    def direction(self, slope: Slope) -> list[Tensor]:
        """z, drawn anew from the standard normal distribution."""
        return draw(slope, self.seed, lambda t, generator: t.normal_(generator=generator))


@dataclass(frozen=True)
class Previous(Ascent):
    """Along the gradient d that the last step descended along: ε = ρ d/‖d‖.

    Takes no gradient for it: all is evaluated at w + ε.
    (*A Single-Step, Sharpness-Aware Minimization is All You Need*, 2024: S²-SAM.) The first step is plain.
    """

    evaluations = 0
    memory = ("previous",)

    def direction(self, slope: Slope) -> list[Tensor]:
        """The gradient that the last step descended along; zeros before the first step."""
        return slope.memory("previous")

    def learn(self, memory: Callable[[str], list[Tensor]], gradients: list[Tensor]) -> None:
        """Keep it, unless it isn't finite."""
        if gradients:
            sums = [gradient.sum(dtype=torch.float32).to(gradients[0].device) for gradient in gradients]
            keep(memory("previous"), gradients, torch.isfinite(torch.stack(sums)).all())


@dataclass(frozen=True)
class Momentum(Ascent):
    """Ahead of the momentum: ε = −ρ v/‖v‖, v the base optimizer's running sum of gradients.

    Takes no gradient for it: all is evaluated at w + ε.
    (Becker et al. 2024, *Momentum-SAM*: the sign is that of their algorithm and code, where the step goes along −v.)
    The first step is plain.
    """

    evaluations = 0

    def check(self, base: torch.optim.Optimizer) -> None:
        """Raise ValueError if the base optimizer has a parameter group without momentum."""
        if any(group.get("momentum") == 0 and "betas" not in group for group in base.param_groups):
            raise ValueError(
                f"the ascent is along the base optimizer's momentum, and this {type(base).__name__} has none: "
                "give it one, momentum=0.9 say"
            )

    def direction(self, slope: Slope) -> list[Tensor]:
        """SGD's momentum buffer or Adam's first moment, backwards."""
        states = [getattr(slope.base, "state", {}).get(owner, {}) for owner in slope.owners]
        if slope.step and not any(key in state for state in states for key in _MOMENTA):
            kind = type(slope.base).__name__
            raise RuntimeError(f"{kind} keeps no momentum to climb along: its state has no {' or '.join(_MOMENTA)}")
        found = [next((state[key] for key in _MOMENTA if state.get(key) is not None), None) for state in states]
        known = zip(slope.owners, found, slope.weights, strict=True)
        return [-local(settled(owner, v)).to(w.dtype) for owner, v, w in known]


_MOMENTA = ("momentum_buffer", "exp_avg")


@dataclass(frozen=True)
class Friendly(Ascent):
    """Along what is particular to the batch: ε = ρ d/‖d‖, d = g − σ m, then m ← λ m + (1 − λ) g.

    (Li et al. 2024, *Friendly Sharpness-Aware Minimization*, in the order of the authors' code; m starts as the first
    gradient, after a step of plain SAM.)
    """

    sigma: float = 1.0
    decay: float = 0.95
    needs_scale = True
    memory = ("average",)

    def __post_init__(self) -> None:
        number("sigma", self.sigma, -1e30, 1e30)
        number("decay", self.decay, 0, 1)

    def climb(self, slope: Slope) -> tuple[list[Tensor], Climb]:
        """Along g − σ m; then update the average m with g, unless the norm isn't finite."""
        g, average = slope.gradients, slope.memory("average")
        d = torch._foreach_add(g, average, alpha=-self.sigma)
        norm, length = slope.norm(d), slope.norm(average)
        started = (length != 0).to(length.dtype) if isinstance(length, Tensor) else length != 0
        share = 1 - self.decay * started  # the first gradient counts whole
        averaged = (a + share * (t - a) for a, t in zip(average, g, strict=True))
        keep(average, averaged, is_finite(norm))
        return list(d), l2(norm, slope.eps)


@dataclass(frozen=True)
class Stochastic(Ascent):
    """A random part of the weights climbs: ε = ρ b∘g / (β ‖g‖), each entry of b 1 with probability β and 0 else.

    (Stochastic weight perturbation: Du et al. 2022, *Efficient Sharpness-aware Minimization*, as in the paper; the
    authors' code draws for whole tensors.) b depends on ``seed`` and the step alone, as in `Random`.

    Args:
        keep: β.
        seed: of the draws.
    """

    keep: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"beta, the share of the weights that climb, must be above 0 and at most 1: {self.keep!r}")

    def climb(self, slope: Slope) -> tuple[list[Tensor], Climb]:
        """As far as the whole gradient says."""
        climb = l2(slope.norm(slope.gradients), slope.eps, slope.scale)
        chosen = draw(slope, self.seed, lambda t, generator: t.bernoulli_(self.keep, generator=generator))
        directions = [torch.where(b != 0, g / self.keep, 0) for b, g in zip(chosen, slope.gradients, strict=True)]
        return directions, climb


@dataclass(frozen=True)
class LossBudget(Ascent):
    """As far as raises the loss by ρ, to first order: ε = min(ρ/‖g‖, ``longest``) g/‖g‖.

    (Wang et al. 2026, LE-SAM, from the authors' code; ρ is their σ, in units of the loss.)

    Args:
        longest: the largest ‖ε‖, in units of the parameters.
    """

    longest: float = math.inf
    needs_scale = True

    def __post_init__(self) -> None:
        number("longest", self.longest, 0)

    def reach(self, norm: Norm, eps: float, rho: float) -> Norm:
        """What the budget pays for."""
        factor, cap = length(norm, eps), self.longest / rho if rho else 0.0
        return factor * (factor.clamp(max=cap) if isinstance(factor, Tensor) else min(factor, cap))

    def climb(self, slope: Slope) -> tuple[list[Tensor], Climb]:
        """Along the gradient, as far as `reach` says for the largest ρ."""
        norm = slope.norm(slope.gradients)
        return slope.gradients, Climb(self.reach(norm, slope.eps, slope.rho), overflows(norm))


def draw(slope: Slope, seed: int, fill: Callable[[Tensor, torch.Generator], Tensor]) -> list[Tensor]:
    """Random tensors like the weights, the same in every process that holds the same ones, and after a resume."""
    generators: dict[tuple[torch.device, int], torch.Generator] = {}
    drawn = []
    for owner, w in zip(slope.owners, slope.weights, strict=True):
        number = shard_number(owner)  # the pieces of one parameter in several processes differ
        if (w.device, number) not in generators:
            mixed = ((seed * 1_000_003 + slope.step) * 1_000_003 + number) % 2**32  # the CPU's takes 32 bits
            generators[w.device, number] = torch.Generator(w.device).manual_seed(mixed)
        drawn.append(fill(torch.empty_like(w), generators[w.device, number]))
    return drawn
