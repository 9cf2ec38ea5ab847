"""Batch-norm statistics belong to the weights w: the perturbed pass must not move them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

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
            found += [b for name in _STATISTICS if (b := module._buffers.get(name)) is not None and not is_lazy(b)]
    return found


class SavedStatistics:
    """`statistics` as they are, to be put back bit for bit.

    Restoring beats a momentum of 0 for the time being: that would still count batches, and would let one
    non-finite batch in (0 · inf).
    """

    def __init__(self, buffers: list[Tensor]):
        # Numbers and counts apart: together they would be copied one by one.
        numbers: list[Tensor] = []
        counts: list[Tensor] = []
        for buffer in buffers:
            (numbers if buffer.is_floating_point() else counts).append(buffer)
        self._saved = [(kind, [torch.empty_like(b) for b in kind]) for kind in (numbers, counts) if kind]
        for kind, values in self._saved:
            torch._foreach_copy_(values, kind)

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for kind, values in self._saved:
            torch._foreach_copy_(kind, values)


@contextmanager
def statistics_kept(model: nn.Module, only_after_errors: bool = False) -> Iterator[None]:
    """Afterwards `statistics` are what they were: they belong to w, and count each batch once."""
    saved = SavedStatistics(statistics(model))
    try:
        yield
    except BaseException:
        saved.restore()
        raise
    if not only_after_errors:
        saved.restore()
