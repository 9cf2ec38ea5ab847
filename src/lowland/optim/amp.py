"""Mixed precision: what autocast and loss scaling need of a step with two passes."""

import sys
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler, OptState
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from lowland.optim.grad_mode import unrecorded


def clear_caches() -> None:
    """Forget what torch keeps of weights that are about to move: autocast's casts, and parametrized weights.

    The latter inside ``torch.nn.utils.parametrize.cached()``. Either would serve the next pass in place of its own.
    """
    torch.clear_autocast_cache()
    parametrize._cache.clear()


def loss_scale(scaler: GradScaler | None, like: Tensor) -> float | Tensor:
    """What ``scaler`` multiplies the loss with: 1 without one, else a 0-d tensor on its device, not waited for."""
    return 1.0 if scaler is None else scaler.scale(torch.ones((), device=like.device))


def scaled(scaler: GradScaler | None, loss: Tensor) -> Tensor:
    """``loss`` as ``scaler`` scales it, if there is one."""
    return loss if scaler is None else scaler.scale(loss)


@unrecorded
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


class Scaling:
    """The GradScaler that the passes of a step were told of, and what can be seen of its use."""

    def __init__(self) -> None:
        #: None if there is none, or if it is switched off.
        self.scaler: GradScaler | None = None
        self._optimizers: set[int] = set()
        self._scale: Tensor | None = None
        self._version: int | None = None

    def tell(self, scaler: GradScaler | None, optimizers: set[int]) -> None:
        """Of ``scaler``, or of None; ``optimizers`` are the numbers under which it may know the optimizer."""
        self.scaler = scaler if scaler is None or getattr(scaler, "is_enabled", lambda: True)() else None
        self._optimizers = optimizers

    def check_pass(self, gradients: Iterable[Tensor | None]) -> None:
        """Raise RuntimeError where a pass would add to ``gradients`` that are unscaled already, or scaled otherwise."""
        if self.scaler is None:
            return
        if any(self._stage(number) is OptState.UNSCALED for number in self._optimizers):
            raise RuntimeError(f"scaler.unscale_(optimizer) before the passes are over: {_UNSCALE}")
        scale, version = getattr(self.scaler, "_scale", None), self._version
        if version is None or scale is None or scale._version == version or self._scale is None:
            return
        # Only here is anything waited for.
        if scale.item() != self._scale.item() and any(g is not None and bool(g.any()) for g in gradients):
            raise RuntimeError(
                "scaler.update() has changed the scale since the gradients that are there were made: call it once a "
                "step, after scaler.step(optimizer), and clear the gradients then, also of a step that was skipped"
            )

    def note(self) -> None:
        """Gradients are there, scaled as the scaler scales now."""
        scale = getattr(self.scaler, "_scale", None)
        if scale is not None and scale._version != self._version:
            self._scale, self._version = scale.clone(), scale._version

    def forget(self) -> None:
        """Forget the scale of the gradients, which are cleared."""
        self._scale = self._version = None

    def check_step(self, base: Optimizer) -> None:
        """Raise RuntimeError for a step along gradients that nobody unscales."""
        if self.scaler is None or getattr(base, "grad_scale", None) is not None:
            return
        states = getattr(self.scaler, "_per_optimizer_states", None)
        if states is not None and not any(state["stage"] is OptState.UNSCALED for state in states.values()):
            raise RuntimeError(
                "the passes were told of a GradScaler, and this step would go along gradients that are scaled still: "
                "call scaler.step(optimizer), not optimizer.step()"
            )

    def _stage(self, number: int) -> OptState | None:
        state = getattr(self.scaler, "_per_optimizer_states", {}).get(number)
        return None if state is None else state["stage"]


_UNSCALE = (
    "the gradients of the passes to come would stay scaled. Call it once a step, after the last pass and before "
    "scaler.step(optimizer)"
)
_STEP = torch.amp.GradScaler.step.__code__


def inside_scaler() -> bool:
    """Whether a GradScaler that is switched on makes the step that this is called from.

    It doesn't say so to an optimizer that leaves the unscaling to it, so this looks at who called.
    """
    frame = sys._getframe(1)
    for _ in range(16):  # steps are wrapped by schedulers, profilers and trainers
        if frame is None:
            return False
        if frame.f_code is _STEP:
            return frame.f_locals["self"].is_enabled()
        frame = frame.f_back  # type: ignore[assignment]
    return False


def forget_scale(base: Optimizer) -> None:
    """Before an error in a GradScaler's step: what a fused ``base`` was handed would be multiplied into the next."""
    for name in ("grad_scale", "found_inf"):
        vars(base).pop(name, None)


def refuse_unscaling() -> None:
    """Raise RuntimeError if it is a GradScaler's unscaling that asks for the parameter groups."""
    frame = sys._getframe(3)  # behind the attribute, and what reads it
    for _ in range(3):  # others' wrappers ask for theirs
        if frame is None:
            return
        if frame.f_code.co_name == "_unscale_grads_":
            raise RuntimeError(f"scaler.unscale_(optimizer) in the middle of the passes: {_UNSCALE}")
        frame = frame.f_back  # type: ignore[assignment]
