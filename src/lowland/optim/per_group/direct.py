"""Any function of parameters, by `torch.vmap` over the groups: each group calls it with its own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.optim.per_group.registry import rows_of
from lowland.optim.per_group.watch import Derived, NotCovered, Watched, is_constant

if TYPE_CHECKING:
    from lowland.optim.per_group.passes import Pass

_ENTRYWISE_NAMES = """
add sub subtract mul multiply div divide true_divide pow maximum minimum where lerp addcmul addcdiv rsub
__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
"""
_ORDINARY_NAMES = """
t T mT transpose permute view reshape flatten unflatten unsqueeze squeeze __getitem__ select narrow chunk
split unbind index_select clone contiguous detach float double to type_as matmul mm bmm __matmul__ __rmatmul__
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
    groups, name = watch.groups, _name(func)
    if name in ("data", "requires_grad_"):
        raise NotCovered(f"{name} of a parameter is used")
    if (name.endswith("_") and not name.endswith("__")) or name[:3] == "__i" or name in ("__setitem__", "__set__"):
        raise NotCovered(f"{name} writes in place, with a parameter")
    leaves, spec = pytree.tree_flatten((args, kwargs))
    owners = [watch.names[leaf] for leaf in leaves if type(leaf) is Watched]
    what = f"{name} of {' and '.join(owners)}" if owners else f"{name} of what parameters give"
    batched = [type(t) is Tensor and t.ndim > 0 and not is_constant(t) for t in leaves]
    for leaf, is_batched in zip(leaves, batched, strict=True):
        if is_batched:
            rows_of(leaf, groups.whole, what)
    leaves = [groups.own(leaf) if is_batched else leaf for leaf, is_batched in zip(leaves, batched, strict=True)]
    stacks = [_stack(watch, leaf) for leaf in leaves]
    if name not in _ORDINARY:
        taken = sum(stack.numel() * stack.element_size() for stack in stacks if stack is not None)
        watch.warn(
            f"m-SAM: {what} has no rule of its own: it goes by vmap over the {groups.count} groups, which is slower "
            f"and takes {taken / 1e6:.1f} MB more (lowland.optim.per_group.rule registers one)"
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
        return _joined(results, lambda parts: groups.among(groups.join(parts)))
    value = called(*(leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves))
    stack = _joined(results, lambda parts: parts[0] if len(parts) == 1 else torch.cat(parts))
    return pytree.tree_map(lambda v, s: Derived.of(v, s), value, stack)


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
