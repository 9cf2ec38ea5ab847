"""Which rules go together, and with what."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lowland.optim.ascent import Ascent
from lowland.optim.descent import Descent


def check(
    ascent: Any, descent: Any, base: Optimizer, model: nn.Module | None, m: int | None
) -> tuple[Ascent, Descent | None]:
    """The rules as given, the plain ascent by default.

    Raises:
        TypeError: for something else than a rule.
        ValueError: for rules that don't go with each other, with ``m`` or with ``base``.
    """
    ascent = Ascent() if ascent is None else ascent
    for rule, kind, example in ((ascent, Ascent, "ascent.Adaptive()"), (descent, Descent, "descent.SurrogateGap()")):
        if not isinstance(rule, kind) and rule is not None:
            shown = f"the class {rule.__name__}" if isinstance(rule, type) else repr(rule)
            raise TypeError(f"{kind.__name__.lower()}= is a rule, lowland.optim.{example} say, not {shown}")
    assert isinstance(ascent, Ascent)
    ascent.check(base)
    if ascent.needs_names and model is None:
        raise ValueError(f"{name(ascent, descent)} tells parameters apart by their names: give model=")
    if descent is not None and not descent.per_example and isinstance(base, torch.optim.SparseAdam):
        raise ValueError(f"{name(ascent, descent)} combines gradients, which makes them dense: not for SparseAdam")
    if m is not None and (descent is not None or ascent.memory or ascent.evaluations == 0):
        raise ValueError(
            f"m goes with ascent rules that take each group's own gradient, not with {name(ascent, descent)}"
        )
    if descent is not None and descent.per_example and ascent.evaluations != 1:
        raise ValueError(f"{name(ascent, descent)}: choosing examples takes an ascent rule with one evaluation")
    return ascent, descent


def name(ascent: Ascent, descent: Descent | None) -> str:
    """What to call them in a message."""
    if descent is None:
        return type(ascent).__name__
    return f"{type(ascent).__name__} with {type(descent).__name__}"
