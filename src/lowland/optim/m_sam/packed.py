"""Packed sequences, in whose memory time step t holds the first ``batch_sizes[t]`` of the sequences, longest first."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Packing:
    """Where packed rows lie when sequences are filled up to equally many times.

    Attributes:
        rows: the packed row at each time of each sequence, ``(sequences, times)``; the sequence's first after its end.
        there: whether the sequence has that time, of the same shape.
        sequences: which one each packed row is of, ``(rows,)``.
        times: at which time it is, ``(rows,)``.
    """

    rows: Tensor
    there: Tensor
    sequences: Tensor
    times: Tensor

    @classmethod
    def of(cls, batch_sizes: Tensor, times: int = 0) -> "Packing":
        """Of ``batch_sizes`` as torch has them, ``(longest,)``; filled up to so many ``times``, or to the longest."""
        nth = torch.arange(int(batch_sizes[0]))[:, None]
        sizes = F.pad(batch_sizes, (0, max(times - len(batch_sizes), 0)))
        there = nth < sizes
        time, sequence = there.T.nonzero().unbind(1)
        return cls(torch.where(there, sizes.cumsum(0) - sizes + nth, nth), there, sequence, time)


def is_packing(batch_sizes: Tensor, rows: int) -> bool:
    """Whether so many ``rows`` may be packed with these ``batch_sizes``, as torch packs them."""
    sizes = batch_sizes.tolist()
    return bool(sizes) and sum(sizes) == rows and sizes == sorted(sizes, reverse=True) and sizes[-1] > 0


def padded(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int = -1
) -> tuple[Tensor, Tensor]:
    """What ``torch._pad_packed_sequence`` gives, in operations that pick rows by index; that itself for no packing."""
    if not is_packing(batch_sizes, len(data)):
        return torch._pad_packed_sequence(data, batch_sizes, batch_first, padding_value, total_length)
    packing = Packing.of(batch_sizes, total_length)
    rows, there = packing.rows.T.to(data.device), packing.there.T.to(data.device)
    out = data[rows].masked_fill(~there.view(*there.shape, *[1] * (data.ndim - 1)), padding_value)
    return out.transpose(0, 1) if batch_first else out, packing.there.sum(1)
