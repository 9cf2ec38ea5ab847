"""Where to climb: parameters, their gradients and what SAM was asked for make a `Plan`. Nothing moves here."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from lowland.optim import amp
from lowland.optim.ascent import Ascent, Climb, Slope, l2
from lowland.optim.memory import Memory
from lowland.optim.options import Options
from lowland.optim.sharding import global_norm, local, local_pair


@dataclass(slots=True)
class Plan:
    """What to move, along what, by how much.

    Attributes:
        owners: the parameters.
        weights: what this process holds of each.
        directions: along what.
        rhos: the radius of each.
        climb: how far, for ρ 1.
        scale: what the loss was multiplied with.
        evaluated: whether a gradient was taken for it.
        scaler: of the loss, if any.
        synchronized: whether all processes have the same.
    """

    owners: list[Tensor]
    weights: list[Tensor]
    directions: list[Tensor]
    rhos: list[float]
    climb: Climb
    scale: float | Tensor
    evaluated: bool
    scaler: GradScaler | None = None
    synchronized: bool = True


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a rule may ask for beside weights and gradients.

    Attributes:
        base: the base optimizer.
        steps: made so far.
        name: what the model calls a parameter.
        memory: what is kept from step to step.
    """

    base: Optimizer
    steps: int
    name: Callable[[Tensor], str]
    memory: Memory


def where(
    params: list[Tensor],
    gradients: list[Tensor | None] | None,
    rhos: list[float],
    options: Options,
    around: Surroundings,
    scaler: GradScaler | None = None,
    before: Plan | None = None,
) -> Plan | None:
    """Where to climb from here, along ``gradients``; None if no parameter that climbs has one.

    Args:
        params: that may get a gradient.
        gradients: theirs, or None for rules that take none.
        rhos: their radii.
        options: what SAM was asked for.
        around: what else a rule may ask for.
        scaler: that the loss was scaled by.
        before: where the climb so far has led.
    """
    members: Iterable[tuple[Tensor, Tensor | None, float]]
    members = zip(params, repeat(None) if gradients is None else gradients, rhos)  # noqa: B905
    if options.members is not None:
        members = [member for member in members if member[0] in options.members]
        params = [member[0] for member in members]
    foret = type(options.ascent_rule) is Ascent
    climbing = set() if before is None else set(before.owners)
    owners, weights, pieces, radii = [], [], [], []
    for param, gradient, rho in members:
        if gradient is not None:
            if gradient.is_sparse and not foret:
                gradient = gradient.to_dense()
            weight, piece = local_pair(param, gradient)
            pieces.append(piece)
        elif gradients is None:
            weight = local(param.detach())
        elif param in climbing:  # it goes on where an earlier evaluation has led it
            weight, piece = local_pair(param, torch.zeros_like(param))
            pieces.append(piece)
        else:
            continue
        owners.append(param)
        weights.append(weight)
        radii.append(rho)
    if not owners:
        return None
    scale = amp.loss_scale(scaler, pieces[0]) if pieces else 1.0
    plan = Plan(owners, weights, pieces, radii, Climb(0.0, False), scale, options.evaluations > 0, scaler)
    norm = partial(global_norm, params, owners)
    if foret:
        plan.climb = l2(norm(pieces), options.eps, scale)
    else:
        plan.directions, plan.climb = options.ascent_rule.climb(_slope(plan, norm, options, around, before))
        if len(plan.directions) != len(owners):
            raise ValueError(f"{options.rules} gave {len(plan.directions)} directions for {len(owners)} parameters")
    return plan


def _slope(
    plan: Plan,
    norm: Callable[[Sequence[Tensor]], float | Tensor],
    options: Options,
    around: Surroundings,
    before: Plan | None,
) -> Slope:
    """What a rule other than Foret's sees."""
    owners, weights, pieces, scale, climbed = plan.owners, plan.weights, plan.directions, plan.scale, None
    if before is not None:
        so_far = dict(zip(before.owners, before.directions, strict=True))
        climbed = [so_far[o] if o in so_far else torch.zeros_like(w) for o, w in zip(owners, weights, strict=True)]
    if options.ascent_rule.needs_scale and isinstance(scale, Tensor):
        pieces, scale = list(torch._foreach_div(pieces, scale)), 1.0
    return Slope(
        owners,
        weights,
        pieces,
        norm,
        options.eps,
        scale if options.ascent_rule.evaluations else 1.0,
        around.steps,
        climbed,
        max(plan.rhos),
        around.name,
        partial(around.memory.of, owners),
        around.base,
    )
