"""Functions of autograd's own, of parameters and what they give: once for each group, forward and backward."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.optim.m_sam.functions import ByGroup
from lowland.optim.m_sam.passing import Pass
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.watched import Derived, Watched
from lowland.torch_tools import have_moved, random_states, replay
from lowland.values import Args, Context, Function, Tree


def by_turns(now: Pass, cls: type[torch.autograd.Function], args: Args, call: Function) -> Tree:
    """The result of ``cls``, a function of autograd's own, which ``call`` calls.

    Raises:
        NotCovered: if it takes rows of examples, too, by whatever way, or gives what isn't a tensor.
    """
    side, follow = now.side, now.closure.dependence
    owners = [side.names[leaf] for leaf in args if type(leaf) is Watched]
    what = f"{cls.__name__}, a function of autograd's own, of {' and '.join(owners) or 'what parameters give'}"
    now.uses(cls.__name__, owners)
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise NotCovered("the closure uses torch.func")
    nested = [t for leaf in args if not isinstance(leaf, Tensor) for t in pytree.tree_leaves(leaf)]
    if any(isinstance(t, Tensor) for t in nested):
        raise NotCovered(f"{what} takes tensors in a list or the like")
    others = [t for t in args if isinstance(t, Tensor) and not isinstance(t, Watched | Derived)]
    if any(now.closure.has_rows(t, what) for t in others):
        raise NotCovered(f"{what} takes rows of examples, too")

    def of(weights: Iterable[Tensor | None]) -> list[Tensor]:
        given = [a if w is None else w for a, w in zip(args, weights, strict=True)]
        versions = _versions(given)
        found = call(*given)
        results = list(found) if isinstance(found, tuple) else [found]
        if versions != _versions(given):
            raise NotCovered(f"{what} writes in place")
        if any(type(t) is not Tensor or (follow.active and follow.labels.at(t) is not None) for t in results):
            raise NotCovered(f"{what} gives what isn't a tensor of these alone")
        return results

    with torch._C.DisableTorchFunctionSubclass(), follow.paused():
        # Copies, which nobody takes for the parameter itself.
        stacks = [None if (stack := now.stack_of(leaf)) is None else stack.clone() for leaf in args]
        at_w = [None if s is None else a.detach().clone() for a, s in zip(args, stacks, strict=True)]
    for t in (*stacks, *at_w) if follow.active else ():
        if t is not None:
            follow.labels.set_by_group(t)
    count = side.groups.count
    side.warn(f"m-SAM: {what} is called for each of the {count} groups in turn, which is slower")
    states = random_states(side.names)
    value = of(at_w)
    with follow.paused():
        draws = have_moved(states)
    of_groups = []
    shares = (side.groups.sizes / side.divided_by).tolist()
    for share, *weights in zip(shares, *([None] * count if s is None else s.unbind() for s in stacks), strict=True):
        if draws:
            replay(states)
        given = [None if w is None else _Times.apply(w, share) for w in weights]
        of_groups.append([_Times.apply(result, 1 / share) for result in of(given)])
    with torch._C.DisableTorchFunctionSubclass(), follow.paused():
        each = zip(value, zip(*of_groups, strict=True), strict=True)
        derived = [Derived.of(v, ByGroup.apply(torch.stack(those))) for v, those in each]
    if follow.active:
        follow.labels.hide(derived)
    return tuple(derived) if len(derived) > 1 else derived[0]


class _Times(torch.autograd.Function):
    """The identity; gradients come back times a number. Between two of them they are those of a group's mean loss.

    A backward that isn't linear makes a difference of it.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Context, d: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Returns the gradient times the factor."""
        return d if ctx.factor == 1 else d * ctx.factor, None


def _versions(values: list[Tree]) -> list[int]:
    return [t._version if isinstance(t, Tensor) else 0 for t in values]
