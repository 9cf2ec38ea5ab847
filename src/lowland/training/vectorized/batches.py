"""The batches of runs side by side: those that each run would draw alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.data.batches import Shuffled, WholeBatch
from lowland.training.task import Batch, Task


class VectorizedBatches:
    """What `VectorizedStep` is given at a step: one batch for all, indices into shared data, or each run's own."""

    def __init__(self, tasks: Sequence[Task]):
        self.draws: list[Any] = [task.batch for task in tasks]
        self.whole = all(type(draw) is WholeBatch for draw in self.draws) and self._share_data()
        self.picking = (
            all(type(draw) is Shuffled for draw in self.draws)
            and self._share_data()
            and len({(draw.batch_size, draw.per_epoch) for draw in self.draws}) == 1
        )
        self._epoch, self._picked = -1, tuple[Tensor, ...]()

    def _share_data(self) -> bool:
        first = self.draws[0]
        return all(draw.x is first.x and draw.y is first.y for draw in self.draws)

    def __call__(self, step: int) -> tuple[Any, Any, Tensor | None, bool]:
        """``x, y, picked, shared``, as `VectorizedStep` takes them."""
        first = self.draws[0]
        if self.whole:
            return first.x, first.y, None, True
        if self.picking:
            epoch, position = divmod(step, first.per_epoch)
            if epoch != self._epoch:
                orders = torch.stack([draw.order(epoch) for draw in self.draws]).to(first.x.device)
                self._epoch = epoch
                self._picked = tuple(part.contiguous() for part in orders.split(first.batch_size, dim=1))
            return first.x, first.y, self._picked[position], False
        drawn = [draw(step) for draw in self.draws]
        x, y = pytree.tree_map(lambda *parts: torch.stack(parts), *drawn)
        return x, y, None, False

    def of(self, run: int, step: int) -> Batch:
        """The batch of one run, as it would draw it alone."""
        batch: Batch = self.draws[run](step)
        return batch

    def together(self, step: int) -> tuple[Any, Any, bool]:
        """``x, y, shared`` for a `lowland.training.task.Snapshot`."""
        x, y, picked, shared = self(step)
        return (x, y, shared) if picked is None else (x[picked], y[picked], shared)
