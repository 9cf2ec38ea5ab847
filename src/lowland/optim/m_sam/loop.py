"""m-SAM by its definition: a loop over groups of m examples, each with its own ascent.

(Foret et al. 2021, section 4.1; Andriushchenko & Flammarion 2022, equation 3.) Right, and slow: every group takes two
evaluations of the whole batch, or of its own examples where the closure is `Sliced`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeGuard

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from lowland.optim import amp, parallel
from lowland.optim.buffers import Buffers
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.host import Host
from lowland.optim.m_sam.layers.batch_norm import by_group, in_training
from lowland.optim.m_sam.sliced import Sliced
from lowland.torch_tools import States, ddp, random_states, replay


def backward(host: Host, closure: Callable[[], Tensor], scaler: GradScaler | None = None) -> Tensor:
    """Add the m-SAM gradient of the mean of ``closure()`` to ``p.grad``; the mean at w, detached.

    Dropout leaves out the same units in every evaluation, and each begins with the buffers as they were before the
    step: the groups are parts of one batch. The first evaluation, at w, is the one that moves buffers. Batch norm in
    training mode takes the statistics of each group.

    Raises:
        ValueError: if what ``closure`` returns isn't one loss for each example, if batch norm couples the groups, or if
            a parameter has a post-accumulate-grad hook.
    """
    params = host.parameters().everyone
    if any(param._post_accumulate_grad_hooks for param in params):
        raise ValueError(
            "m doesn't go with register_post_accumulate_grad_hook: such a hook acts on the sum over groups, again for "
            "each group. Change p.grad after optimizer.backward(closure), or use register_hook"
        )
    buffers = host.buffers()
    try:
        if goes_by_slices(closure, host):
            mean = _by_slices(host, closure, scaler, buffers, params)
        else:
            mean = _backward(host, closure, scaler, buffers, random_states(params))
    except BaseException:
        buffers.undo()
        raise
    buffers.finish()
    return mean


def goes_by_slices(closure: Callable[[], Tensor], host: Host) -> TypeGuard[Sliced]:
    """Whether each group is evaluated by itself. Running statistics are those of the batch: then not."""
    return isinstance(closure, Sliced) and not in_training(host.model)


def _by_slices(
    host: Host, closure: Sliced, scaler: GradScaler | None, buffers: Buffers, params: list[Tensor]
) -> Tensor:
    """Random numbers are the same in all evaluations of a group, and others in other groups."""
    size, m, wrapper = closure.examples, host.settings.m, ddp(host.model)
    total = torch.zeros((), device=params[0].device)
    for start in range(0, size, m):
        rows = slice(start, min(start + m, size))
        states = random_states(params)

        def losses(states: States = states, rows: slice = rows) -> Tensor:
            replay(states)
            buffers.rewind()
            return per_example(lambda: closure.of(rows), host.out_of_reach)

        with torch.enable_grad():
            for evaluation in range(host.settings.ascent_rule.evaluations):
                with host.at_w(scaler, sync=wrapper is None, onward=evaluation > 0):
                    value = losses()
                    amp.scaled(scaler, value.mean()).backward()
                    if not evaluation:
                        total = total + value.detach().sum()
                    buffers.settle()
            last = rows.stop == size
            together = nullcontext() if wrapper is None else parallel.ddp_synchronization(wrapper, last)
            with together, host.at_perturbed((rows.stop - start) / size):
                amp.scaled(scaler, losses().mean()).backward()
    return total / size


def _backward(
    host: Host, closure: Callable[[], Tensor], scaler: GradScaler | None, buffers: Buffers, states: States
) -> Tensor:
    model, m, evaluations = host.model, host.settings.m, host.settings.ascent_rule.evaluations
    wrapper = ddp(model)

    def losses() -> Tensor:
        replay(states)
        buffers.rewind()
        return per_example(closure, host.out_of_reach)

    def synchronized(when: bool) -> AbstractContextManager[None]:
        return nullcontext() if wrapper is None else parallel.ddp_synchronization(wrapper, when)

    known = None
    if in_training(model):
        with torch.enable_grad(), synchronized(False), by_group(model, None):
            known = Groups(len(losses()), m)

    mean, group, groups = None, 0, 1
    while group < groups:
        with torch.enable_grad(), by_group(model, known, group):
            for evaluation in range(evaluations):
                with host.at_w(scaler, sync=wrapper is None, onward=evaluation > 0):
                    value = losses()
                    amp.scaled(scaler, value.split(m)[group].mean()).backward()
                    if mean is None:
                        mean = value.detach().mean()
                        buffers.settle()
            groups = len(value.split(m))
            # Averaged once: other processes may have other numbers of groups.
            share = len(value.split(m)[group]) / len(value)
            with synchronized(group == groups - 1), host.at_perturbed(share):
                value = losses()
                amp.scaled(scaler, value.split(m)[group].mean()).backward()
        group += 1
    assert mean is not None
    return mean


def per_example(closure: Callable[[], Tensor], out_of_reach: Callable[[], str | None]) -> Tensor:
    """What ``closure`` returns; raises ValueError unless that is one loss for each example.

    Args:
        closure: of a step.
        out_of_reach: what to say where the losses depend on no parameter, if a scope may be the reason.
    """
    value = closure()
    cut_off = isinstance(value, Tensor) and value.ndim == 1 and not value.requires_grad
    if cut_off and (why := out_of_reach()) is not None:
        raise RuntimeError(why)
    if isinstance(value, Tensor) and value.ndim == 1 and not len(value):
        raise ValueError("the batch is empty: with m there must be an example. Leave empty batches out")
    if not isinstance(value, Tensor) or value.ndim != 1 or not len(value) or not value.requires_grad:
        raise ValueError(
            "the closure returns the loss of each example, shape (batch,), without calling backward: "
            'F.cross_entropy(model(x), y, reduction="none"), say'
        )
    return value
