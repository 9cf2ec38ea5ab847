"""Rows that parameters route: which there are depends on all examples, and so do their number and their positions.

What a row holds is its own example's all the same, as long as no operation reads where it lies.
"""

import torch
from torch import Tensor
from torch._ops import OpOverload

from lowland.optim.m_sam.labels import Counted, Free, Labels
from lowland.optim.m_sam.places import Along, Owners
from lowland.values import Args, Kwargs, Tree

#: Views that read positions along a dimension.
_PARTS = frozenset(["select", "slice", "unbind", "split", "split_with_sizes", "narrow", "squeeze"])
#: The same, along dimensions that aren't looked for.
_OTHER_PARTS = frozenset(["unfold", "as_strided", "diagonal"])
#: What isn't called a view, and gives parts all the same.
_UNSAFE = frozenset(["unsafe_split", "unsafe_split_with_sizes"])
#: What has no rows may be beside them, of whatever sizes; where else rows are picked their own rules say.
_BESIDE = frozenset(
    ["mm", "linear", "native_layer_norm", "_fused_rms_norm", "embedding", "index", "index_add", "index_put"]
)


def by_position(labels: Labels, func: OpOverload, is_view: bool, args: Args, kwargs: Kwargs, out: Tree) -> str | None:
    """What an operation does that depends on where rows are that parameters route, in words; None for nothing."""
    flat = [t for a in (*args, *kwargs.values()) for t in (a if isinstance(a, list | tuple) else [a])]
    tensors = [t for t in flat if isinstance(t, Tensor)]
    routed = [(t, place) for t in tensors if (place := labels.routed(t)) is not None]
    if not routed:
        return None
    if torch.Tag.nondeterministic_seeded in func.tags:
        return "draws random numbers by the positions"
    name = func._schema.name.partition("::")[2].removesuffix("_")
    if name in _UNSAFE:
        return "reads positions"
    if is_view:
        x, place = routed[0]
        given = dict(zip((a.name for a in func._schema.arguments), args)) | kwargs  # noqa: B905
        dims = given.get("dim", list(range(x.ndim)) if name == "squeeze" else 0)
        along = {d % x.ndim for d in (dims if isinstance(dims, list | tuple) else [dims])} if name in _PARTS else set()
        rows = {place.dim}
        if x.shape[place.dim] == 1 and not (
            labels.are_numbers(x) and x.ndim == 2
        ):  # of one row any dimension may be it
            rows = {d for d, n in enumerate(x.shape) if n == 1}
        if name in _OTHER_PARTS or along & rows:
            return "reads positions"
        one = x.shape[place.dim] == 1 and isinstance(out, Tensor) and not _keeps_one(name, x, place.dim, out, given)
        return "may move the only one" if one else None
    if name in _BESIDE:
        picks = [i for i in args[1] if i is not None] if name in ("index", "index_put") else []
        met = any(i.numel() != 1 and labels.at(i) is None for i in picks)
        return "picks by the positions" if met else None
    backs = {t.ndim - place.dim for t, place in routed}
    others = [t for t in tensors if labels.at(t) is None and (name != "addmm" or t is args[0])]
    met = any(t.ndim >= back and t.shape[-back] != 1 for t in others for back in backs)
    return "has something beside it that goes by the positions" if met else None


def _keeps_one(name: str, x: Tensor, dim: int, out: Tensor, given: Kwargs) -> bool:
    """Whether the only row along ``dim`` of ``x`` lies, in a view, along the first dimension of size 1."""
    if name in ("view", "_unsafe_view", "_reshape_alias"):
        return x.shape[: dim + 1] == out.shape[: dim + 1] and out.shape.index(1) == dim
    if (ones := [d for d, n in enumerate(out.shape) if n == 1]) and len(ones) == 1:
        return True
    at = given.get("dim", 0)
    if name == "unsqueeze":
        dim += at % out.ndim <= dim
    elif name == "select":
        dim -= at % x.ndim < dim
    elif name not in ("slice", "detach", "alias", "expand") or out.ndim != x.ndim:
        return False
    return ones[:1] == [dim]


def picked_by(labels: Labels, mask: Tensor, out: Tensor) -> bool:
    """Label the coordinates of entries that depend on parameters, as ``nonzero`` gives them; False if that can't be.

    There are too many ways to learn how many there are for all to be refused, so that somebody must vouch for the code.
    """
    place = labels.at(mask)
    if place is None or not labels.vouched:
        return False
    labels.moving = True
    if not isinstance(place, Along) or place.routed:
        # Which experts are called, say: one that isn't called would have got no rows.
        labels.put(out, Free(constant=True))
        return True
    of = place.owners(mask.shape[place.dim], labels.examples)[out[:, place.dim].cpu()]
    columns = [Counted(mask.shape[d], place.inner) if d == place.dim else None for d in range(mask.ndim)]
    labels.set_picked(out, Owners(of, routing=object()), columns)
    return True
