"""Rows that an index takes out and puts back: whose they are is said by the index, and checked on its values.

An index that depends on parameters may have other values at other weights. What it reads is looked at in both passes,
since a row reads by its own example's values. What others write to an example's rows isn't seen at its weights: there
the index must hold the numbers of the very rows that ``nonzero`` has picked.
"""

import torch
from torch import Tensor

from lowland.optim.m_sam.operations.call import Call, aligned
from lowland.optim.m_sam.places import Along, Owners, owned

#: Of each dimension, the entries that are picked, or None for all.
Indices = list[Tensor | None]


def expanded(indices: Indices) -> Indices:
    """``indices``, with the coordinates of its entries in place of each mask."""
    found: Indices = []
    for i in indices:
        found.extend([i] if i is None or i.dtype not in (torch.bool, torch.uint8) else i.nonzero().unbind(1))
    return found


def picked(call: Call, x: Tensor, place: Along, indices: Indices) -> Along | None:
    """Where the examples of ``x`` are in ``x[indices]``, if these pick among the rows."""
    if any(i is not None and not _is_data(call, i) for i in indices):
        return None
    rows = expanded(indices)
    if place.routed or place.dim >= len(rows) or (row := rows[place.dim]) is None:
        return None
    used = [d for d, i in enumerate(rows) if i is not None]
    start = used[0] if used[-1] - used[0] == len(used) - 1 else 0
    shape = torch.broadcast_shapes(*(i.shape for i in rows if i is not None))
    each = place.owners(x.shape[place.dim], call.labels.examples)[row.cpu()].expand(shape)
    dim = next((d for d in range(each.ndim) if _goes_along(each, d)), None)
    dependent = [(i, at) for i in indices if i is not None and (at := call.at(i)) is not None]
    if dim is None or not call.only(x, *(i for i, _ in dependent)):
        return None
    call.labels.moving |= bool(dependent)  # even if rows are in order now: they may not be at other weights
    of = each.movedim(dim, 0).flatten(1)[:, 0] if each.ndim > 1 else each
    found, examples = Owners(of), call.labels.examples
    for i, at in dependent:
        among = aligned([(i, at)], torch.empty(shape, device="meta"))
        if among is None or among.dim != dim or not torch.equal(among.owners(shape[dim], examples), of):
            return None
        if at.routed and isinstance(among.inner, Owners):
            found = among.inner
    # Others of as many entries may be so many by chance.
    if found.routing is not None and any(at.inner != found for _, at in dependent):
        return None
    return owned(start + dim, found, examples)


def put(call: Call, x: Tensor, dim: int, index: Tensor, source: object) -> Along | None:
    """Where the examples are in ``x`` when rows of ``source`` were put to its rows ``index`` along ``dim``."""
    place, of_source, examples = call.at(x), call.at(source), call.labels.examples
    if not call.only(x, index, source) or (place is not None and (place.dim != dim or place.routed)):
        return None
    if isinstance(source, Tensor) and not source.numel() and call.only(x):
        return place
    if of_source is None or not isinstance(source, Tensor) or not _is_data(call, index):
        return None
    if of_source.dim != dim or (one := of_rows(index, dim)) is None or len(one) != source.shape[dim]:
        return None
    size, of = x.shape[dim], of_source.owners(len(one), examples)
    if (at := call.at(index)) is not None:
        call.labels.moving = True
        counted = call.labels.counted(index)
        if counted is None or counted.size != size or at.inner != of_source.inner:
            return None
        found = Along(dim, counted.inner)
        same = place is None or torch.equal(place.owners(size, examples), found.owners(size, examples))
        return found if same else None
    if of_source.routed:
        return None
    one = one.cpu() % max(size, 1)
    if place is not None:
        return place if torch.equal(place.owners(size, examples)[one], of) else None
    # Rows that nothing was put to depend on nothing: they may be anybody's.
    taken = torch.zeros(size, dtype=torch.int64).index_copy(0, one, of)
    regular = [torch.arange(size) // (size // examples)] if size % examples == 0 != size else []
    for known in (*regular, *(owners.of for owners in call.labels.met), taken):
        if len(known) == size and torch.equal(known[one], of):
            return owned(dim, Owners(known), examples)
    return None


def _is_data(call: Call, index: Tensor) -> bool:
    """Whether ``index`` has values, which are those for all groups."""
    return not index.is_meta and not call.labels.by_group(index)


def _goes_along(each: Tensor, dim: int) -> bool:
    """Whether entries differ along ``dim`` alone."""
    if not each.numel():
        return each.ndim == 1
    rows = each.movedim(dim, 0).flatten(1) if each.ndim > 1 else each[:, None]
    return torch.equal(rows, rows[:, :1].expand_as(rows))


def of_rows(index: Tensor, dim: int) -> Tensor | None:
    """``index`` itself, or if it has more dimensions that along ``dim``, if it is the same in all others."""
    if index.ndim < 2:
        return index if index.ndim else None
    if not index.numel():
        return None
    one = index.movedim(dim, -1).reshape(-1, index.shape[dim])[0]
    return one if torch.equal(index.movedim(dim, -1), one.expand(index.movedim(dim, -1).shape)) else None
