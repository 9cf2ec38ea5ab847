"""Writes in place to what parameters alone give: activations with ``inplace=True``."""

import inspect

import torch
from torch import Tensor

from lowland.optim.m_sam.places import memory
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.watched import Derived, Watched
from lowland.values import Args, Function, Kwargs, Tree


def not_in_place(func: Function, args: Args, kwargs: Kwargs) -> tuple[Tree, tuple[Args, Kwargs]] | None:
    """The argument that an activation with ``inplace=True`` writes to, and its arguments without that."""
    code = getattr(func, "__code__", None)
    if code is None or "inplace" not in code.co_varnames:
        return None
    bound = inspect.signature(func).bind(*args, **kwargs)
    if bound.arguments.get("inplace") is not True:
        return None
    bound.arguments["inplace"] = False
    return args[0], (bound.args, bound.kwargs)


def written(target: Tree, result: Tree, what: str) -> Derived:
    """``target``, with ``result`` written to it."""
    if type(target) is not Derived or type(result) is not Derived or getattr(target, "shared", True):
        raise NotCovered(f"{what} writes in place")
    target.stack = result.stack
    with torch.no_grad():
        target.as_subclass(Tensor).copy_(result.as_subclass(Tensor))
    return target


def note_shared(results: list[Derived], leaves: list[Tree]) -> None:
    """What may be seen under another name isn't written to."""
    places: dict[int, list[Watched | Derived]] = {}
    for t in (*results, *leaves):
        if isinstance(t, Watched | Derived):
            for place in {memory(t), memory(t.stack if type(t) is Derived else t)}:
                places.setdefault(place, []).append(t)
    for those in places.values():
        if len(those) > 1 or any(type(t) is Watched for t in those):
            for t in those:
                if type(t) is Derived:
                    t.shared = True
