"""Any function of parameters, by `torch.vmap` over the groups: each group calls it with its own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.optim.m_sam.closure import Closure, Rows
from lowland.optim.m_sam.dependence import Dependence
from lowland.optim.m_sam.layout import with_strides, zeros
from lowland.optim.m_sam.passing import Pass
from lowland.optim.m_sam.places import Along, Owners
from lowland.optim.m_sam.refusals import NotCovered, Unordered
from lowland.optim.m_sam.registry import RULES
from lowland.optim.m_sam.watched import Derived, Watched
from lowland.optim.m_sam.writing import not_in_place, note_shared, written
from lowland.values import Args, Function, Kwargs, Tree

_ENTRYWISE_NAMES = """
add sub subtract mul multiply div divide true_divide pow maximum minimum where lerp addcmul addcdiv rsub
__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
"""
_ORDINARY_NAMES = """
addmm product outer_product weight_norm
t T mT transpose permute view reshape flatten unflatten unsqueeze squeeze __getitem__ select narrow chunk
split unbind type index_select clone contiguous detach float double to type_as matmul mm bmm __matmul__ __rmatmul__
einsum linear layer_norm rms_norm group_norm embedding conv1d conv2d cat concat stack neg __neg__ exp log sqrt
mv vdot normalize H rsqrt square abs tanh sigmoid softplus softmax relu norm sum mean clamp prelu
scaled_dot_product_attention
"""
#: In these, entry stands beside entry: arguments with a row for each example go with the rows of their group.
ENTRYWISE = frozenset(_ENTRYWISE_NAMES.split())
#: These repeat what they are given, for every example if the first size is theirs.
_REPEATING = frozenset({"expand", "repeat", "expand_as", "tile", "broadcast_to"})
#: Operations that write, by what they write.
_NOT_IN_PLACE: dict[str, Function] = {
    "add_": torch.add, "sub_": torch.sub, "mul_": torch.mul, "div_": torch.div, "addcmul_": torch.addcmul,
    "__iadd__": torch.add, "__isub__": torch.sub, "__imul__": torch.mul, "__itruediv__": torch.div,
}  # fmt: skip
_ORDINARY = ENTRYWISE | _REPEATING | frozenset(_ORDINARY_NAMES.split())


#: Bytes that functions of parameters alone may take without a word.
WORTH_A_WORD = 1_000_000


@dataclass
class _Call:
    """A function with its arguments as a flat list, in the form ``spec``; ``dims`` says along which those have rows."""

    func: Function
    name: str
    #: In messages.
    what: str
    leaves: list[Tree]
    spec: pytree.TreeSpec
    dims: list[int | None]

    @property
    def batched(self) -> bool:
        """Whether some of them have rows."""
        return any(dim is not None for dim in self.dims)

    def on(self, leaves: Iterable[Tree]) -> Tree:
        """Calls the function on other leaves in place of its own."""
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.func(*args, **kwargs)


def by_vmap(now: Pass, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """``func`` for each group, with its own parameters and its own rows of everything that has rows.

    Of arguments without rows, parameters and what the closure computed from nothing, the result has none either.

    Raises:
        NotCovered: where that can't be told, or can't be done.
    """
    name = name_of(func)
    closure, follow = now.closure, now.closure.dependence
    leaves, spec = pytree.tree_flatten((args, kwargs))
    owners = [now.side.names[leaf] for leaf in leaves if type(leaf) is Watched]
    what = f"{name} of {' and '.join(owners)}" if owners else f"{name} of what parameters give"
    now.uses(name, owners)
    if name in ("data", "requires_grad_", "requires_grad"):
        raise NotCovered(f"{what} is used")
    if (name.endswith("_") and not name.endswith("__")) or name[:3] == "__i" or name in ("__setitem__", "__set__"):
        return _in_place(now, func, args, kwargs, what)
    if name == "embedding" and (options := _options(*args, **kwargs)) is not None:
        return _padded(now, func, *options, what)
    in_place = not_in_place(func, args, kwargs)
    if in_place is not None:
        leaves, spec = pytree.tree_flatten(in_place[1])
    dims = [closure.rows_along(t, what) if _is_data(t) else None for t in leaves]
    if name in ENTRYWISE and any(dims):
        _, at = max((leaf.ndim, i) for i, (leaf, dim) in enumerate(zip(leaves, dims, strict=True)) if dim)
        given, options = _spread(now, (args, kwargs), leaves[at], what)
        return func(*given, **options)
    one = name == "__getitem__" and type(args[0]) is Watched and all(dim is None for dim in dims)
    if one and closure.in_closure and (index := _number(args[1], args[0])) is not None:
        return _entry(now, args[0], index)
    call = _Call(func, name, what, leaves, spec, dims)
    rows = _rows(closure, call) if call.batched else Rows()
    with follow.paused():
        result = _by_group(now, call, rows)
        if in_place is not None:
            return written(in_place[0], result, what)
    if call.batched:
        found, form = pytree.tree_flatten(result)
        with follow.paused():
            found = [
                with_strides(t.movedim(0, rows.dim), strides) for t, strides in zip(found, rows.strides, strict=True)
            ]
        return pytree.tree_unflatten((closure.own(t.movedim(rows.dim, 0)).movedim(0, rows.dim) for t in found), form)
    if type(result) is Tensor:  # repeated for the examples
        return closure.own(result)
    derived = [t for t in pytree.tree_leaves(result) if type(t) is Derived]
    note_shared(derived, leaves)
    if follow.active:
        follow.labels.hide(derived)
    return result


def _number(index: Tree, param: Tensor) -> int | None:
    """Which entry ``param[index]`` is along the first dimension; None if it isn't one."""
    whole = type(index) is int or (type(index) is Tensor and index.ndim == 0 and index.dtype == torch.int64)
    return int(index) if whole and param.ndim > 1 else None


def _entry(now: Pass, param: Tensor, index: int) -> Derived:
    """One entry of a parameter, an expert's weights say; all entries have one gradient together."""
    closure = now.closure
    with closure.dependence.paused():
        key = param, torch.is_grad_enabled()
        if key not in closure.seen.entries:
            closure.seen.entries[key] = now.side.stack(param).unbind(1)
        derived = Derived.of(param[index], closure.seen.entries[key][index])
    if closure.dependence.active:
        closure.dependence.labels.hide([derived])
    return derived


def _in_place(now: Pass, func: Function, args: Args, kwargs: Kwargs, what: str) -> Tree:
    """Entrywise operations that write: onto rows of examples, or onto what parameters alone give."""
    target, *others = args
    plain = _NOT_IN_PLACE.get(name_of(func))
    if plain is not None and type(target) is Derived:
        return written(target, by_vmap(now, plain, args, kwargs), what)
    if name_of(func) == "__setitem__" and type(target) is Tensor and _is_basic(others[0]):
        target[others[0]].copy_(*_spread(now, others[1:], target[others[0]], what))
        return None
    if plain is None or type(target) is not Tensor:
        raise NotCovered(f"{what} writes in place")
    given, options = _spread(now, (others, kwargs), target, what)
    return func(target, *given, **options)


def _spread(now: Pass, values: Tree, rows: Tensor, what: str) -> Tree:
    """``values``, with what parameters give among them spread to go along with ``rows``."""

    def of(leaf: Tree) -> Tree:
        if not isinstance(leaf, Watched | Derived):
            return leaf
        if (found := now.beside(leaf, rows, what)) is None:
            raise NotCovered(f"{what} writes in place")
        return found

    return pytree.tree_map(of, values)


def _is_basic(index: Tree) -> bool:
    """Whether ``index`` takes a view."""
    return all(i is None or i is ... or type(i) in (int, slice) for i in (index if type(index) is tuple else (index,)))


def _by_group(now: Pass, call: _Call, rows: Rows) -> Tree:
    groups, what = now.side.groups, call.what
    leaves = [
        leaf if dim is None else groups.own(leaf.movedim(dim, 0))
        for leaf, dim in zip(call.leaves, call.dims, strict=True)
    ]
    stacks = [now.stack_of(leaf) for leaf in leaves]
    if call.name not in _ORDINARY:
        taken = sum(stack.numel() * stack.element_size() for stack in stacks if stack is not None)
        if call.batched or taken >= WORTH_A_WORD:
            now.side.warn(
                f"m-SAM: {what} has no rule of its own: it goes by vmap over the {groups.count} groups, which is "
                f"slower and takes {taken / 1e6:.1f} MB more (lowland.optim.m_sam.rule registers one)"
            )
    ndim = max((t.ndim for t, dim in zip(leaves, call.dims, strict=True) if dim is not None), default=0)
    repeated = _repeated(now.closure, call) if call.name in _REPEATING and not call.batched else 0

    def of_part(index: int) -> list[Tree]:
        chosen, _, n = groups.parts[index]
        given = []
        for leaf, stack, dim in zip(leaves, stacks, call.dims, strict=True):
            if dim is not None:
                given.append(groups.split(leaf)[index])
            elif stack is None:
                given.append(leaf)
            elif call.name in ENTRYWISE and 0 < ndim == leaf.ndim and len(leaf) == groups.whole > 1:
                own = groups.start + torch.arange(chosen.start * groups.m, groups.size, device=stack.device)
                of = torch.arange(chosen.start, chosen.stop, device=stack.device)
                given.append(stack[of[:, None], own[: len(of) * n].view(-1, n)])
            else:
                given.append(stack[chosen])
        return given

    dims = tuple(None if dim is None and s is None else 0 for dim, s in zip(call.dims, stacks, strict=True))

    def called(*given: Tree) -> Tree:
        found = call.on(t.movedim(0, dim) if dim else t for t, dim in zip(given, call.dims, strict=True))
        return pytree.tree_map(lambda t: t.movedim(rows.dim, 0), found) if rows.dim else found

    try:
        if repeated:  # examples are all alike: of what all of them would be for a group, its own
            given = [leaf if s is None else s for leaf, s in zip(leaves, stacks, strict=True)]
            stack = torch.vmap(lambda *its: call.on(its)[:repeated], dims)(*given)
            found = groups.among(groups.spread(stack, groups.size).flatten(0, 1))
            return found if call.name.startswith("expand") else found.contiguous()  # as `repeat` gives it
        results = [torch.vmap(called, dims)(*of_part(index)) for index in range(len(groups.parts))]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise NotCovered(f"{what} doesn't go by vmap: {str(error).splitlines()[0].rstrip('.')}") from error
    if call.batched:
        for (_, _, n), result in zip(groups.parts, results, strict=True):
            if any(t.shape[1] != n * rows.inner for t in pytree.tree_leaves(result)):
                raise NotCovered(f"{what} meets rows of examples in a parameter's own dimension")
        return _joined(results, lambda parts: groups.among(groups.join(parts)))
    value = call.on([leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves])
    stack = _joined(results, lambda parts: parts[0] if len(parts) == 1 else torch.cat(parts))
    return pytree.tree_map(lambda v, s: Derived.of(v, s, shared=False), value, stack)


def _rows(closure: Closure, call: _Call) -> Rows:
    """Found by calling the function on tensors without values, whose rows are followed.

    Raises:
        NotCovered: if it doesn't keep rows apart, in order, along one dimension.
    """
    known, size = closure.seen.inner, closure.examples
    plain = [(t.shape, t.stride(), t.dtype) if isinstance(t, Tensor) else t for t in call.leaves]
    key = (call.func, str(plain), call.spec, tuple(call.dims), size)
    if len(known) > 4096:  # numbers among the arguments may be others each time
        known.clear()
    if key not in known:
        follow = Dependence(size)
        forms = [_form(t) if isinstance(t, Tensor) else t for t in call.leaves]
        try:
            with closure.dependence.paused(), torch.no_grad(), follow:
                for i, (form, dim) in enumerate(zip(forms, call.dims, strict=True)):
                    if dim is not None:
                        forms[i] = follow.own(form.movedim(dim, 0), form.shape[dim] // size).movedim(0, dim)
                    elif isinstance(form, Tensor):
                        follow.labels.set_by_group(form)
                results = pytree.tree_leaves(call.on(forms))
                places = [follow.labels.at(t) for t in results]
        except Exception as error:
            raise NotCovered(f"{call.what} can't be followed: {str(error).splitlines()[0]}") from error
        place = places[0] if len(set(places)) == 1 else None
        dim = place.dim if isinstance(place, Along) else 0
        ordered = isinstance(place, Along) and not isinstance(place.inner, Owners)
        if closure.parted and (not ordered or len({t.shape[dim] for t in results}) > 1):
            raise Unordered(f"{call.what} doesn't keep the rows of examples apart, along one dimension")
        if call.func in RULES:  # torch may lay out what has values otherwise
            with closure.dependence.paused(), torch.no_grad():
                results = pytree.tree_leaves(call.on(map(zeros, call.leaves)))
        known[key] = Rows(dim, results[0].shape[dim] // size, [t.stride() for t in results])
    return known[key]


def _form(t: Tensor) -> Tensor:
    """Without values; what is repeated along the rows lies there as rows do."""
    if t.ndim and t.stride(0) == 0:
        return torch.empty(t.shape, dtype=t.dtype, device="meta")
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")


def _options(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> tuple[Tensor, Tensor, int] | None:
    """Words, table and the word without gradients; None for an embedding without options."""
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotCovered("an embedding's table is computed, and it has options (scale_grad_by_freq, say)")
    return None if padding_idx is None else (input, weight, padding_idx)


def _padded(now: Pass, func: Function, words: Tensor, table: Tensor, padding: int, what: str) -> Tree:
    """An embedding of words without rows; there is no gradient through one of them."""
    if type(words) is not Tensor or now.closure.rows_along(words, what) is not None:
        raise NotCovered("an embedding's table is computed, and it has options (padding_idx, say)")
    found = by_vmap(now, func, (words, table), {})
    at_padding = (words == padding % len(table)).unsqueeze(-1)
    return by_vmap(now, torch.where, (at_padding, by_vmap(now, Tensor.detach, (found,), {}), found), {})


def _joined(results: list[Tree], join: Callable[[list[Tensor]], Tensor]) -> Tree:
    return pytree.tree_map(lambda *parts: join(list(parts)), *results)


def name_of(func: Function) -> str:
    """What a function is called in messages."""
    name = getattr(func, "__name__", repr(func))
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


def _repeated(closure: Closure, call: _Call) -> int:
    """How many rows of the result each example has, if the result repeats the same ones for every example; else 0."""
    args, _ = pytree.tree_unflatten(call.leaves, call.spec)
    source = args[0]
    result = call.on([t.detach() if isinstance(t, Tensor) else t for t in call.leaves])
    period = 1 if result.ndim > source.ndim else len(source)
    inner, left = divmod(len(result), closure.examples)
    if closure.examples == 1 or left or not inner or inner % period:
        return 0
    closure.seen.guessed = True
    repeated = closure.dependence.guess.repeated
    return inner if repeated or (repeated is not None and inner == period) else 0


def _is_data(leaf: Tree) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, Watched | Derived)
