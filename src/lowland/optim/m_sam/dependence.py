"""Which examples a tensor depends on, followed through a closure operation by operation.

Exact m-SAM gives each row of a layer's output to one group of examples. That is right if, from there on, the row
reaches the losses of that group alone, and it is wrong else. So every tensor that depends on watched parameters is
followed, from the outputs of layers to the losses. What is known of it is where its examples lie: what is at
``offset`` in its memory is example (offset // unit) mod B's. Views then need no rule: they read the same memory in
another order. Operations that compute have a rule in `operations`. One without a rule, one that mixes examples, or
one that picks among them by data ends the knowledge: its result is `Mixed`. Losses that depend on such a result are
refused. Nothing is inferred from values, so that what holds for one batch holds for all.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode, _pop_mode, _push_mode

from lowland.optim.m_sam.labels import Free, Labels
from lowland.optim.m_sam.lines import line
from lowland.optim.m_sam.operations import Call, Rule, entrywise, rule_for
from lowland.optim.m_sam.places import Along, Mixed, Place, memory
from lowland.optim.m_sam.refusals import NotCovered, OwnGenerator

_FORM_ONLY_NAMES = """
new_zeros new_ones new_full new_empty new_empty_strided zeros_like ones_like full_like empty_like
"""
#: What these give has the form of their argument and not its values.
_FORM_ONLY = frozenset(_FORM_ONLY_NAMES.split())
_RANDOM = frozenset(["rand", "randn", "randint", "randperm", "normal", "rand_like", "randn_like", "randint_like"])
#: The form of what these give depends on arguments of whole numbers, which mustn't depend on parameters.
_BY_DATA = frozenset(["index", "_ctc_loss"])
#: What these give has no values of their arguments.
_NO_VALUES = _FORM_ONLY | frozenset(["rand_like", "randn_like", "randint_like"])
#: What these give has no values at all, until it is written to.
_UNWRITTEN = frozenset(["empty", "empty_strided", "new_empty", "new_empty_strided", "empty_like"])
#: What reads values, and has no tag that says so.
_READ = frozenset(["_pack_padded_sequence"])
_COPIES = frozenset(["clone", "_to_copy", "contiguous"])
_DRAWS = frozenset("bernoulli_ uniform_ normal_ random_ exponential_ geometric_ cauchy_ log_normal_".split())  # noqa: SIM905


@dataclass(frozen=True)
class _Operation:
    name: str
    rule: Rule | None
    #: Arguments that are written to, by position and by name.
    written: tuple[tuple[int, str], ...]
    #: Whether all that it does is to look at the same memory.
    is_view: bool


@cache
def _operation(func: Any) -> _Operation:
    schema = func._schema
    written = tuple((i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write)
    name = schema.name.partition("::")[2]
    is_view = (
        bool(schema.returns)
        and name != "lift_fresh"
        and not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")  # may copy
        and all(a.alias_info and not a.alias_info.is_write for a in schema.returns)
    )
    return _Operation(
        name,
        rule_for(func),
        written,
        is_view or torch.Tag.inplace_view in func.tags,
    )


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
        self._paused = 0

    def __enter__(self) -> "Dependence":
        self.labels.clear()
        self.active, self._paused = True, 0
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
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

    def own(self, value: Tensor, inner: int) -> Tensor:
        """Each ``inner`` rows of ``value`` belong to an example, in order. Returns ``value``, or a copy if need be."""
        if not value.numel() or self.labels.assign(value, Along(0, inner)):
            return value
        with self.paused():
            value = value.clone(memory_format=torch.contiguous_format)
        if not self.labels.assign(value, Along(0, inner)):
            self.labels.put(value, Mixed(f"rows that can't be laid out by example ({line()})"))
        return value

    def refuse(self, value: Any, why: str) -> None:
        """The end, if ``value`` depends on watched parameters; ``why`` has a place for the line."""
        if self.active and self._following and self.labels.at(value) is not None:
            self.labels.stop(why.format(line()))

    # Operations.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
            self._follow(func, args, kwargs or {}, out)
        return out

    def _are_opaque(self, args: Any, kwargs: Any) -> bool:
        """Whether some of the tensors compute for themselves, and aren't known to depend on nothing."""
        tensors = list(_tensors((args, *(kwargs or {}).values())))
        computing = [t for t in tensors if type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__]
        if all(map(self.labels.is_constant, computing)):
            return bool(computing) and any(self.labels.at(t) is not None for t in tensors)
        return True

    def _follow(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        operation = _operation(func)
        if operation.is_view:
            return
        tensors = list(_tensors(args))
        if kwargs:
            tensors += _tensors(kwargs.values())
        dependent = [(t, place) for t in tensors if (place := self.labels.at(t)) is not None]
        results = list(_tensors((out,)))
        if dependent and (operation.written or operation.name in _COPIES):  # what nobody has written to isn't read
            over = tensors if operation.name in _COPIES else list(_tensors(_written(operation, args, kwargs)))
            dependent = [(t, p) for t, p in dependent if not (self.labels.unwritten(t) and any(t is w for w in over))]
        if not dependent or operation.name in _NO_VALUES:
            self._free(operation, args, kwargs, tensors, results)
            return
        if torch.Tag.data_dependent_output in func.tags or operation.name in _READ:
            return self.labels.stop(f"{operation.name} ({line()}) reads a value that depends on the parameters")
        masks = args[1] if operation.name == "index" else ()
        if any(t is not None and t.dtype in (torch.bool, torch.uint8) and self.labels.at(t) is not None for t in masks):
            return self.labels.stop(f"a mask ({line()}) that depends on the parameters picks rows")
        by_data = torch.Tag.dynamic_output_shape in func.tags and operation.name not in _BY_DATA
        if by_data or (operation.name == "where" and len(args) == 1):
            return self.labels.stop(
                f"{operation.name} ({line()}) gives as many rows as values say that depend on the parameters"
            )
        if torch.Tag.nondeterministic_seeded in func.tags and operation.rule is None:
            return self.labels.stop(f"{operation.name} ({line()}) may draw as many random numbers as values say")
        # What lies in an argument's memory is a view of it.
        seen = {memory(t) for t in tensors} - {0}
        fresh = [(i, t) for i, t in enumerate(results) if memory(t) not in seen]
        written = list(_tensors(_written(operation, args, kwargs))) if operation.written else []
        if func.namespace != "aten":
            written = tensors  # nobody knows what it writes to
        if not fresh and not written:
            return
        if operation.rule is entrywise and len(dependent) == 1 and self._alike(*dependent[0], fresh, written):
            return
        places = self._places(func, operation, args, kwargs, dependent, results)
        targets = [(t, places[min(i, len(places) - 1)]) for i, t in fresh]
        if written:
            place = places[0] if len(places) == 1 else Mixed(f"{operation.name} ({line()}), which writes in place")
            targets += [(t, place) for t in written]
        if any(not t.untyped_storage().resizable() for t in written):  # nor can it be where it is shared
            return self.labels.stop(
                f"{operation.name} ({line()}) writes to memory that NumPy or another process may share"
            )
        for t, place in targets:
            if isinstance(place, Mixed):
                self.labels.put(t, place)
            elif place is not None and not self.labels.assign(t, place):
                self.labels.put(t, Mixed(f"{operation.name} ({line()}), whose result lies otherwise in memory"))

    def _alike(self, value: Tensor, place: Place, fresh: list[tuple[int, Tensor]], written: list[Tensor]) -> bool:
        """For speed: whether one result lies in memory as the only argument that counts does, and is labelled so."""
        if isinstance(place, Mixed) or len(fresh) + len(written) != 1:
            return False
        if written:
            return written[0] is value
        ((_, out),) = fresh
        same = out.shape == value.shape and out.stride() == value.stride() and value.storage_offset() == 0
        if same and out.element_size() == value.element_size() and type(label := self.labels.label(value)) is int:
            self.labels.put(out, label)
            return True
        return False

    def _places(
        self, func: Any, operation: _Operation, args: Any, kwargs: dict[str, Any], dependent: Any, results: list[Tensor]
    ) -> list[Place | None]:
        """Where the examples are in what an operation gives."""
        for _, place in dependent:
            if isinstance(place, Mixed):
                return [place]
        if operation.rule is None:
            return [Mixed(f"{operation.name} ({line()}), of which isn't known what it does with examples")]
        found = operation.rule(Call(func, args, kwargs, results, dependent, self.labels))
        if found is None:
            return [Mixed(f"{operation.name} ({line()}), which mixes the examples or picks among them")]
        return found if isinstance(found, list) else [found]

    def _free(
        self, operation: _Operation, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], results: list[Tensor]
    ) -> None:
        """What comes of tensors that depend on no watched parameter."""
        name = operation.name
        constant = name in _FORM_ONLY or name == "lift_fresh" or all(map(self.labels.is_constant, tensors))
        if operation.written:
            for t in _tensors(_written(operation, args, kwargs)):
                if self.labels.is_constant(t):
                    unwatched = any(source.requires_grad for source in tensors)
                    self.labels.put(t, Free(constant=constant and name not in _DRAWS, unwatched=unwatched))
            return
        fresh = [t for t in results if self.labels.label(t) is None]
        if name in _UNWRITTEN or (name in _COPIES and any(map(self.labels.unwritten, tensors))):
            for t in fresh:
                self.labels.put(t, Free(constant=True, unwritten=True))
            return
        if name in _RANDOM:  # rows for the examples, if there are as many
            constant = not any(t.ndim > 0 and len(t) % self.labels.examples == 0 for t in fresh)
        if constant:
            counts = name == "arange" and not tensors and _from_zero(args)
            for t in fresh:
                has_gradients = any(t.requires_grad for t in tensors)
                self.labels.put(t, Free(constant=True, counts=t.dtype if counts else None, unwatched=has_gradients))
        elif any(map(self.labels.by_group, tensors)):
            for t in fresh:
                self.labels.put(t, Free(by_group=True))
        elif any(t.requires_grad for t in tensors):  # of parameters that nobody watches
            for t in fresh:
                self.labels.put(t, Free(unwatched=True))


def _from_zero(args: Any) -> bool:
    return len(args) == 1 or (args[0] == 0 and (len(args) == 2 or args[2] == 1))


def _written(operation: _Operation, args: Any, kwargs: dict[str, Any]) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in operation.written]


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from _tensors(value)
