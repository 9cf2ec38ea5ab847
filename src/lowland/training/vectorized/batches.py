"""The batches of runs side by side: those that each run would draw alone."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.data.batches import Shuffled, WholeBatch
from lowland.training.task import Batch, Task
from lowland.values import Tree


class VectorizedBatches:
    """What `VectorizedStep` is given at a step: one batch for all, indices into shared data, or each run's own."""

    def __init__(self, tasks: Sequence[Task]):
        self.draws = [task.batch for task in tasks]
        whole = [draw for draw in self.draws if type(draw) is WholeBatch]
        shuffled = [draw for draw in self.draws if type(draw) is Shuffled]
        #: The one batch of all runs at all steps, if there is such.
        self.whole = whole[0] if len(whole) == len(tasks) and _share_data(whole) else None
        alike = len({(draw.batch_size, draw.per_epoch) for draw in shuffled}) == 1
        #: Each run's order of the same examples, if all have one.
        self.shuffled = shuffled if len(shuffled) == len(tasks) and _share_data(shuffled) and alike else []
        self._epoch, self._picked = -1, tuple[Tensor, ...]()

    def __call__(self, step: int) -> tuple[Tree, Tree, Tensor | None, bool]:
        """``x, y, picked, shared``, as `VectorizedStep` takes them."""
        if self.whole is not None:
            return self.whole.x, self.whole.y, None, True
        if self.shuffled:
            first = self.shuffled[0]
            epoch, position = divmod(step, first.per_epoch)
            if epoch != self._epoch:
                orders = torch.stack([draw.order(epoch) for draw in self.shuffled]).to(first.x.device)
                self._epoch = epoch
                self._picked = tuple(part.contiguous() for part in orders.split(first.batch_size, dim=1))
            return first.x, first.y, self._picked[position], False
        drawn = [draw(step) for draw in self.draws]
        x, y = pytree.tree_map(lambda *parts: torch.stack(parts), *drawn)
        return x, y, None, False

    def of(self, run: int, step: int) -> Batch:
        """The batch of one run, as it would draw it alone."""
        return self.draws[run](step)

    def together(self, step: int) -> tuple[Tree, Tree, bool]:
        """``x, y, shared`` for a `lowland.training.task.Snapshot`."""
        x, y, picked, shared = self(step)
        return (x, y, shared) if picked is None else (x[picked], y[picked], shared)


def _share_data(draws: Sequence[WholeBatch] | Sequence[Shuffled]) -> bool:
    return all(draw.x is draws[0].x and draw.y is draws[0].y for draw in draws)
