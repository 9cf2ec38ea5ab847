"""Batch-norm statistics belong to the weights w: the perturbed pass must not move them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def statistics(model: nn.Module) -> list[Tensor]:
    """The running statistics of every normalization layer of ``model`` that keeps some; maybe some twice.

    Looked for anew each time, as layers and buffers may be replaced, so without the detours of ``model.modules()``.
    """
    found, left = [], [model]
    while left:
        module = left.pop()
        left.extend(child for child in module._modules.values() if child is not None)
        if module._buffers:
            found += [b for name in _STATISTICS if (b := module._buffers.get(name)) is not None]
    return found


@contextmanager
def frozen_statistics(model: nn.Module | None) -> Iterator[None]:
    """Put the running statistics back, bit for bit, on the way out.

    Restoring beats a momentum of 0 for the time being: that would still count batches, and would let one
    non-finite batch in (0 · inf).
    """
    buffers = statistics(model) if model is not None else []
    if not buffers:
        yield
        return
    # Numbers and counts apart: together they would be copied one by one.
    kinds = [kind for counts in (False, True) if (kind := [b for b in buffers if b.is_floating_point() is not counts])]
    saved = [[torch.empty_like(buffer) for buffer in kind] for kind in kinds]
    for kind, values in zip(kinds, saved, strict=True):
        torch._foreach_copy_(values, kind)
    try:
        yield
    finally:
        with torch.no_grad():
            for kind, values in zip(kinds, saved, strict=True):
                torch._foreach_copy_(kind, values)
