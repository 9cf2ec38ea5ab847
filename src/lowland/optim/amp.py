"""Mixed precision: what autocast and loss scaling need of a step with two passes."""

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize


def clear_caches() -> None:
    """Forget what torch keeps of weights that are about to move: autocast's casts, and parametrized weights.

    The latter inside ``torch.nn.utils.parametrize.cached()``. Either would serve the next pass in place of its own.
    """
    torch.clear_autocast_cache()
    parametrize._cache.clear()


def loss_scale(scaler: Any, like: Tensor) -> float | Tensor:
    """What ``scaler`` multiplies the loss with: 1 without one, else a 0-d tensor on its device, not waited for."""
    return 1.0 if scaler is None else scaler.scale(torch.ones((), device=like.device))


def scaled(scaler: Any, loss: Tensor) -> Tensor:
    """``loss`` as ``scaler`` scales it, if there is one."""
    return loss if scaler is None else scaler.scale(loss)


@torch.no_grad()
def pass_on_overflow(overflow: bool | Tensor, gradients: list[Tensor]) -> None:
    """Where the ascent overflowed, make one gradient NaN: then the scaler finds it, skips the step and backs off.

    The smallest tensor serves; the scaler looks at all of them.
    """
    if overflow is False:
        return
    values = min(
        (values for g in gradients if (values := g._values() if g.is_sparse else g).numel()),
        key=Tensor.numel,
        default=None,
    )
    if values is None:
        raise RuntimeError("the perturbed pass left no gradient to tell the scaler by: was backward() called?")
    if isinstance(overflow, Tensor):
        # NaN or zero, to add: nothing here waits for the device.
        values.add_(torch.where(overflow, torch.nan, 0.0).to(values.device, values.dtype))
    else:
        values.fill_(torch.nan)


def inside_scaler() -> bool:
    """Whether a GradScaler that is switched on makes the step that this is called from.

    It doesn't say so to an optimizer that leaves the unscaling to it, so this looks at who called.
    """
    frame = sys._getframe(1)
    for _ in range(12):  # steps are wrapped by schedulers, profilers and trainers
        if frame is None:
            return False
        caller = frame.f_locals.get("self")
        if isinstance(caller, torch.amp.GradScaler):
            return caller.is_enabled()
        frame = frame.f_back  # type: ignore[assignment]
    return False
