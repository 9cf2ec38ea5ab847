"""Learning rate and rho of an optimizer, as its edge of stability needs them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.curvature.objective import Objective


@dataclass(frozen=True)
class Rates:
    """At the time of a check, over the groups that hold some of w.

    Where groups differ, ``lr`` and ``rho`` are the largest. With D and R the diagonal matrices of each entry's η and ρ,
    SAM's linearized step multiplies w by I − D(H + HRH/‖g‖), which oscillates nowhere while η λ (1 + ρ λ/‖g‖) ≤ 2
    holds for the largest η, ρ and λ. So below the edge of those two nothing oscillates; above it something may.

    Attributes:
        lr: η; None where groups have none, or it is 0: then nothing moves, and there is no edge.
        rho: ρ, 0 without SAM; None where there is one but not plain SAM's (ASAM's, say): then no edge is known either.
        radii: ρ of each entry of w, shape ``(n,)``, or the one of all.
    """

    lr: float | None
    rho: float | None
    radii: float | Tensor


def rates(optimizer: Any, objective: Objective) -> Rates:
    """What ``optimizer`` has in its groups now."""
    # Adadelta's rho is a rate of decay.
    climbs = not isinstance(optimizer, torch.optim.Adadelta)
    owner = {param: group for group in optimizer.param_groups for param in group["params"]}
    groups = [owner[param] for param in objective.params]
    lr = max((float(group["lr"]) for group in groups if group.get("lr") is not None), default=0.0)
    rhos = [float(group.get("rho", 0.0)) if climbs else 0.0 for group in groups]
    other = not getattr(optimizer, "is_plain", True) or any(group.get("adaptive") for group in groups)
    if other and max(rhos) > 0:
        return Rates(lr or None, None, 0.0)
    if len(set(rhos)) == 1:
        return Rates(lr or None, rhos[0], rhos[0])
    sizes = torch.tensor([param.numel() for param in objective.params])
    radii = torch.tensor(rhos, dtype=torch.float64).repeat_interleave(sizes)
    return Rates(lr or None, max(rhos), radii.to(objective.device, objective.dtype))
