"""Any function of parameters, by `torch.vmap` over the groups: each group calls it with its own."""

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.optim.m_sam.dependence import Dependence
from lowland.optim.m_sam.places import Along, memory
from lowland.optim.m_sam.watch import Derived, NotCovered, Unordered, Watched
from lowland.torch_tools import have_moved, random_states, replay

if TYPE_CHECKING:
    from lowland.optim.m_sam.passes import Pass

_ENTRYWISE_NAMES = """
add sub subtract mul multiply div divide true_divide pow maximum minimum where lerp addcmul addcdiv rsub
__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
"""
_ORDINARY_NAMES = """
t T mT transpose permute view reshape flatten unflatten unsqueeze squeeze __getitem__ select narrow chunk
split unbind type index_select clone contiguous detach float double to type_as matmul mm bmm __matmul__ __rmatmul__
einsum linear layer_norm rms_norm group_norm embedding conv1d conv2d cat concat stack neg __neg__ exp log sqrt
rsqrt square abs tanh sigmoid softplus softmax relu norm sum mean clamp prelu scaled_dot_product_attention
"""
#: In these, entry stands beside entry: arguments with a row for each example go with the rows of their group.
_ENTRYWISE = frozenset(_ENTRYWISE_NAMES.split())
#: These repeat what they are given, for every example if the first size is theirs.
_REPEATING = frozenset({"expand", "repeat", "expand_as", "tile", "broadcast_to"})
_ORDINARY = _ENTRYWISE | _REPEATING | frozenset(_ORDINARY_NAMES.split())


def apply(watch: "Pass", func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """``func`` for each group, with its own parameters and its own rows of everything that has rows.

    Of arguments without rows, parameters and what the closure computed from nothing, the result has none either.

    Raises:
        NotCovered: where that can't be told, or can't be done.
    """
    name = _name(func)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    owners = [watch.names[leaf] for leaf in leaves if type(leaf) is Watched]
    what = f"{name} of {' and '.join(owners)}" if owners else f"{name} of what parameters give"
    watch.where = owners[0] if owners else watch.where
    watch.uses |= {(name, owner) for owner in owners}
    if name in ("data", "requires_grad_", "requires_grad"):
        raise NotCovered(f"{what} is used")
    if (name.endswith("_") and not name.endswith("__")) or name[:3] == "__i" or name in ("__setitem__", "__set__"):
        raise NotCovered(f"{what} writes in place")
    if name == "embedding" and _has_options(*args, **kwargs):
        raise NotCovered("an embedding's table is computed, and it has options (padding_idx, say)")
    in_place = _in_place(func, args, kwargs)
    if in_place is not None:
        leaves, spec = pytree.tree_flatten(in_place[1])
    batched = [
        isinstance(t, Tensor) and not isinstance(t, Watched | Derived) and watch.has_rows(t, what) for t in leaves
    ]
    inner, strides = _inner(watch, func, leaves, spec, batched, what) if any(batched) else (0, [])
    with watch.dependence.paused():
        result = _by_group(watch, func, leaves, spec, batched, name, what, inner)
        if in_place is not None:
            return _written(in_place[0], result, what)
    if any(batched):
        found, form = pytree.tree_flatten(result)
        with watch.dependence.paused():
            found = list(map(_laid_out, found, strides))
        return pytree.tree_unflatten(map(watch.own, found), form)
    if type(result) is Tensor:  # repeated for the examples
        return watch.own(result)
    derived = [t for t in pytree.tree_leaves(result) if type(t) is Derived]
    _note_shared(derived, leaves)
    if watch.dependence.active:
        watch.dependence.hide(derived)
    return result


def function(watch: "Pass", cls: Any, args: tuple[Any, ...], call: Callable[..., Any]) -> Any:
    """A function of autograd's own, of parameters and what they give: once for each group, forward and backward.

    Raises:
        NotCovered: if it takes rows of examples, too, by whatever way, or gives what isn't a tensor.
    """
    owners = [watch.names[leaf] for leaf in args if type(leaf) is Watched]
    what = f"{cls.__name__}, a function of autograd's own, of {' and '.join(owners) or 'what parameters give'}"
    watch.where = owners[0] if owners else watch.where
    watch.uses |= {(cls.__name__, owner) for owner in owners}
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise NotCovered("the closure uses torch.func")
    nested = [t for leaf in args if not isinstance(leaf, Tensor) for t in pytree.tree_leaves(leaf)]
    if any(isinstance(t, Tensor) for t in nested):
        raise NotCovered(f"{what} takes tensors in a list or the like")
    if any(isinstance(t, Tensor) and not isinstance(t, Watched | Derived) and watch.has_rows(t, what) for t in args):
        raise NotCovered(f"{what} takes rows of examples, too")
    follow = watch.dependence

    def of(weights: Iterable[Tensor | None]) -> list[Tensor]:
        given = [a if w is None else w for a, w in zip(args, weights, strict=True)]
        versions = _versions(given)
        found = call(*given)
        results = list(found) if isinstance(found, tuple) else [found]
        if versions != _versions(given):
            raise NotCovered(f"{what} writes in place")
        if any(type(t) is not Tensor or (follow.active and follow.at(t) is not None) for t in results):
            raise NotCovered(f"{what} gives what isn't a tensor of these alone")
        return results

    with torch._C.DisableTorchFunctionSubclass(), follow.paused():
        # Copies, which nobody takes for the parameter itself.
        stacks = [None if (stack := _stack(watch, leaf)) is None else stack.clone() for leaf in args]
        at_w = [None if s is None else a.detach().clone() for a, s in zip(args, stacks, strict=True)]
    for t in (*stacks, *at_w) if follow.active else ():
        if t is not None:
            follow.set_by_group(t)
    count = watch.groups.count
    watch.warn(f"m-SAM: {what} is called for each of the {count} groups in turn, which is slower")
    states = random_states(watch.names)
    value = of(at_w)
    with follow.paused():
        draws = have_moved(states)
    of_groups = []
    shares = (watch.groups.sizes / watch.divided_by).tolist()
    for share, *weights in zip(shares, *([None] * count if s is None else s.unbind() for s in stacks), strict=True):
        if draws:
            replay(states)
        given = [None if w is None else _Times.apply(w, share) for w in weights]
        of_groups.append([_Times.apply(result, 1 / share) for result in of(given)])
    with torch._C.DisableTorchFunctionSubclass(), follow.paused():
        each = zip(value, zip(*of_groups, strict=True), strict=True)
        derived = [Derived.of(v, ByGroup.apply(torch.stack(those))) for v, those in each]
    if follow.active:
        follow.hide(derived)
    return tuple(derived) if len(derived) > 1 else derived[0]


class _Times(torch.autograd.Function):
    """The identity; gradients come back times a number. Between two of them they are those of a group's mean loss.

    A backward that isn't linear makes a difference of it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        """See `torch.autograd.Function`."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:  # type: ignore[override]
        """See `torch.autograd.Function`."""
        return d if ctx.factor == 1 else d * ctx.factor, None


class ByGroup(torch.autograd.Function):
    """The identity. On the way back from here nothing depends on rows of examples, and the groups stand apart."""

    @staticmethod
    def forward(ctx: Any, stack: Tensor) -> Tensor:
        """See `torch.autograd.Function`."""
        return stack.view_as(stack)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:  # type: ignore[override]
        """See `torch.autograd.Function`."""
        return d


def _versions(values: list[Any]) -> list[int]:
    return [t._version if isinstance(t, Tensor) else 0 for t in values]


def _by_group(
    watch: "Pass", func: Any, leaves: list[Any], spec: Any, batched: list[bool], name: str, what: str, inner: int
) -> Any:
    groups = watch.groups
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    leaves = [groups.own(leaf) if is_batched else leaf for leaf, is_batched in zip(leaves, batched, strict=True)]
    stacks = [_stack(watch, leaf) for leaf in leaves]
    if name not in _ORDINARY:
        taken = sum(stack.numel() * stack.element_size() for stack in stacks if stack is not None)
        watch.warn(
            f"m-SAM: {what} has no rule of its own: it goes by vmap over the {groups.count} groups, which is slower "
            f"and takes {taken / 1e6:.1f} MB more (lowland.optim.m_sam.rule registers one)"
        )
    ndim = max((t.ndim for t, is_batched in zip(leaves, batched, strict=True) if is_batched), default=0)
    repeats = name in _REPEATING and not any(batched) and _repeats(func, args, kwargs, groups.whole)

    def of_part(index: int) -> list[Any]:
        chosen, _, n = groups.parts[index]
        given = []
        for leaf, stack, is_batched in zip(leaves, stacks, batched, strict=True):
            if is_batched:
                given.append(groups.split(leaf)[index])
            elif stack is None:
                given.append(leaf)
            elif name in _ENTRYWISE and 0 < ndim == leaf.ndim and len(leaf) == groups.whole > 1:
                own = groups.start + torch.arange(chosen.start * groups.m, groups.size, device=stack.device)
                of = torch.arange(chosen.start, chosen.stop, device=stack.device)
                given.append(stack[of[:, None], own[: len(of) * n].view(-1, n)])
            else:
                given.append(stack[chosen])
        return given

    dims = [0 if is_batched or stack is not None else None for is_batched, stack in zip(batched, stacks, strict=True)]

    def called(*given: Any) -> Any:
        its_args, its_kwargs = pytree.tree_unflatten(given, spec)
        return func(*its_args, **its_kwargs)

    try:
        if repeats:
            return _repeated(watch, func, leaves, stacks, spec, dims)
        results = [torch.vmap(called, tuple(dims))(*of_part(index)) for index in range(len(groups.parts))]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise NotCovered(f"{what} doesn't go by vmap: {str(error).splitlines()[0]}") from error
    if any(batched):
        for (_, _, n), result in zip(groups.parts, results, strict=True):
            if any(t.shape[1] != n * inner for t in pytree.tree_leaves(result)):
                raise NotCovered(f"{what} meets rows of examples in a parameter's own dimension")
        return _joined(results, lambda parts: groups.among(groups.join(parts)))
    value = called(*(leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves))
    stack = _joined(results, lambda parts: parts[0] if len(parts) == 1 else torch.cat(parts))
    return pytree.tree_map(lambda v, s: Derived.of(v, s, shared=False), value, stack)


def _inner(
    watch: "Pass", func: Any, leaves: list[Any], spec: Any, batched: list[bool], what: str
) -> tuple[int, list[tuple[int, ...]]]:
    """How many rows of the results belong to an example, and the strides of each result.

    Found by calling ``func`` on tensors without values, whose rows are followed.

    Raises:
        NotCovered: if ``func`` doesn't keep rows apart, in order, along the first dimension.
    """
    plain = [(t.shape, t.stride(), t.dtype) if isinstance(t, Tensor) else t for t in leaves]
    key = (func, str(plain), spec, tuple(batched), watch.groups.whole)
    if len(watch.inner) > 4096:  # numbers among the arguments may be others each time
        watch.inner.clear()
    if key not in watch.inner:
        follow = Dependence(watch.groups.whole)
        forms = [_form(t) if isinstance(t, Tensor) else t for t in leaves]
        try:
            with watch.dependence.paused(), torch.no_grad(), follow:
                for form, is_batched in zip(forms, batched, strict=True):
                    if is_batched:
                        follow.own(form, len(form) // watch.groups.whole)
                    elif isinstance(form, Tensor):
                        follow.set_by_group(form)
                args, kwargs = pytree.tree_unflatten(forms, spec)
                results = pytree.tree_leaves(func(*args, **kwargs))
                places = [follow.at(t) for t in results]
        except Exception as error:
            raise NotCovered(f"{what} can't be followed: {str(error).splitlines()[0]}") from error
        if watch.parted and (
            len(set(places)) != 1
            or not isinstance(places[0], Along)
            or places[0].dim
            or len({len(t) for t in results}) > 1
        ):
            raise Unordered(f"{what} doesn't keep the rows of examples apart, along the first dimension")
        watch.inner[key] = len(results[0]) // watch.groups.whole, [t.stride() for t in results]
    return watch.inner[key]


def _form(t: Tensor) -> Tensor:
    """Without values; what is repeated along the rows lies there as rows do."""
    if t.ndim and t.stride(0) == 0:
        return torch.empty(t.shape, dtype=t.dtype, device="meta")
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")


def _laid_out(out: Tensor, strides: tuple[int, ...]) -> Tensor:
    """``out``, in memory as ``func`` gives it at w: dropout draws in that order."""
    if out.stride() == strides:
        return out
    return torch.empty_strided(out.shape, strides, dtype=out.dtype, device=out.device).copy_(out)


def _in_place(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Derived, Any] | None:
    """The argument that an activation with ``inplace=True`` writes to, and its arguments without that."""
    code = getattr(func, "__code__", None)
    if code is None or "inplace" not in code.co_varnames:
        return None
    bound = inspect.signature(func).bind(*args, **kwargs)
    if bound.arguments.get("inplace") is not True:
        return None
    bound.arguments["inplace"] = False
    return args[0], (bound.args, bound.kwargs)


def _written(target: Any, result: Any, what: str) -> Any:
    """``target``, with ``result`` written to it."""
    if type(target) is not Derived or type(result) is not Derived or getattr(target, "shared", True):
        raise NotCovered(f"{what} writes in place")
    target.stack = result.stack
    with torch.no_grad():
        target.as_subclass(Tensor).copy_(result.as_subclass(Tensor))
    return target


def _note_shared(results: list[Derived], leaves: list[Any]) -> None:
    """What may be seen under another name isn't written to."""
    places: dict[int, list[Any]] = {}
    for t in (*results, *leaves):
        if isinstance(t, Watched | Derived):
            for place in {memory(t), memory(t.stack if type(t) is Derived else t)}:
                places.setdefault(place, []).append(t)
    for those in places.values():
        if len(those) > 1 or any(type(t) is Watched for t in those):
            for t in those:
                if type(t) is Derived:
                    t.shared = True


def _has_options(
    input: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: Any = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> bool:
    return padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse


def _joined(results: list[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    return pytree.tree_map(lambda *parts: join(list(parts)), *results)


def _stack(watch: "Pass", leaf: Any) -> Tensor | None:
    if type(leaf) is Watched:
        return watch.stack(leaf)
    return leaf.stack if type(leaf) is Derived else None


def _name(func: Any) -> str:
    name = getattr(func, "__name__", repr(func))
    return getattr(func.__self__, "__name__", name) if name == "__get__" else name


def _repeats(func: Any, args: Any, kwargs: Any, size: int) -> bool:
    """Whether the result has a row for each example."""
    source = args[0]
    plain, spec = pytree.tree_flatten((args, kwargs))
    args, kwargs = pytree.tree_unflatten([t.detach() if isinstance(t, Tensor) else t for t in plain], spec)
    result = func(*args, **kwargs)
    return size > 1 and len(result) == size and (result.ndim > source.ndim or len(source) == 1)


def _repeated(watch: Any, func: Any, leaves: Any, stacks: Any, spec: Any, dims: Any) -> Tensor:
    """The rows of the examples: of what all of them would be for a group, its own."""
    groups = watch.groups

    def first(*given: Any) -> Any:
        args, kwargs = pytree.tree_unflatten(given, spec)
        return func(*args, **kwargs)[0]  # the rows are all alike

    stack = torch.vmap(first, tuple(dims))(*(leaf if s is None else s for leaf, s in zip(leaves, stacks, strict=True)))
    return groups.among(groups.spread(stack, groups.size))
