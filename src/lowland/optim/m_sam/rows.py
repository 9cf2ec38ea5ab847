"""Rows of a tensor, of which each example has equally many."""

from torch import Tensor

from lowland.optim.m_sam.refusals import NotCovered


def rows_of(t: Tensor, size: int, what: str) -> None:
    """Raise NotCovered unless the first dimension of ``t`` is that of ``size`` examples."""
    if len(t) % size:
        raise NotCovered(
            f"{what} sees a tensor of shape {tuple(t.shape)}, whose first dimension isn't that of the {size} examples"
        )


def over(rows: Tensor, ndim: int) -> Tensor:
    """``(rows,)`` or ``(rows, features)`` to go along with a tensor of ``ndim`` dimensions."""
    return rows.view(len(rows), *[1] * (ndim - rows.ndim), *rows.shape[1:])
