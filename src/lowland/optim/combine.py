"""The gradients of the passes made into one: what the base optimizer steps along, by the descent rule."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lowland.optim.descent import Pair
from lowland.optim.memory import Memory
from lowland.optim.options import Options
from lowland.optim.sharding import global_dot, local, settled


@dataclass(slots=True)
class Combined:
    """What to descend along.

    Attributes:
        owners: the parameters that have a gradient.
        gradients: those of the last pass, whose memory the combination is meant for.
        pieces: what this process holds of these.
        values: what is to stand in ``pieces``.
        beside: what is to be subtracted from the weights beside the base optimizer's step, if anything.
    """

    owners: list[Tensor]
    gradients: list[Tensor]
    pieces: list[Tensor]
    values: list[Tensor]
    beside: list[Tensor] | None


def combine(
    params: list[Tensor],
    at_w: list[Tensor | None] | None,
    gradients: list[Tensor | None],
    factor: float | Tensor,
    options: Options,
    memory: Memory,
) -> Combined:
    """What the descent rule makes of the gradients of a batch.

    Args:
        params: that may have one.
        at_w: the gradients at w; None in a step that doesn't climb.
        gradients: those of the last pass.
        factor: how far the climb went: where it is 0 nothing was climbed along, and the last gradient is that at w.
        options: have the rule.
        memory: of what it keeps from step to step.
    """
    rule = options.descent_rule
    assert rule is not None
    owners, first, last = [], [], []
    for param, g, s in zip(params, at_w or gradients, gradients, strict=True):
        if g is None and s is None:
            continue
        owners.append(param)
        first.append(settled(param, g))
        last.append(settled(param, s))
    pieces = [local(s) for s in last]
    pair = Pair(
        [local(g) for g in first] if at_w is not None else pieces,
        pieces,
        partial(global_dot, params, owners),
        partial(memory.of, owners),
    )
    if at_w is None:
        values = rule.alone(pair)
    else:
        values = rule.combine(pair) if isinstance(factor, Tensor) or factor else pieces
    if not isinstance(values, list) or len(values) != len(pieces):
        raise ValueError(f"{options.rules} must give a list of {len(pieces)} tensors, one for each parameter")
    if isinstance(factor, Tensor):
        values = [torch.where(factor != 0, c, s) for c, s in zip(values, pieces, strict=True)]
    return Combined(owners, last, pieces, values, rule.beside(pair) if at_w is not None else None)
