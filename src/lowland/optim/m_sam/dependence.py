"""Which examples a tensor depends on, followed through a closure operation by operation.

Exact m-SAM gives each row of a layer's output to one group of examples. That is right if, from there on, the row
reaches the losses of that group alone, and it is wrong else. So every tensor that depends on watched parameters is
followed, from the outputs of layers to the losses. What is known of it is where its examples lie: what is at
``offset`` in its memory is example (offset // unit) mod B's. Views then need no rule: they read the same memory in
another order. Operations that compute have a rule in `operations`. One without a rule, one that mixes examples, or
one that picks among them by data ends the knowledge: its result is `Mixed`. Losses that depend on such a result are
refused. Nothing is inferred from values, so that what holds for one batch holds for all.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode, _pop_mode, _push_mode

from lowland.optim.m_sam.following import follow, tensors_in
from lowland.optim.m_sam.guesses import GUESSES
from lowland.optim.m_sam.labels import Labels
from lowland.optim.m_sam.lines import line
from lowland.optim.m_sam.places import Along, Mixed, Owners
from lowland.optim.m_sam.refusals import NotCovered, OwnGenerator
from lowland.values import Args, Kwargs, Tree


class Dependence(TorchDispatchMode):
    """Follows what depends on watched parameters while it is entered.

    Args:
        examples: how many the batch has.
    """

    def __init__(self, examples: int):
        super().__init__()
        self.labels = Labels(examples)
        #: Whether it is entered.
        self.active = False
        #: Whether generators of one's own are known to give the same numbers each time.
        self.generators = False
        #: Of what has rows, where that can't be known.
        self.guess = GUESSES[0]
        self._paused = 0

    def __enter__(self) -> "Dependence":
        self.labels.clear()
        self.active, self._paused = True, 0
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.active = False
        super().__exit__(*error)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Inside, operations are followed again, with what is known. Raises NotCovered if they can't be."""
        self.active, self.labels.stopped, self._paused = True, None, 0
        super().__enter__()
        try:
            yield
        finally:
            self.active = False
            super().__exit__(None, None, None)
        if self.labels.stopped is not None:
            raise self.labels.stopped

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, operations aren't followed; afterwards `own` says what became of their result."""
        alone = self.active and not self._paused and _get_current_dispatch_mode() is self
        self._paused += 1
        try:
            if alone:  # not to be called is quicker than to do nothing
                _pop_mode()
            yield
        finally:
            self._paused -= 1
            if alone:
                _push_mode(self)

    @property
    def _following(self) -> bool:
        return not self._paused and self.labels.stopped is None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # compiled functions run as they were written, and each call here would take longer

    def own(self, value: Tensor, inner: int | Owners, dim: int = 0) -> Tensor:
        """Each ``inner`` rows of ``value`` along ``dim`` belong to an example, in order; or each to whom it says.

        Returns ``value``, or a copy if need be.
        """
        place = Along(dim, inner)
        if self.labels.assign(value, place) or not (value.numel() or place.routed):
            return value
        with self.paused():
            value = value.clone()  # which lies as before: dropout draws in that order
        if not self.labels.assign(value, place):
            self.labels.put(value, Mixed(f"rows that can't be laid out by example ({line()})"))
        return value

    def refuse(self, value: object, why: str) -> None:
        """The end, if ``value`` depends on watched parameters; ``why`` has a place for the line."""
        if self.active and self._following and self.labels.at(value) is not None:
            self.labels.stop(why.format(line()))

    def refuse_size(self, value: object) -> None:
        """The end, if ``value`` has rows that parameters route, since how many there are is read."""
        labels = self.labels
        if self.active and self._following and not labels.vouched and labels.routed(value) is not None:
            labels.stop(f"how many rows the parameters route is read ({line()})")

    def refuse_lending(self, values: list[Tensor]) -> None:
        """The end, if some of ``values`` have rows that parameters route, and others get as many."""
        if self.active and self._following and len({self.labels.routed(value) is None for value in values}) > 1:
            self.labels.stop(f"something gets as many rows as the parameters route ({line()})")

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Inside, values are read only for an error or nothing."""
        self.labels.checking = True
        try:
            yield
        finally:
            self.labels.checking = False

    @contextmanager
    def vouched(self) -> Iterator[None]:
        """Inside, what is read decides no more than which work is left out for want of rows."""
        before, self.labels.vouched = self.labels.vouched, True
        try:
            yield
        finally:
            self.labels.vouched = before

    # Operations.

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Tree:
        if kwargs and kwargs.get("generator") is not None and self._following and not self.generators:
            raise OwnGenerator(
                f"{func._schema.name.partition('::')[2]} ({line()}) draws from a torch.Generator of its own: with m "
                "each evaluation of a step needs the same random numbers, so draw from torch's default generator, or "
                "before the closure"
            )
        if self._following and torch.jit.is_tracing():
            raise NotCovered(f"the closure is traced by torch.jit ({line()})")
        out = func(*args, **(kwargs or {}))
        if self._following:
            if types and self._are_opaque(args, kwargs):
                self.labels.stop(
                    f"{func._schema.name.partition('::')[2]} ({line()}) is given a tensor that nothing sees into"
                )
            follow(self.labels, func, args, kwargs or {}, out)
        return out

    def _are_opaque(self, args: Args, kwargs: Kwargs | None) -> bool:
        """Whether some of the tensors compute for themselves, and aren't known to depend on nothing."""
        tensors = list(tensors_in((args, *(kwargs or {}).values())))
        computing = [t for t in tensors if type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__]
        if all(map(self.labels.is_constant, computing)):
            return bool(computing) and any(self.labels.at(t) is not None for t in tensors)
        return True
