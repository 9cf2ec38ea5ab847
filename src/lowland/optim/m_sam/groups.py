"""A batch, or a part of it, in groups of consecutive examples, the last maybe smaller."""

from functools import cached_property

import torch
from torch import Tensor


class Groups:
    """``size`` examples in groups of ``m``.

    A layer may see several rows (words, say) of an example as separate ones: tensors have ``k · size`` rows, those of
    an example together.

    Args:
        size: how many examples there are in all groups.
        m: how many there are in a group.
        start: the number of the first one in the batch.
        whole: how many examples the batch has; None for ``size``.
    """

    def __init__(self, size: int, m: int, start: int = 0, whole: int | None = None):
        self.size, self.m, self.start, self.whole = size, min(m, size), start, whole or size
        self.count = -(-size // self.m)
        last = size - (self.count - 1) * self.m
        #: Groups alike, as (slice of groups, how many, examples in each).
        self.parts = [(slice(0, self.count), self.count, self.m)]
        if last < self.m:
            self.parts = [(slice(0, self.count - 1), self.count - 1, self.m)]
            self.parts += [(slice(self.count - 1, self.count), 1, last)]

    @cached_property
    def sizes(self) -> Tensor:
        """Examples in each group, shape (groups,), float64, on the CPU."""
        return torch.tensor([float(n) for _, count, n in self.parts for _ in range(count)], dtype=torch.float64)

    @property
    def chosen(self) -> slice:
        """Where these examples are among those of the batch."""
        return slice(self.start, self.start + self.size)

    def own(self, rows: Tensor) -> Tensor:
        """Of all ``(k · whole, ...)`` rows those of these examples: a view."""
        k = len(rows) // self.whole
        return rows if self.size == self.whole else rows[k * self.start : k * (self.start + self.size)]

    def among(self, rows: Tensor) -> Tensor:
        """``(k · size, ...)`` rows where they belong among ``(k · whole, ...)``; copies of them in all other places."""
        if self.size == self.whole:
            return rows
        k = len(rows) // self.size
        return rows[(torch.arange(k * self.whole, device=rows.device) - k * self.start) % len(rows)]

    def split(self, rows: Tensor) -> list[Tensor]:
        """``(rows, ...)`` as ``(groups, rows of a group, ...)`` for each of `parts`: views."""
        if len(self.parts) == 1:
            return [rows.view(self.count, len(rows) // self.count, *rows.shape[1:])]
        (_, count, n), _ = self.parts
        k = len(rows) // self.size
        return [rows[: count * n * k].unflatten(0, (count, -1)), rows[count * n * k :].unsqueeze(0)]

    def of_groups(self, stack: Tensor) -> list[Tensor]:
        """``(groups, ...)`` for each of `parts`."""
        return [stack[chosen] for chosen, _, _ in self.parts] if len(self.parts) > 1 else [stack]

    def join(self, parts: list[Tensor]) -> Tensor:
        """``(rows, ...)`` from what `split` has taken apart."""
        flat = [part.flatten(0, 1) for part in parts]
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def sums(self, rows: Tensor) -> Tensor:
        """``(rows, ...)`` summed over the rows of each group: ``(groups, ...)``."""
        if len(rows) == self.count:
            return rows
        parts = [part.sum(1) for part in self.split(rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def spread(self, stack: Tensor, rows: int) -> Tensor:
        """``(groups, ...)`` to ``(rows, ...)``: to every row what is its group's."""
        if rows == self.count:
            return stack
        if self.count == 1:
            return stack.expand(rows, *stack.shape[1:])
        k = rows // self.size
        parts = zip(self.of_groups(stack), self.parts, strict=True)
        return self.join([of.unsqueeze(1).expand(-1, n * k, *of.shape[1:]) for of, (_, _, n) in parts])

    def of_rows(self, rows: int, device: torch.device) -> Tensor:
        """The number of each row's group, shape (rows,)."""
        return torch.arange(rows, device=device) // (self.m * (rows // self.size))
