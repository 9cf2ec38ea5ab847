"""m-SAM by its definition, group by group, with nothing of Lowland."""

from collections.abc import Callable

import torch
from torch import Tensor

from architectures.case import Batch


def textbook(losses: Callable[[Batch], Tensor], batch: Batch, params: list[Tensor], m: int, rho: float) -> Tensor:
    """Σ_j (n_j/B) · gradient of group j's mean loss at w + ρ g_j/‖g_j‖, flat; each group is evaluated alone."""
    size = len(next(iter(batch.values())))
    w = [p.detach().clone() for p in params]
    total = 0
    for start in range(0, size, m):
        rows = list(range(start, min(start + m, size)))
        if len(rows) == 1:  # twice, which has the same mean: torch's batch norm mistakes strides of single examples
            rows *= 2
        group = {name: tensor[rows] for name, tensor in batch.items()}
        at_w = gradient(losses(group).mean(), params)
        norm = torch.stack([g.norm() for g in at_w]).norm()
        with torch.no_grad():
            for p, g in zip(params, at_w, strict=True):
                p.add_(g, alpha=rho / float(norm))
        moved = gradient(losses(group).mean(), params)
        with torch.no_grad():
            for p, before in zip(params, w, strict=True):
                p.copy_(before)
        total = total + torch.cat([g.flatten() for g in moved]) * (min(m, size - start) / size)
    return total


def gradient(loss: Tensor, params: list[Tensor]) -> tuple[Tensor, ...]:
    """Zeros where the loss doesn't depend on a parameter."""
    return torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
