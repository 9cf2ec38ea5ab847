"""Learning rate and rho of an optimizer, as its edge of stability needs them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.curvature.objective import Objective
from lowland.curvature.vectors import entries

_DEEPEST = 10  # wrappers around wrappers


@dataclass(frozen=True)
class Rates:
    """At the time of a check, over the groups that hold some of w.

    Where groups differ, ``lr``, ``momentum`` and ``rho`` are the largest. With D and R the diagonal matrices of each
    entry's η and ρ, SAM's linearized step multiplies w by I − D(H + HRH/‖g‖), which oscillates nowhere while
    η λ (1 + ρ λ/‖g‖) ≤ 2 holds for the largest η, ρ and λ. So below the edge of those two nothing oscillates; above it
    something may.

    There is an edge for `torch.optim.SGD` alone, without momentum as in the paper, or with: momentum β makes the step
    oscillate at η λ (1 + ρ λ/‖g‖) = 2 + 2β (for ρ = 0 Cohen et al. 2021, *Gradient Descent on Neural Networks
    Typically Occurs at the Edge of Stability*), Nesterov's at (2 + 2β)/(1 + 2β), and dampening τ multiplies η by 1 − τ.
    Each is the edge without momentum at another step size, ``edge_lr``. What an adaptive optimizer steps along is
    preconditioned, and its edge a matter of the preconditioned Hessian; of an optimizer that isn't known to be SGD
    nothing can be said.

    Attributes:
        lr: η; None where groups have none, or it is 0: then nothing moves, and there is no edge.
        rho: ρ, 0 without SAM; None where there is one but not plain SAM's (ASAM's, say): then no edge is known either.
        radii: ρ of each entry of w, shape ``(n,)``, or the one of all.
        momentum: β; None where the optimizer isn't SGD.
        edge_lr: the step size of plain SGD that has the same edges; None where there are none.
    """

    lr: float | None
    rho: float | None
    radii: float | Tensor
    momentum: float | None
    edge_lr: float | None


def rates(optimizer: Any, objective: Objective) -> Rates:
    """What ``optimizer`` has in its groups now."""
    # Adadelta's rho is a rate of decay.
    climbs = not isinstance(optimizer, torch.optim.Adadelta)
    owner = {param: group for group in optimizer.param_groups for param in group["params"]}
    groups = [owner[param] for param in objective.params]
    lr = max((float(group["lr"]) for group in groups if group.get("lr") is not None), default=0.0) or None
    momentum = edge_lr = None
    if _steps_as_sgd(optimizer):
        momentum = max(float(group.get("momentum", 0.0)) for group in groups)
        if not any(group.get("maximize") for group in groups):
            edge_lr = max(map(_edge_lr, groups)) or None
    rhos = [float(group.get("rho", 0.0)) if climbs else 0.0 for group in groups]
    other = not getattr(optimizer, "is_plain", True) or any(group.get("adaptive") for group in groups)
    if other and max(rhos) > 0:
        return Rates(lr, None, 0.0, momentum, edge_lr)
    if len(set(rhos)) == 1:
        return Rates(lr, rhos[0], rhos[0], momentum, edge_lr)
    sizes = torch.tensor([entries(param) for param in objective.params])
    radii = torch.tensor(rhos, dtype=torch.float64).repeat_interleave(sizes)
    return Rates(lr, max(rhos), radii.to(objective.device, objective.dtype), momentum, edge_lr)


def _steps_as_sgd(optimizer: Any) -> bool:
    """Whether the step, inside SAM and other wrappers, is that of `torch.optim.SGD`."""
    for _ in range(_DEEPEST):
        inner = getattr(optimizer, "base", None) or getattr(optimizer, "optimizer", None)
        if not hasattr(inner, "param_groups"):
            break
        optimizer = inner
    if not isinstance(optimizer, torch.optim.SGD):
        return False
    # A subclass with a step of its own (LARS, say) does something else.
    return type(optimizer).step is torch.optim.SGD.step


def _edge_lr(group: dict[str, Any]) -> float:
    lr, momentum = float(group["lr"]), float(group.get("momentum", 0.0))
    if not momentum:
        return lr
    if group.get("nesterov"):
        return lr * (1 + 2 * momentum) / (1 + momentum)
    return lr * (1 - float(group.get("dampening", 0.0))) / (1 + momentum)
