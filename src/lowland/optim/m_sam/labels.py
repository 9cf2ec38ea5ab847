"""What is known of memory: which example each part of it depends on, if any."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from lowland.optim.m_sam.lines import line
from lowland.optim.m_sam.places import Along, Mixed, Owners, Place, memory, owned
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


@dataclass(frozen=True)
class Owned:
    """Memory whose rows are owned as data says.

    Attributes:
        unit: bytes after which the row changes.
        owners: of the rows, ``each`` of them 1; after the last one the first comes again.
        numbers: where in it numbers of rows begin that were picked, and what these count.
    """

    unit: int
    owners: Owners
    numbers: tuple[tuple[int, "Counted"], ...] = ()


@dataclass(frozen=True)
class Counted:
    """What numbers of rows count: entries of a dimension of ``size``, and whose they are."""

    size: int
    inner: int | Owners


#: Of memory: bytes after which the example changes, or whose its rows are, that examples can't be told apart, or that
#: it depends on none.
Label = int | Owned | Mixed | Free


class Labels:
    """Where the examples are in tensors, by the memory that they lie in.

    Args:
        examples: how many the batch has.
    """

    def __init__(self, examples: int):
        self.examples = examples
        #: Why the closure can't be followed any further, if so.
        self.stopped: NotCovered | None = None
        #: Whether data said whose rows are.
        self.owned = False
        #: Whether parameters said which rows are picked: at other weights it may be others.
        self.moving = False
        #: Whether a value is read only to be checked.
        self.checking = False
        #: Whether somebody vouches for what is read: that it only leaves out work for no rows.
        self.vouched = False
        #: Of rows that parameters don't route, all that were met.
        self.met: list[Owners] = []
        self._labels: dict[int, tuple[StorageWeakRef, Label]] = {}

    def clear(self) -> None:
        """Forget what was known of another evaluation."""
        self._labels.clear()
        self.stopped, self.owned, self.moving, self.met = None, False, False, []

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
        if isinstance(label, Owned):
            return self._owned(value, label)
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
        before = self.label(value)
        if isinstance(place.inner, Owners):
            return self._own(value, place.dim, place.inner, before)
        unit = value.stride(place.dim) * value.element_size() * place.inner
        if (
            unit <= 0
            or isinstance(before, Mixed)
            or (type(before) is int and before != unit)
            or isinstance(before, Owned)
        ):
            return False
        if self._along(value, unit) != place:
            return False
        if before != unit:
            self.put(value, unit)
        return True

    def set_picked(self, value: Tensor, owners: Owners, columns: list[Counted | None]) -> None:
        """Say that ``value``, ``(rows, columns)``, holds numbers of rows that were picked, and whose they are."""
        begins = (int(value.storage_offset()) + i * value.stride(1) for i in range(len(columns)))
        unit = max(1, value.stride(0)) * value.element_size()
        self.owned = True
        numbers = tuple((begin, column) for begin, column in zip(begins, columns, strict=True) if column is not None)
        self.put(value, Owned(unit, owners, numbers))

    def counted(self, value: Tensor) -> Counted | None:
        """What the numbers of rows in ``value`` count, if it is a column of such."""
        label = self.label(value)
        if not isinstance(label, Owned) or value.ndim != 1 or len(value) != len(label.owners.of):
            return None
        return dict(label.numbers).get(int(value.storage_offset()))

    def are_numbers(self, value: Tensor) -> bool:
        """Whether ``value`` holds numbers of rows that were picked."""
        label = self.label(value)
        return isinstance(label, Owned) and bool(label.numbers)

    def routed(self, value: object) -> Along | None:
        """Where rows are in ``value`` that parameters route there, if so; there may be none of them."""
        place = self.at(value)
        return place if isinstance(place, Along) and place.routed else None

    def _own(self, value: Tensor, dim: int, owners: Owners, before: Label | None) -> bool:
        unit = max(1, value.stride(dim)) * value.element_size() * owners.each
        if value.shape[dim] != len(owners.of) * owners.each or (value.numel() and value.stride(dim) <= 0):
            return False
        label = Owned(unit, owners if owners.each == 1 else replace(owners, each=1))
        if isinstance(before, int | Mixed) or (
            isinstance(before, Owned) and (before.unit, before.owners) != (label.unit, label.owners)
        ):
            return False
        if len(owners.of) > 1 and self._owned(value, label) != Along(dim, owners):
            return False
        if len(owners.of) == 1 and owners.routing is not None and (owners.each > 1 or value.shape.index(1) != dim):
            return False  # it would be looked for along another dimension
        self.owned = True
        if owners.routing is None and not any(known is owners for known in self.met):
            self.met.append(owners)
        self.put(value, label)
        return True

    def _owned(self, value: Tensor, label: Owned) -> Place:
        """Where rows are in a view of memory whose rows are owned as ``label`` says."""
        owners, unit, item = label.owners, label.unit, value.element_size()
        rows = len(owners.of)
        if not value.numel():
            return Along(value.shape.index(0), replace(owners, of=owners.of[:0]))
        period = unit * rows
        start, reach = int(value.storage_offset()) * item % period, 0
        found: tuple[int, int] | None = None
        for step, n, dim in sorted(zip(value.stride(), value.shape, range(value.ndim), strict=True)):
            step *= item
            if n == 1 or step % period == 0:
                continue
            if found is None and start % unit + reach + (n - 1) * step < unit:
                reach += (n - 1) * step
                continue
            within = unit if step % unit == 0 else step
            if found is not None or unit % within or start % within + reach >= within:
                return Mixed(f"rows in an order that isn't that of one dimension ({line()})")
            found = dim, step
        if found is None:  # a single row: any dimension that has nothing else
            dim = next((d for d, n in enumerate(value.shape) if n == 1), -1)
            return Along(dim, owners) if rows == 1 and dim >= 0 else Mixed(f"one row alone ({line()})")
        dim, step = found
        each = max(unit // step, 1)
        if step <= unit and start < step and value.shape[dim] == rows * each:  # all of them, in order
            return Along(dim, owners if each == 1 else replace(owners, each=each))
        if owners.routing is not None:
            return Mixed(f"rows at positions that depend on other examples ({line()})")
        at = (start + step * torch.arange(value.shape[dim])) // unit % rows
        return owned(dim, Owners(owners.of[at]), self.examples)

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
