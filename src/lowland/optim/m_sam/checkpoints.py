"""Reentrant checkpoints, which autograd calls again in backward."""

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.optim.m_sam.closure import OTHERWISE, Closure
from lowland.optim.m_sam.functions import check_functions
from lowland.optim.m_sam.places import Mixed, Place
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.watched import of_parameters
from lowland.values import Args, Function, Tree


def checkpointed(closure: Closure, args: Args, apply: Function) -> Tree:
    """A reentrant checkpoint, with what was saved of its arguments; ``apply`` calls it."""
    run, preserve, *given = args
    tensors = [t for t in pytree.tree_leaves(given) if isinstance(t, Tensor)]
    # Whether the plain closure's have gradients isn't known where none has: not all layers are tapped.
    cut_off = torch.is_grad_enabled() and closure.dependence.active and not any(t.requires_grad for t in tensors)
    if of_parameters(tensors):
        closure.cannot("a reentrant checkpoint takes what parameters alone give ({}): use_reentrant=False does better")
    elif cut_off and any(closure.dependence.labels.at(t) is not None for t in tensors):
        closure.cannot("a reentrant checkpoint takes what has no gradient ({}): use_reentrant=False does better")
    out = apply(_Checkpointed(closure, run), preserve, *given)
    if of_parameters(out):
        closure.cannot("a reentrant checkpoint gives what parameters alone give ({}): use_reentrant=False does better")
    return out


class _Checkpointed:
    """What a reentrant checkpoint runs: once in forward, without gradients, and once in backward."""

    def __init__(self, closure: Closure, run: Function):
        self._closure, self._run = closure, run
        self._places: list[Place | None] | None = None

    def __call__(self, *args: Tree) -> Tree:
        closure = self._closure
        if self._places is None:
            out = self._run(*args)
            self._places = closure.places(out)
            return out
        with closure.again():
            out = self._run(*args)
            places = closure.places(out)
        if closure.parted:
            for t in pytree.tree_leaves(out):
                if isinstance(t, Tensor):
                    check_functions(t)
            if _without_reasons(places) != _without_reasons(self._places):
                raise NotCovered(OTHERWISE)
        return out


def _without_reasons(places: list[Place | None]) -> list[Place | type[Mixed] | None]:
    return [Mixed if isinstance(place, Mixed) else place for place in places]
