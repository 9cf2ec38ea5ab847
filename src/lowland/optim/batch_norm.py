"""Batch-norm statistics belong to the weights w: the perturbed pass must not move them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def statistics(model: nn.Module) -> list[Tensor]:
    """The running statistics of every normalization layer of ``model`` that keeps some."""
    buffers = (getattr(module, name, None) for module in model.modules() for name in _STATISTICS)
    return [buffer for buffer in buffers if isinstance(buffer, Tensor)]


@contextmanager
def frozen_statistics(model: nn.Module | None) -> Iterator[None]:
    """Put the running statistics back, bit for bit, on the way out.

    Restoring beats a momentum of 0 for the time being: that would still count batches, and would let one
    non-finite batch in (0 · inf).
    """
    buffers = statistics(model) if model is not None else []
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.copy_(value)
