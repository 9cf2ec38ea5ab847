"""Whether the loss asks the model for its parameters: otherwise it can't be measured at other weights."""

from typing import Any

import torch
from torch import Tensor

BESIDE = (
    "loss_fn or the model uses parameters that it doesn't ask the model for, a list made beforehand or a view of "
    ".data, say: they can't be moved or differentiated by. Write self.weight, or model.parameters() inside loss_fn"
)
_AWAY = 1e-2  # of each tensor's norm
_SAME, _ROUNDING = 1e-3, 64  # of the difference that moving makes; rounding units of the loss


def check(objective: Any, x: Any, y: Any) -> None:
    """Raise ValueError if the loss of a batch uses parameters that it doesn't ask the model for.

    The parameters are moved a little in two ways: by other tensors in their places in the model, and by other values in
    their own memory. Both must give the same loss. That takes three evaluations without gradients. Sharded parameters
    are not checked.
    """
    params = objective.params
    if any(hasattr(p, "device_mesh") for p in params):
        return
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        moved = [p + _AWAY * _size(p) * torch.randn(p.shape, generator=generator, device="cpu").to(p) for p in params]
        kept = [p.detach().clone() for p in params]

    def there() -> float:
        return float(objective.batch_loss(x, y, moved).detach())

    def here() -> float:
        return float(objective.batch_loss(x, y).detach())

    try:
        before, in_places = here(), there()
    except Exception:  # in the parameters' own type; who measures in another may go on, and who doesn't says so
        return
    try:
        for p, value in zip(params, moved, strict=True):
            p.data.copy_(value)  # which autograd doesn't count: a graph of the user's own stays good
        in_memory = here()
    finally:
        for p, value in zip(params, kept, strict=True):
            p.data.copy_(value)
    largest = max(abs(in_places), abs(in_memory))
    unit = max(torch.finfo(p.dtype).eps for p in params)
    allowed = _SAME * max(abs(in_places - before), abs(in_memory - before)) + _ROUNDING * unit * largest
    if abs(in_places - in_memory) > allowed and there() == in_places:  # else it is left to chance
        raise ValueError(BESIDE)


def _size(p: Tensor) -> float:
    """Root mean square, 1 for zeros."""
    return float(p.detach().abs().square().float().mean().sqrt()) or 1.0
