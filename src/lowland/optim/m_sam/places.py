"""Where the examples of a batch lie in a tensor."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Along:
    """The examples are along one dimension, in order: entry i is of example (i // ``inner``) mod B.

    Attributes:
        dim: which.
        inner: how many entries in a row are one example's.
    """

    dim: int
    inner: int = 1


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
