"""Losses of which a part can be had by itself."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sliced:
    """The losses of a batch, for `SAM.step` and `SAM.backward` in place of a closure.

    Where m-SAM goes group by group, each group is evaluated by itself, in place of the whole batch for each::

        losses = lambda rows: F.cross_entropy(model(x[rows]), y[rows], reduction="none")
        optimizer.step(lowland.optim.m_sam.Sliced(losses, len(x)))

    Attributes:
        losses: of the examples in a slice of the batch, shape (rows,), without running backward.
        examples: how many the batch has.
    """

    losses: Callable[[slice], Tensor]
    examples: int

    def __call__(self) -> Tensor:
        """Those of the whole batch."""
        return self.losses(slice(0, self.examples))

    def of(self, rows: slice) -> Tensor:
        """Those of a part.

        Raises:
            ValueError: if they are more or fewer than it has examples.
        """
        value = self.losses(rows)
        count = rows.stop - rows.start
        if not isinstance(value, Tensor) or value.shape != (count,):
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"losses(slice({rows.start}, {rows.stop})) gave {given}, where {count} losses are asked for: index "
                "inputs and targets by the slice"
            )
        return value
