"""A pass, for functions of parameters that have no rule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lowland.optim.m_sam.closure import Closure
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.rows import over
from lowland.optim.m_sam.rule import EitherPass, Use
from lowland.optim.m_sam.spreading import beside
from lowland.optim.m_sam.watched import Derived, Watched


class Side(EitherPass, Protocol):
    """What a pass does with parameters: at w, or at each group's own w + e."""

    @property
    def divided_by(self) -> int:
        """What the sum of a group's losses is divided by before backward."""

    @property
    def warn(self) -> Callable[[str], None]:
        """The function to call with a warning of what is slow."""

    def covered(self, use: Use) -> Tensor:
        """The result of a call that has a rule."""

    def without_rows(self, use: Use) -> Tensor:
        """The result of a call on no rows, which has zero gradients."""


@dataclass
class Pass:
    """The closure with the parameters of one side.

    Attributes:
        side: has the parameters.
        closure: runs.
    """

    side: Side
    closure: Closure

    def stack_of(self, leaf: object) -> Tensor | None:
        """``(groups, *shape)`` of a parameter, or of what parameters alone give; None for anything else."""
        if type(leaf) is Watched:
            return self.side.stack(leaf)
        return leaf.stack if type(leaf) is Derived else None

    def beside(self, value: Tensor, rows: Tensor, what: str) -> Tensor | None:
        """``value``, which parameters alone give, as a tensor that broadcasts with ``rows``, each with its group's.

        None if ``rows`` has no rows of examples.
        """
        with self.closure.dependence.paused():
            stack = self.stack_of(value)
        assert stack is not None
        return beside(self.closure, stack, self.side.groups, rows, what)

    def of_rows(self, value: Tensor, rows: Tensor, what: str) -> Tensor:
        """``value``, whatever gives it, as one that has a row for each of ``rows``, along the first dimension.

        Raises:
            NotCovered: if it can't be.
        """
        closure = self.closure
        if isinstance(value, Watched | Derived):
            found = self.beside(value, rows[:, 0], what)
        elif closure.are_alone([value], what):  # each row has its own, which depends on nothing else
            with closure.dependence.paused():
                found = value.clone()
            found = closure.own(found)
        else:
            found = value if closure.has_rows(value, what) else None
        if found is None or len(found) != len(rows):
            raise NotCovered(f"{what} begins with states that aren't laid out by example")
        return found

    def whose(self, packed: Tensor, count: int, what: str) -> Tensor:
        """The number of the example of each of ``count`` sequences whose packed rows are given, on the CPU.

        Raises:
            NotCovered: if they can't be those of the examples.
        """
        place = self.closure.owned([packed], what)
        if place is not None and not place.routed and not place.dim:
            return place.owners(len(packed), self.examples)[:count]
        if place is not None or count % self.examples:
            raise NotCovered(f"{what} sees {count} packed sequences that aren't those of {self.examples} examples")
        owners, last = torch.arange(count) * self.examples // count, self.closure.seen.packed
        order = last.sorted_indices if last is not None and last.data is packed else None
        return owners if order is None else owners[order.cpu()]

    def written(self, target: Tensor, value: Tensor, what: str) -> Tensor:
        """``target``, a buffer say, with ``value`` written to it; until the closure is over each group has its own.

        Raises:
            NotCovered: if it can't be told who sees that.
        """
        plain = type(value) is Derived and type(target) in (Tensor, Derived) and not torch.is_grad_enabled()
        alike = (target.shape, target.dtype) == (value.shape, value.dtype) and not target._is_view()
        if not (plain and alike and self.closure.in_closure) or target.requires_grad:
            raise NotCovered(f"{what} writes in place")
        assert isinstance(value, Derived)
        known = type(target) is Derived
        with self.closure.dependence.paused():
            Derived.become(target, value)
        if not known:
            self.closure.seen.lent.append(target)  # type: ignore[arg-type]
            if self.closure.dependence.active:
                self.closure.dependence.labels.hide([target])
        return target

    def takes_packed(self, packed: PackedSequence) -> None:
        """Take note of what a recurrent layer gets. Its order is numbers of rows, and no data of the examples."""
        self.closure.seen.packed = packed
        dependence = self.closure.dependence
        for order in (packed.sorted_indices, packed.unsorted_indices):
            if order is not None and dependence.active and dependence.labels.at(order) is None:
                dependence.labels.set_constant([order])

    def picked(self, value: Tensor, dim: int, index: Tensor) -> Tensor:
        """``value`` at an ``index`` of numbers of rows of the batch; of what parameters give each group has all."""
        with self.closure.dependence.paused():
            stack = self.stack_of(value)
            if stack is not None:
                return Derived.of(value.index_select(dim, index), stack.index_select(dim + 1, index), shared=False)
        return value.index_select(dim, index)

    @property
    def examples(self) -> int:
        """How many the batch has."""
        return self.closure.examples

    def looked_up(self, tokens: Tensor, table: Tensor, what: str) -> Tensor | None:
        """The rows of ``table``, which parameters give, at ``tokens``; None if ``tokens`` have no rows of examples."""
        closure, groups = self.closure, self.side.groups
        dim = closure.rows_along(tokens, what)
        if dim is None:
            return None
        with closure.dependence.paused():
            stack = self.stack_of(table)
            assert stack is not None
            own = groups.own(tokens.movedim(dim, 0))
            of_rows = over(groups.of_rows(len(own), own.device), own.ndim)
            found = groups.among(stack[of_rows, own])
        found = closure.own(found)
        return found.movedim(0, dim).contiguous() if dim else found

    def uses(self, name: str, owners: list[str]) -> None:
        """Take note of a function of parameters with these names."""
        self.closure.seen.where = owners[0] if owners else self.closure.seen.where
        self.closure.seen.uses |= {(name, owner) for owner in owners}
