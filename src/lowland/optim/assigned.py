"""What becomes of an optimizer's settings when they are assigned: checked as the constructor's, and all that follows.

Each function takes the optimizer and the new value, and keeps it. Before they are called for the first time all of the
attributes have a value (`start`).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lowland.checks import number
from lowland.optim import rules, scope
from lowland.optim.ascent import Ascent
from lowland.optim.m_sam import loop
from lowland.optim.memory import Memory


def start(optimizer: Any) -> None:
    """Give every setting a value that needs no other."""
    vars(optimizer._own).update(
        model=None, m=None, l2=0.0, eps=0.0, ascent_rule=Ascent(), descent_rule=None, scope=None, _scope=None,
        memory_limit=None, _memory=Memory(()), _pass=None, _climb=None, _engine=None, _names={},
    )  # fmt: skip


def model(optimizer: Any, value: Any) -> None:
    """The network, or None."""
    own = optimizer._own
    if value is own.model:
        return
    _between_steps(optimizer, "model")
    if value is not None and not isinstance(value, nn.Module):
        raise TypeError(f"model= is the network itself, a torch.nn.Module, not a {type(value).__name__}")
    params = list(optimizer._params())
    if value is not None and set(params).isdisjoint(value.parameters()):
        raise ValueError("model= is another model: it has none of the base optimizer's parameters")
    if own.m is not None:
        loop.check(own.m, value, params)
    rules.check(own.ascent_rule, own.descent_rule, optimizer.base, value, own.m)
    chosen = scope.resolve(own.scope, value, params) if callable(own.scope) else own._scope
    own.model, own._scope, own._names, own._engine = value, chosen, {}, None


def m(optimizer: Any, value: Any) -> None:
    """How many examples share a perturbation, or None."""
    own = optimizer._own
    _between_steps(optimizer, "m")
    _shaped(optimizer, value is not None)
    rules.check(own.ascent_rule, own.descent_rule, optimizer.base, own.model, value)
    if value is not None:
        loop.check(value, own.model, list(optimizer._params()))
        value = int(value)  # of NumPy, say: what is saved must load anywhere
    own.m, own._engine = value, None


def l2(optimizer: Any, value: Any) -> None:
    """λ."""
    number("l2", value, 0, 1e30)
    if value and isinstance(optimizer.base, torch.optim.SparseAdam):
        raise ValueError("with l2 every gradient is dense: not for SparseAdam")
    if value and any("l2" in group for group in optimizer.base.param_groups):
        raise ValueError("l2 is one number for all parameter groups, and a group has one of its own")
    optimizer._own.l2 = float(value)


def eps(optimizer: Any, value: Any) -> None:
    """Added to the norm."""
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"eps is added to the gradient norm: it must be finite and at least 0, not {value!r}")
    optimizer._own.eps = value


def memory_limit(optimizer: Any, value: Any) -> None:
    """Bytes, or None."""
    if value is not None:
        number("memory_limit", value, 1, 1e30)
    _between_steps(optimizer, "memory_limit")
    optimizer._own.memory_limit, optimizer._own._engine = value, None


def ascent_rule(optimizer: Any, value: Any) -> None:
    """Where to climb; None for the plain rule."""
    _rules(optimizer, "ascent_rule", value, optimizer._own.descent_rule)


def descent_rule(optimizer: Any, value: Any) -> None:
    """What to descend along; None for the gradient at w + ε."""
    _rules(optimizer, "descent_rule", optimizer._own.ascent_rule, value)


def both_rules(optimizer: Any, ascent: Any, descent: Any) -> None:
    """Both at once."""
    _rules(optimizer, "ascent_rule", ascent, descent)


def _rules(optimizer: Any, name: str, ascent: Any, descent: Any) -> None:
    own = optimizer._own
    _between_steps(optimizer, name)
    climbing, descending = rules.check(ascent, descent, optimizer.base, own.model, own.m)
    _shaped(optimizer, bool(climbing.memory) or climbing.evaluations == 0)
    own.ascent_rule, own.descent_rule, own._engine = climbing, descending, None
    # What is remembered under the same name is the same: a rule with another number goes on with it.
    own._memory.rename((*climbing.memory, *(() if descending is None else descending.memory)))
    optimizer._take_up_rules()


def chosen(optimizer: Any, value: Any) -> None:
    """The scope."""
    own = optimizer._own
    _between_steps(optimizer, "scope")
    _shaped(optimizer, value is not None)
    if isinstance(value, Iterable) and not isinstance(value, nn.Module):
        value = list(value)
    members = scope.resolve(value, own.model, optimizer._params())
    own.scope, own._scope, own._engine = value, members, None


def _shaped(optimizer: Any, needed: bool) -> None:
    """Whether all parameters have their shapes, if that is ``needed``: those of lazy modules have none yet."""
    if needed and any(map(is_lazy, optimizer._params())):
        raise ValueError(
            "parameters of a lazy module have no shape yet, which m, a scope, and rules that climb without a gradient "
            "or remember one need: run one batch through the model first, `with torch.no_grad(): model(x)`"
        )


def _between_steps(optimizer: Any, name: str) -> None:
    if optimizer._own._pass is not None or optimizer._own._climb is not None:
        raise RuntimeError(f"{name} assigned in the middle of a step: finish its passes first")
