"""The sequences that a recurrent layer sees, side by side: filled up by the user, or packed."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.filling import Filling
from lowland.optim.m_sam.packed import Packing, is_packing
from lowland.optim.m_sam.places import Along, Owners
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.watched import Caller


class Sequences:
    """All of the same length, ``(rows, times, features)``."""

    #: Whether each one has each time, ``(rows, times)``; None for all.
    there: Tensor | None = None

    def reversed(self, x: Tensor) -> Tensor:
        """``x`` from the last time to the first."""
        return x.flip(1)

    def dropped(self, x: Tensor, p: float) -> Tensor:
        """``x`` after dropout, which draws in torch's order."""
        return F.dropout(x.transpose(0, 1).contiguous(), p).transpose(0, 1)


class PackedSequences(Sequences):
    """Packed ones, those of each example together, equally many for each, filled up to the longest.

    Which row goes where is data: following the indices shows whether the examples come out in order.

    Args:
        data: the packed rows, ``(rows, features)``.
        batch_sizes: the number of sequences at each time.
        watch: the pass.
        kind: of layer, for messages.

    Raises:
        NotCovered: if they are no packed sequences of the examples.
    """

    def __init__(self, data: Tensor, batch_sizes: Tensor, watch: Caller, kind: str):
        if data.ndim != 2 or not is_packing(batch_sizes, len(data)):
            raise NotCovered(f"{kind} sees a packed sequence that torch hasn't packed")
        packing, times = Packing.of(batch_sizes), len(batch_sizes)
        owners = Owners(watch.whose(data, int(batch_sizes[0]), kind))
        filling = Filling.of(Along(0, owners), watch.examples)
        there = packing.there[filling.sources]
        last = there.sum(1, keepdim=True) - 1
        time = torch.arange(times)
        turned = torch.where(there, last - time, time)
        device = data.device
        #: Which sequence each row is, and where each sequence is among the rows.
        self.sources, self.slots = filling.sources.to(device), filling.slots.to(device)
        self.there = None if there.all() else there.to(device)
        self._rows = packing.rows[filling.sources].flatten().to(device)
        self._back = (filling.slots[packing.sequences] * times + packing.times).to(device)
        self._turned = (torch.arange(len(there))[:, None] * times + turned).flatten().to(device)
        self._times = times

    def unpacked(self, data: Tensor) -> Tensor:
        """``(rows, times, features)`` of packed ones."""
        return data.index_select(0, self._rows).unflatten(0, (-1, self._times))

    def packed(self, x: Tensor) -> Tensor:
        """The packed rows of ``(rows, times, features)``."""
        return x.flatten(0, 1).index_select(0, self._back)

    def reversed(self, x: Tensor) -> Tensor:
        """``x``, each sequence from its own last time to its first."""
        return x.flatten(0, 1).index_select(0, self._turned).unflatten(0, (-1, self._times))

    def dropped(self, x: Tensor, p: float) -> Tensor:
        """``x`` after dropout, which draws for packed rows."""
        return self.unpacked(F.dropout(self.packed(x), p))
