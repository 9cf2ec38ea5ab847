"""What becomes of labels when an operation of torch was called."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch._ops import OpOverload

from lowland.optim.m_sam.labels import Free, Labels, Owned
from lowland.optim.m_sam.lines import line
from lowland.optim.m_sam.operations import Call, Rule, entrywise, rule_for
from lowland.optim.m_sam.places import Along, Mixed, Place, memory
from lowland.optim.m_sam.routed import by_position, picked_by
from lowland.values import Args, Kwargs, Tree

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

    def targets(self, args: Args, kwargs: Kwargs) -> list[Tensor]:
        """The tensors that it writes to."""
        if not self.written:
            return []
        return list(tensors_in(args[i] if i < len(args) else kwargs.get(name) for i, name in self.written))


@cache
def _operation(func: OpOverload) -> _Operation:
    schema = func._schema
    written = tuple((i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write)
    name = schema.name.partition("::")[2]
    is_view = (
        bool(schema.returns)
        and name != "lift_fresh"
        and not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")  # may copy
        and all(a.alias_info and not a.alias_info.is_write for a in schema.returns)
    )
    return _Operation(name, rule_for(func), written, is_view or torch.Tag.inplace_view in func.tags)


def follow(labels: Labels, func: OpOverload, args: Args, kwargs: Kwargs, out: Tree) -> None:
    """Label what ``func`` has given and written to.

    Args:
        labels: of the closure's tensors.
        func: that was called.
        args: by position.
        kwargs: by name.
        out: its results.
    """
    operation = _operation(func)
    if labels.owned and (why := by_position(labels, func, operation.is_view, args, kwargs, out)) is not None:
        labels.stop(f"{operation.name} ({line()}) {why} of rows that the parameters route")
        return
    if operation.is_view:
        return
    if operation.name == "nonzero" and picked_by(labels, args[0], out):
        return
    tensors = list(tensors_in(args))
    if kwargs:
        tensors += tensors_in(kwargs.values())
    dependent = [(t, place) for t in tensors if (place := labels.at(t)) is not None]
    results, written = list(tensors_in((out,))), operation.targets(args, kwargs)
    if dependent and (written or operation.name in _COPIES):  # what nobody has written to isn't read
        over = tensors if operation.name in _COPIES else written
        dependent = [(t, p) for t, p in dependent if not (labels.unwritten(t) and any(t is w for w in over))]
    if not dependent or operation.name in _NO_VALUES:
        if operation.written:
            _free_written(labels, operation.name, tensors, written)
        else:
            _free_results(labels, operation.name, args, tensors, [t for t in results if labels.label(t) is None])
        if (
            dependent
            and operation.name.endswith("_like")
            and isinstance(place := dependent[0][1], Along)
            and place.routed
        ):
            labels.assign(results[0], place)  # as many rows, which is not to be read
        return
    if (why := _unfollowable(labels, func, operation, args)) is not None:
        labels.stop(why)
        return
    # What lies in an argument's memory is a view of it.
    seen = {memory(t) for t in tensors} - {0}
    fresh = [(i, t) for i, t in enumerate(results) if memory(t) not in seen]
    if func.namespace != "aten":
        written = tensors  # nobody knows what it writes to
    if not fresh and not written:
        return
    if operation.rule is entrywise and len(dependent) == 1 and _alike(labels, *dependent[0], fresh, written):
        return
    places = _places(operation, dependent, lambda known: Call(func, args, kwargs, results, known, labels))
    targets = [(t, places[min(i, len(places) - 1)]) for i, t in fresh]
    if written:
        place = places[0] if len(places) == 1 else Mixed(f"{operation.name} ({line()}), which writes in place")
        targets += [(t, place) for t in written]
    if any(not t.untyped_storage().resizable() for t in written):  # nor can it be where it is shared
        labels.stop(f"{operation.name} ({line()}) writes to memory that NumPy or another process may share")
        return
    routed = any(isinstance(place, Along) and place.routed for _, place in dependent)
    for t, place in targets:
        if isinstance(place, Along) and labels.assign(t, place):
            continue
        if place is not None:
            otherwise = f"{operation.name} ({line()}), whose result lies otherwise in memory"
            labels.put(t, mixed := place if isinstance(place, Mixed) else Mixed(otherwise))
            if routed:  # their number may not be read, and isn't looked for there
                labels.stop(f"rows that the parameters route go into {mixed.why}")


def _unfollowable(labels: Labels, func: OpOverload, operation: _Operation, args: Args) -> str | None:
    """Why an operation on what depends on parameters can't be followed, if it can't."""
    name = operation.name
    if torch.Tag.data_dependent_output in func.tags and labels.checking:
        return None
    if torch.Tag.data_dependent_output in func.tags or (name in _READ and labels.at(args[1]) is not None):
        return f"{name} ({line()}) reads a value that depends on the parameters"
    masks = args[1] if name == "index" else ()
    if any(t is not None and t.dtype in (torch.bool, torch.uint8) and labels.at(t) is not None for t in masks):
        return f"a mask ({line()}) that depends on the parameters picks rows"
    by_data = torch.Tag.dynamic_output_shape in func.tags and name not in _BY_DATA
    if by_data or (name == "where" and len(args) == 1):
        return f"{name} ({line()}) gives as many rows as values say that depend on the parameters"
    if torch.Tag.nondeterministic_seeded in func.tags and operation.rule is None:
        return f"{name} ({line()}) may draw as many random numbers as values say"
    return None


def _alike(labels: Labels, value: Tensor, place: Place, fresh: list[tuple[int, Tensor]], written: list[Tensor]) -> bool:
    """For speed: whether one result lies in memory as the only argument that counts does, and is labelled so."""
    if isinstance(place, Mixed) or len(fresh) + len(written) != 1:
        return False
    label = labels.label(value)
    if written:
        return written[0] is value and not isinstance(label, Owned)
    ((_, out),) = fresh
    same = out.shape == value.shape and out.stride() == value.stride() and value.storage_offset() == 0
    if same and out.element_size() == value.element_size() and isinstance(label, int | Owned):
        labels.put(out, Owned(label.unit, label.owners) if isinstance(label, Owned) else label)
        return True
    return False


def _places(
    operation: _Operation, dependent: list[tuple[Tensor, Place]], call: Callable[[list[tuple[Tensor, Along]]], Call]
) -> list[Place | None]:
    """Where the examples are in what an operation gives; ``call`` makes the call, of arguments that aren't mixed."""
    known: list[tuple[Tensor, Along]] = []
    for t, place in dependent:
        if isinstance(place, Mixed):
            return [place]
        known.append((t, place))
    if operation.rule is None:
        return [Mixed(f"{operation.name} ({line()}), of which isn't known what it does with examples")]
    found = operation.rule(call(known))
    if found is None:
        return [Mixed(f"{operation.name} ({line()}), which mixes the examples or picks among them")]
    return found if isinstance(found, list) else [found]


def _free_written(labels: Labels, name: str, tensors: list[Tensor], written: list[Tensor]) -> None:
    """What is written of tensors that depend on no watched parameter."""
    constant = name not in _DRAWS and (name in _FORM_ONLY or all(map(labels.is_constant, tensors)))
    for t in written:
        if labels.is_constant(t):
            labels.put(t, Free(constant=constant, unwatched=any(source.requires_grad for source in tensors)))


def _free_results(labels: Labels, name: str, args: Args, tensors: list[Tensor], fresh: list[Tensor]) -> None:
    """What comes of tensors that depend on no watched parameter."""
    label: Free | None = None
    constant = name in _FORM_ONLY or name == "lift_fresh" or all(map(labels.is_constant, tensors))
    has_gradients = any(t.requires_grad for t in tensors)
    if name in _RANDOM:  # rows for the examples, if there are as many
        constant = not any(t.ndim > 0 and len(t) % labels.examples == 0 for t in fresh)
    if name in _UNWRITTEN or (name in _COPIES and any(map(labels.unwritten, tensors))):
        label = Free(constant=True, unwritten=True)
    elif constant:
        counts = name == "arange" and not tensors and _from_zero(args)
        for t in fresh:
            labels.put(t, Free(constant=True, counts=t.dtype if counts else None, unwatched=has_gradients))
    elif any(map(labels.by_group, tensors)):
        label = Free(by_group=True)
    elif has_gradients:  # of parameters that nobody watches
        label = Free(unwatched=True)
    if label is not None:
        for t in fresh:
            labels.put(t, label)


def _from_zero(args: Args) -> bool:
    return len(args) == 1 or (args[0] == 0 and (len(args) == 2 or args[2] == 1))


def tensors_in(values: Iterable[Tree]) -> Iterator[Tensor]:
    """Those among ``values``, in lists and tuples, too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from tensors_in(value)
