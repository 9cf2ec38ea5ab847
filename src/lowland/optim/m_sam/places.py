"""Where the examples of a batch lie in a tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Owners:
    """Whose each of some rows is, where data says so.

    Attributes:
        of: the number of each row's example, ``(rows,)``, on the CPU.
        each: how many entries in a row are one row's.
        routing: None where these rows are there whatever the parameters are. Else the parameters have picked them, and
            this stands for that one time: what depends on a row's position, or on the number of rows, depends on other
            examples. Rows that were picked at another time have other positions, even if their owners are the same.
    """

    of: Tensor
    each: int = 1
    routing: object | None = None

    @property
    def entries(self) -> Tensor:
        """The number of each entry's example."""
        return self.of if self.each == 1 else self.of.repeat_interleave(self.each)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Owners) or self.routing is not other.routing:
            return False
        if self.routing is not None:
            return self.each == other.each
        return torch.equal(self.entries, other.entries)

    def __hash__(self) -> int:
        return hash((len(self.of) * self.each, id(self.routing)))


@dataclass(frozen=True)
class Along:
    """The examples are along one dimension, in order: entry i is of example (i // ``inner``) mod B.

    Attributes:
        dim: which.
        inner: how many entries in a row are one example's; or whose each entry is, in whatever order.
    """

    dim: int
    inner: int | Owners = 1

    @property
    def routed(self) -> bool:
        """Whether the parameters decide which entries there are."""
        return isinstance(self.inner, Owners) and self.inner.routing is not None

    def owners(self, size: int, examples: int) -> Tensor:
        """Whose each of ``size`` entries is, if the batch has so many ``examples``, ``(size,)``."""
        if isinstance(self.inner, Owners):
            return self.inner.entries
        return torch.arange(size) // self.inner % examples


def owned(dim: int, owners: Owners, examples: int) -> Along:
    """Rows of ``owners`` along a dimension; in order, where they are, unless that may be otherwise at other weights."""
    entries = owners.entries
    inner, left = divmod(len(entries), examples)
    regular = owners.routing is None and inner and not left
    if regular and torch.equal(entries, Along(0, inner).owners(len(entries), examples)):
        return Along(dim, inner)
    return Along(dim, owners)


@dataclass(frozen=True)
class Mixed:
    """Which entry depends on which examples can't be told.

    Attributes:
        why: the operation from which on, and where it is called.
    """

    why: str


Place = Along | Mixed


def memory(value: Tensor) -> int:
    """A number for the memory that ``value`` lies in; 0 if it has none of its own, as sparse tensors."""
    try:
        return value.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return 0
