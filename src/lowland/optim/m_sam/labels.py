"""What is known of memory: which example each part of it depends on, if any."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from lowland.optim.m_sam.lines import line
from lowland.optim.m_sam.places import Along, Mixed, Place, memory
from lowland.optim.m_sam.refusals import NotCovered


@dataclass(frozen=True)
class Free:
    """Memory that depends on no watched parameter.

    Attributes:
        constant: whether it doesn't depend on data either, as far as that was seen: positions, masks, buffers.
        counts: if it holds 0, 1, 2, ..., as numbers of which type.
        by_group: whether each group has its own.
        unwatched: whether it has gradients, for parameters that nobody watches.
        unwritten: whether nothing has been written there yet.
    """

    constant: bool = False
    counts: torch.dtype | None = None
    by_group: bool = False
    unwatched: bool = False
    unwritten: bool = False


#: Of memory: bytes after which the example changes, that examples can't be told apart, or that it depends on none.
Label = int | Mixed | Free


class Labels:
    """Where the examples are in tensors, by the memory that they lie in.

    Args:
        examples: how many the batch has.
    """

    def __init__(self, examples: int):
        self.examples = examples
        #: Why the closure can't be followed any further, if so.
        self.stopped: NotCovered | None = None
        self._labels: dict[int, tuple[StorageWeakRef, Label]] = {}

    def clear(self) -> None:
        """Forget what was known of another evaluation."""
        self._labels.clear()
        self.stopped = None

    def stop(self, why: str) -> None:
        """Follow no further. The closure goes on: what it changes for a while it must be able to change back."""
        if self.stopped is None:
            self.stopped = NotCovered(why)

    # What is known.

    def at(self, value: object) -> Place | None:
        """Where the examples are in ``value``; None if it depends on no watched parameter."""
        if not isinstance(value, Tensor):
            return None
        label = self.label(value)
        if type(label) is int:
            return self._along(value, label)
        if isinstance(label, Mixed):
            return label
        free = label if isinstance(label, Free) else None
        if free is not None and free.unwritten:
            return self._unseen(value) if value.numel() else None
        known = value.is_leaf or _is_part_of_a_leaf(value) or (free is not None and (free.unwatched or free.by_group))
        if value.requires_grad and not known:
            return self._unseen(value)
        return None

    def _unseen(self, value: Tensor) -> Mixed:
        return Mixed(f"a tensor made where nothing is seen (by a function of autograd's own, say; {line()})")

    def is_constant(self, value: Tensor) -> bool:
        """Whether ``value`` depends neither on watched parameters nor on data, as far as that was seen."""
        label = self.label(value)
        return isinstance(label, Free) and label.constant

    def unwritten(self, value: Tensor) -> bool:
        """Whether nothing was written to the memory of ``value`` yet."""
        label = self.label(value)
        return isinstance(label, Free) and label.unwritten

    def counts(self, value: Tensor) -> bool:
        """Whether the memory of ``value`` holds 0, 1, 2, ..., from its beginning on."""
        label = self.label(value)
        return isinstance(label, Free) and label.counts is value.dtype and value.storage_offset() == 0

    def by_group(self, value: object) -> bool:
        """Whether each group has its own ``value``."""
        label = self.label(value) if isinstance(value, Tensor) else None
        return isinstance(label, Free) and label.by_group

    # What others say.

    def set_constant(self, values: Iterable[Tensor]) -> None:
        """Say that ``values`` depend neither on watched parameters nor on data."""
        for value in values:
            self.put(value, Free(constant=True, unwatched=value.requires_grad))

    def hide(self, values: Iterable[Tensor]) -> None:
        """Say that ``values`` are parameters, or what they give: no operation may read them that isn't watched."""
        for value in values:
            self.put(value, Mixed("a parameter that is used where nobody watches"))

    def set_by_group(self, value: Tensor) -> None:
        """Say that each group has its own ``value``."""
        self.put(value, Free(by_group=True))

    def set_mixed(self, value: Tensor, why: str) -> None:
        """Say that ``value`` depends on examples that can't be told apart."""
        self.put(value, Mixed(f"{why} ({line()})"))

    def look_for_aliases(self, value: Tensor) -> None:
        """``value`` came from outside of torch, and may lie in memory that is known under another name."""
        begin = value.untyped_storage().data_ptr()
        for reference, label in list(self._labels.values()):
            storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
            if isinstance(label, Free) or storage is None:
                continue
            if storage.data_ptr() <= begin < storage.data_ptr() + storage.nbytes():
                self.put(value, Mixed(f"memory that came from outside of torch ({line()})"))

    # Memory and its labels.

    def label(self, value: Tensor) -> Label | None:
        """What is known of the memory of ``value``; None for nothing."""
        found = self._labels.get(memory(value))
        return None if found is None else found[1]

    def put(self, value: Tensor, label: Label) -> None:
        """Say what is known of the memory of ``value``."""
        if (key := memory(value)) == 0:
            if not isinstance(label, Free):
                self.stop(f"a tensor of layout {value.layout} ({line()}) depends on the parameters")
            return
        # As long as the reference is kept the key isn't given to other memory.
        self._labels[key] = StorageWeakRef(value.untyped_storage()), label

    def assign(self, value: Tensor, place: Along) -> bool:
        """Say where the examples are in ``value``; False if its memory can't hold them so."""
        if not 0 <= place.dim < value.ndim:
            return False
        unit = value.stride(place.dim) * value.element_size() * place.inner
        before = self.label(value)
        if unit <= 0 or isinstance(before, Mixed) or (type(before) is int and before != unit):
            return False
        if self._along(value, unit) != place:
            return False
        if before != unit:
            self.put(value, unit)
        return True

    def _along(self, value: Tensor, unit: int) -> Place | None:
        """Where the examples are in a tensor whose memory changes example every ``unit`` bytes."""
        if not value.numel():
            return None
        item, period = value.element_size(), unit * self.examples
        example, reach = divmod(int(value.storage_offset()) * item % period, unit)
        found: Along | None = None
        steps = zip(value.stride(), value.shape, range(value.ndim), strict=True)
        for step, n, dim in sorted(steps):
            step *= item
            if n == 1 or step % period == 0:
                continue
            if found is None and reach + (n - 1) * step < unit:
                reach += (n - 1) * step
            elif found is None and unit % step == 0 and reach < step and not example and n % (period // step) == 0:
                found = Along(dim, unit // step)
            else:
                return Mixed(f"rows of some of the examples ({line()})")
        return found if found is not None else Mixed(f"rows of one example alone ({line()})")


def _is_part_of_a_leaf(value: Tensor) -> bool:
    """Whether ``value`` is a view of a parameter, the transposed weight of a layer that nobody watches say."""
    return value._is_view() and value._base is not None and value._base.is_leaf
