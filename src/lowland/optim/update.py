"""The base optimizer's step, along the gradients that the passes left."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from lowland.optim import amp, bases
from lowland.optim.core import Core
from lowland.optim.grad_mode import recording, unrecorded
from lowland.optim.sharding import local, settled
from lowland.optim.step import forget_copies_of_weights
from lowland.torch_tools import level_of_caller

T = TypeVar("T")


def update(core: Core) -> None:
    """Make the step, and count it if passes were made for it."""
    pending = core.pending
    if pending.evaluated:
        pending.scaling.check_step(core.base)
        pending.scaling.forget()
    evaluated, pending.evaluated = pending.evaluated, 0
    if evaluated:
        if not core.synchronization.fsdp.modules and all(param.grad is None for param in core.params()):
            raise RuntimeError(
                "no parameter has a gradient: was backward() called in the last pass, and zero_grad() only after "
                "step()? To leave a batch out, call optimizer.skip() before `continue` or `break`"
            )
        if not pending.told:
            _refuse_unknown_scale(core)
        if core.options.learns:
            _learn(core)
        core.radii.count()
    else:
        _warn_of_a_plain_step(core)
        # torch.distributed.checkpoint makes such a step, of zeros, to see what state there will be.
        core.memory.make(param for param in core.params() if param.grad is not None)
    grad = torch.is_grad_enabled()
    try:
        core.base.step()
    except Exception as error:
        told = bases.explain(core.base, error)
        if told is None:
            raise
        raise told from error
    except BaseException:
        recording(grad)  # an interrupt may keep torch's own step from doing it
        raise
    if pending.beside:
        pending.beside.step(core.base)
    forget_copies_of_weights(core.synchronization.fsdp)


def update_after(core: Core, closure: Callable[[], T]) -> T:
    """`update` after passes, with a closure all the same: trainers hand over one that calls their hooks alone."""
    params = core.trainable()[0]
    before = [(param.grad, None if param.grad is None else local(param.grad)._version) for param in params]
    ran: list[Tensor] = []
    hooks = [param.register_post_accumulate_grad_hook(ran.append) for param in params]
    try:
        with torch.enable_grad():
            result = closure()
    finally:
        for hook in hooks:
            hook.remove()
    # FSDP2 and others write gradients past these hooks.
    if ran or (core.synchronization.fsdp.modules and _changed(params, before)):
        raise RuntimeError(
            "step(closure) after passes(): the gradient of the passes was there, and the closure ran backward "
            "once more. Call step() without a closure, or step(closure) without passes; optimizer.zero_grad() "
            "drops what is there"
        )
    update(core)
    return result


def _changed(params: list[Tensor], before: list[tuple[Tensor | None, int | None]]) -> bool:
    return any(
        param.grad is not gradient or (gradient is not None and local(gradient)._version != version)
        for param, (gradient, version) in zip(params, before, strict=True)
    )


def _refuse_unknown_scale(core: Core) -> None:
    """Raise RuntimeError in a GradScaler's step if the passes had to be told of it."""
    options = core.options
    if not (options.per_example or options.needs_scale or options.l2) or not amp.inside_scaler():
        return
    amp.forget_scale(core.base)
    if options.per_example:
        raise RuntimeError(
            "scaler.step(optimizer) unscales gradients that optimizer.backward(closure) didn't scale: hand it the "
            "GradScaler, optimizer.backward(closure, scaler=scaler), and let the closure return losses unscaled"
        )
    raise RuntimeError(
        f"the loss was scaled, and {'l2' if options.l2 else options.rules} needs to know by what: hand "
        "the GradScaler to the passes, too: optimizer.passes(scaler=scaler)"
    )


@unrecorded
def _learn(core: Core) -> None:
    owners = [param for param in core.trainable()[0] if param.grad is not None]
    pieces = [local(settled(param, param.grad)) for param in owners]
    core.options.ascent_rule.learn(partial(core.memory.of, owners), pieces)


def _warn_of_a_plain_step(core: Core) -> None:
    groups = core.base.param_groups
    if core.pending.warned or all(group["rho"] == 0 or not group.get("lr", 1) for group in groups):
        return
    if any(param.grad is not None for param in core.params()):
        core.pending.warned = True
        warnings.warn(
            "step() without passes: this was a plain step of the base optimizer, not SAM's. Run forward and "
            "backward inside `for evaluation in optimizer.passes(): with evaluation: ...`, or hand step() a "
            "closure. Where a library runs the loop, lowland.adapters has what it takes. For a plain step on "
            "purpose call optimizer.base.step().",
            stacklevel=level_of_caller(),
        )
