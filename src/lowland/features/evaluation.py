"""One pass over the data in evaluation mode, without side effects."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lowland.features.progress import watched
from lowland.torch_tools import evaluating, for_autograd, uncompiled

Batch = tuple[Tensor, tuple[Any, ...]]


def check_batches(batches: Iterable[Any]) -> None:
    """Raise TypeError for batches that can be iterated only once, and for a tensor, which would be cut into rows."""
    if isinstance(batches, Iterator):
        raise TypeError("batches must be iterable many times over, a list or a DataLoader: not a generator")
    if isinstance(batches, Tensor):
        raise TypeError("batches is a list of batches, [x] or [(x, y)] for a single one: not a tensor")


@contextmanager
def evaluated(model: nn.Module, batches: Iterable[Any], what: str, show_progress: bool) -> Iterator[Iterator[Batch]]:
    """Put the model into evaluation mode and give each batch as inputs, on the model's device, and the rest of it.

    On exit, modes and the global random state are restored. So a loader that shuffles with torch's global generator
    has the same order in every pass. Compiled modules run uncompiled, because compiled code skips hooks.

    Raises:
        TypeError: for a batch whose inputs aren't a tensor.
        ValueError: after a pass without examples.
    """
    tensor = next(chain(model.parameters(), model.buffers()), None)
    device = None if tensor is None else tensor.device
    forked = [device] if device is not None and device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=forked),
        uncompiled(),
        evaluating(model),
        watched(batches, what, show_progress) as each,
    ):
        yield _pairs(each, device)


def _pairs(batches: Iterator[Any], device: torch.device | None) -> Iterator[Batch]:
    examples = 0
    for batch in batches:
        x, *others = batch if isinstance(batch, tuple | list) else (batch,)
        if not isinstance(x, Tensor):
            raise TypeError(f"a batch is x, (x, y) or (x, y, groups) with a tensor x, not {type(x).__name__}")
        examples += len(x)
        yield for_autograd(x).to(device), tuple(map(for_autograd, others))
    if not examples:
        raise ValueError("there are no examples in the batches")
