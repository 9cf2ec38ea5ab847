"""Worst-case sharpness: how much the loss rises when every group of examples climbs for itself."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.checks import count, number, radius
from lowland.curvature.arguments import check_eps, whole_seed
from lowland.curvature.groups import Sharpness, groups, unchanging_groups, warn_of_rounding
from lowland.curvature.lanczos import random_direction
from lowland.curvature.nondeterminism import DeterminismCheck
from lowland.curvature.objective import LossFn, Objective, Weight
from lowland.curvature.vectors import euclidean_norm
from lowland.optim.functional import EPS, global_norm, perturbation
from lowland.patience import doing

_STRIDE = 0.1  # length of each of several ascent steps over ρ, as Andriushchenko & Flammarion (2022) have it


@torch.inference_mode(False)
def sharpness(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any],
    rho: float,
    m: int | None = None,
    *,
    steps: int = 1,
    restarts: int = 1,
    adaptive: bool = False,
    norm: float = 2,
    step_size: float | None = None,
    weight: Weight | None = None,
    eps: float = EPS,
    seed: int = 0,
) -> Sharpness:
    """The mean over groups of examples of max L(w + ε) − L(w) over ‖ε‖ ≤ ρ, L and ε being the group's own.

    Foret et al. 2021, equation 1; in groups of m, Andriushchenko & Flammarion 2022, *Towards Understanding
    Sharpness-Aware Minimization*, equation 3; adaptive, Kwon et al. 2021, *ASAM*, where the ball is ‖ε/|w|‖ ≤ ρ, the
    quotient taken entry by entry, and the sharpness the same for any scaling of single weights that leaves the
    network's function as it is. (An entry that is 0 doesn't move; ASAM's η, which lets it, is 0 here.)

    With ``norm=math.inf`` the ball is a box: no entry of ε, or of ε/|w|, is larger than ρ (Kwon et al. 2021, p = ∞;
    Andriushchenko et al. 2023, *A Modern Look at the Relationship between Sharpness and Generalization*). The step is
    then along the signs of the gradient, ε = ρ sign g, and steps that lead out are cut entry by entry.

    The maximum is sought by projected gradient ascent, so that each value is a **lower bound**. A single step is SAM's:
    ε = ρ g/(‖g‖ + eps). Of several, each is 0.1 ρ long and projected back onto the ball (that paper takes 20); SAM's
    step is tried besides. What counts is the highest loss seen, without that at w. So more steps or restarts never find
    less, and a value is negative if all that was tried lies lower than w.

    The loss of each group at w is measured twice, and must be the same.

    Args:
        model: see `lowland.curvature.Hessian`, as for ``loss_fn`` and ``batches``.
        loss_fn: mean loss over a batch.
        batches: ``(x, y)`` pairs.
        rho: radius ρ ≥ 0, in the units of the parameters; adaptive, relative to them.
        m: examples in a group. Groups are consecutive within a batch; the last one of a batch may be smaller, and
            each weighs by its size. By default each batch is a group.
        steps: of each ascent.
        restarts: ascents. The first starts at w, each other at a random point on the sphere of radius ρ, or a random
            corner of the box, the same for all groups.
        adaptive: scale the ball by |w|.
        norm: of ε: 2, or ``math.inf`` for the largest entry.
        step_size: length of each of several steps over ρ, above 0 and at most 1; by default 0.1. A single one is
            always ρ long.
        weight: what a batch counts, or a group of it.
        eps: added to ‖g‖.
        seed: of the random starts.

    Returns:
        One value for each batch, or with ``m`` for each group, and their mean: 0 for zero gradients, not finite if a
        loss or a gradient isn't.

    Raises:
        TypeError: with ``m``, if a batch isn't two tensors that can be cut.
        ValueError: for arguments out of range; with ``m``, if a layer couples the examples of a batch; where two
            evaluations of the loss at w differ; for a loss without a gradient.

    Warns:
        UserWarning: where the rise is lost in the rounding of the losses, or in what they differ by at the same
            weights.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 2.0)
        >>> batch = torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1)
        >>> found = sharpness(model, torch.nn.functional.mse_loss, [batch], rho=0.1, m=1)
        >>> round(found.value, 4), found.weights  # 2.1² − 2²
        (0.41, (1.0, 1.0))
    """
    search = Search(rho, steps, restarts, adaptive, step_size, eps, seed, norm)
    check_m(m)
    objective = Objective(model, loss_fn, batches, weight=weight)
    seen = DeterminismCheck(objective.params, objective.dtype)
    with doing("sharpness"):
        found = list(_rises(objective, m, search, seen))
    weights, values, _ = zip(*found, strict=True)
    value = _mean_rise(objective, found, search, seen)
    return Sharpness(value, values, weights, _standard_error(value, weights, values))


@torch.inference_mode(False)
def m_sharpness(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any],
    rho: float,
    m: int | None = None,
    *,
    steps: int = 1,
    weight: Weight | None = None,
    eps: float = EPS,
) -> float:
    """The value of `sharpness` alone, as `Monitor` records it: by default all examples of all batches are one group.

    Args:
        model: see `sharpness`, as for the others.
        loss_fn: mean loss over a batch.
        batches: ``(x, y)`` pairs.
        rho: radius ρ ≥ 0, in the units of the parameters.
        m: examples in a group; None: one group of all batches together.
        steps: of the ascent.
        weight: what a batch counts, or a group of it.
        eps: added to ‖g‖.

    Returns:
        The sharpness, in units of the loss. 0 for a zero gradient; not finite if a loss or a gradient isn't.

    Raises:
        TypeError: as `sharpness`.
        ValueError: as `sharpness`.

    Warns:
        UserWarning: as `sharpness`.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 2.0)
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> batch = x, torch.zeros(2, 1)
        >>> round(m_sharpness(model, torch.nn.functional.mse_loss, [batch], rho=0.1), 4)  # 2.1² − 2²
        0.41
    """
    search = Search(rho, steps, eps=eps)
    check_m(m)
    objective = Objective(model, loss_fn, batches, weight=weight)
    seen = DeterminismCheck(objective.params, objective.dtype)
    with doing("m-sharpness"):
        if m is not None:
            found = list(_rises(objective, m, search, seen))
        else:
            at_w = objective.loss_and_gradient()
            seen(at_w[0])
            seen(objective.loss())
            found = [(1.0, search.rise(objective, at_w), at_w[0].item())]
    return _mean_rise(objective, found, search, seen)


@dataclass(frozen=True)
class Search:
    """How the highest loss near w is sought; see `sharpness` for each field.

    Raises:
        ValueError: for numbers out of range.
    """

    rho: float
    steps: int = 1
    restarts: int = 1
    adaptive: bool = False
    step_size: float | None = None
    eps: float = EPS
    seed: int = 0
    norm: float = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", radius(self.rho))
        count("steps", self.steps)
        count("restarts", self.restarts)
        check_eps(self.eps)
        if isinstance(self.norm, bool) or self.norm not in (2, math.inf):
            raise ValueError(f"norm must be 2, for a ball, or math.inf, for a box: not {self.norm!r}")
        object.__setattr__(self, "seed", whole_seed(self.seed))
        if self.step_size is not None:
            number("step_size", self.step_size, 0, 1)
            if self.step_size == 0:
                raise ValueError("step_size is a fraction of rho, above 0 and at most 1: not 0")

    def rise(self, objective: Objective, at_w: tuple[Tensor, Tensor] | None = None) -> float:
        """The highest L(w + ε) − L(w) found; ``at_w`` are loss and gradient at w, if they are known already."""
        # In z = ε/|w|, or ε itself, the ball is round.
        scale = objective.flat(p.detach() for p in objective.params).abs() if self.adaptive else 1.0
        stride = _STRIDE if self.step_size is None else self.step_size
        at_w = at_w or objective.loss_and_gradient()
        highest = torch.full_like(at_w[0], -math.inf)
        for z in self._starts(objective):
            for step in range(self.steps):
                if z is None:
                    _, gradient = at_w
                else:
                    loss, gradient = objective.loss_and_gradient(scale * z)
                    highest = torch.maximum(highest, loss)
                gradient = scale * gradient
                if not torch.isfinite(global_norm(gradient)):
                    return math.nan
                if step == 0:
                    highest = torch.maximum(highest, objective.loss(scale * self._climb(z, gradient, self.rho)))
                z = self._climb(z, gradient, stride * self.rho)
                if step == self.steps - 1 > 0:
                    highest = torch.maximum(highest, objective.loss(scale * z))
        return highest.item() - at_w[0].item()

    def _starts(self, objective: Objective) -> Iterator[Tensor | None]:
        """None, which stands for w itself, then random points on the sphere."""
        yield None
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.restarts - 1):
            if self.norm == math.inf:
                corner = torch.randint(2, (objective.size,), generator=generator, device="cpu", dtype=torch.int8)
                yield self.rho * (2 * corner - 1).to(objective.device, objective.dtype)
                continue
            yield self.rho * random_direction(objective.size, generator, objective.dtype, objective.device)

    def _climb(self, z: Tensor | None, gradient: Tensor, length: float) -> Tensor:
        if self.norm == math.inf:
            step = length * gradient.sign()
            return step if z is None else (z + step).clamp(-self.rho, self.rho)
        step = perturbation(gradient, length, self.eps)
        if z is None:  # no longer than ρ
            return step
        z = z + step
        return z * (self.rho / euclidean_norm(z)).clamp(max=1).nan_to_num(1.0)  # 0/0: ρ or g is 0


def _rises(
    objective: Objective, m: int | None, search: Search, seen: DeterminismCheck
) -> Iterator[tuple[float, float, float]]:
    """Of each group its weight, its rise, and its loss at w."""
    for weight, group, again in unchanging_groups(objective, m, seen):
        at_w = group.loss_and_gradient()
        again(at_w[0])
        yield weight, search.rise(group, at_w), at_w[0].item()


def _mean_rise(
    objective: Objective, found: list[tuple[float, float, float]], search: Search, seen: DeterminismCheck
) -> float:
    total = sum(weight for weight, _, _ in found)
    rise = sum(weight * rise for weight, rise, _ in found) / total
    if search.rho:
        warn_of_rounding(objective, rise, sum(weight * loss for weight, _, loss in found) / total)
        seen.warn_beside(rise)
    return rise


def mean_rise(objective: Objective, m: int | None, search: Search, at_w: tuple[Tensor, Tensor]) -> float:
    """`m_sharpness` of an objective, whose loss and gradient ``at_w`` are known already, and known not to change."""
    if m is None:
        return search.rise(objective, at_w)
    found = [(weight, search.rise(group)) for weight, group in groups(objective, m)]
    total, rises = sum(weight for weight, _ in found), sum(weight * rise for weight, rise in found)
    if objective.processes is None:
        return rises / total
    together = torch.tensor(rises, dtype=torch.float64, device=objective.device)
    return objective.mean(total, together)[0].item()


def check_m(m: int | None) -> None:
    """Raise ValueError for a size of groups out of range."""
    if m is not None:
        count("m", m)


def _standard_error(value: float, weights: tuple[float, ...], values: tuple[float, ...]) -> float | None:
    """Of a weighted mean of n independent values: s/√n where the weights are equal."""
    n = len(values)
    if n == 1:
        return None
    squares = sum((weight * (each - value)) ** 2 for weight, each in zip(weights, values, strict=True))
    return math.sqrt(n / (n - 1) * squares) / sum(weights)
