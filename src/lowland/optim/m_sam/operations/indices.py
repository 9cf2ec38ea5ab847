"""Operations that pick by index."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.optim.m_sam.operations.call import Call, aligned, rule
from lowland.optim.m_sam.operations.owned import expanded, picked, put
from lowland.optim.m_sam.packed import Packing
from lowland.optim.m_sam.places import Along, Owners, Place, owned

#: Of each dimension of a tensor, as ``aten.index`` takes them: the entries that are picked, or None for all.
Indices = Sequence[Tensor | None]


@rule("embedding")
def _embedding(call: Call) -> Place | None:
    return call.alone(call.given["indices"])


@rule("_pack_padded_sequence")
def _pack(call: Call) -> list[Place | None] | None:
    """Each row is its sequence's; which are how long is data."""
    x, _, batch_first = call.args
    place = call.alone(x)
    if place is None or place.routed or place.dim != (0 if batch_first else 1):
        return None
    owners = place.owners(x.shape[place.dim], call.labels.examples)
    return [owned(0, Owners(owners[Packing.of(call.results[1]).sequences]), call.labels.examples), None]


@rule("index")
def _index(call: Call) -> Place | None:
    x, indices = call.args[:2]
    place = call.at(x)
    if place is None:  # values of parameters alone, picked by what examples say
        return _by_indices(call, indices, call.results[0])
    found = _indexed(call, x, place, indices, call.results[0])
    if found is not None and call.only(x, *_among_their_own(call, place.dim, indices, found)):
        return found
    return picked(call, x, place, list(indices))


@rule("index_put _index_put_impl _unsafe_index_put")
def _index_put(call: Call) -> Place | None:
    x, indices, values = call.args[:3]
    place, of_values = call.at(x), call.at(values)
    if of_values is None:
        return place if call.only(x) else None  # what is written depends on nothing
    shape = x.detach()[tuple(slice(None) if i is None else i for i in indices)]
    for dim in range(x.ndim) if place is None else [place.dim]:
        here = Along(dim, of_values.inner)
        if place is not None and place != here:
            continue
        found = _indexed(call, x, here, indices, shape)
        own = _among_their_own(call, dim, indices, found)
        if found is not None and aligned([(values, of_values)], shape) == found and call.only(x, values, *own):
            return here
    rows = expanded([*indices])
    given = [dim for dim, i in enumerate(rows) if i is not None]
    if len(given) != 1 or values.ndim != x.ndim or (index := rows[given[0]]) is None:
        return None
    return put(call, x, given[0], index, values)


def _among_their_own(call: Call, dim: int, indices: Indices, found: Along | None) -> list[Tensor]:
    """Those of ``indices`` that depend on examples and pick for each among its own entries.

    Args:
        call: in which ``indices`` pick.
        dim: along which the examples are that they pick from.
        indices: of `_indexed`.
        found: where examples are in what is picked.
    """
    given = [(i, place) for i in indices if i is not None and (place := call.at(i)) is not None]
    if not given or found is None or dim >= len(indices) or indices[dim] is None:
        return []
    used = [d for d, i in enumerate(indices) if i is not None]
    start = used[0] if used[-1] - used[0] == len(used) - 1 else 0
    shape = torch.broadcast_shapes(*(i.shape for i in indices if i is not None))
    place = aligned(given, torch.empty(shape, device="meta"))
    if place is None or Along(start + place.dim, place.inner) != found:
        return []
    return [i for i, _ in given]


def _plain(indices: Indices) -> bool:
    """Whether each index is for one dimension: masks of several dimensions are not."""
    return all(i is None or i.dtype not in (torch.bool, torch.uint8) or i.ndim == 1 for i in indices)


def _indexed(call: Call, x: Tensor, place: Along, indices: Indices, out: Tensor) -> Along | None:
    """Where the examples of ``x`` are in ``x[indices]``."""
    if not _plain(indices):
        return None
    used = [d for d, i in enumerate(indices) if i is not None]
    if not used:
        return place
    together = used[-1] - used[0] == len(used) - 1
    new = max(1 if i.dtype in (torch.bool, torch.uint8) else i.ndim for i in indices if i is not None)
    start = used[0] if together else 0
    if place.dim not in used:
        before = sum(d < place.dim for d in range(x.ndim) if d not in used)
        dim = before + (new if not together or place.dim > used[0] else 0)
        return Along(dim, place.inner) if out.shape[dim] == x.shape[place.dim] else None
    index = indices[place.dim]
    # 0, 1, 2, ... takes the examples as they are.
    if place.routed or index is None or not call.labels.counts(index) or index.numel() != x.shape[place.dim]:
        return None
    (along,) = [d for d, n in enumerate(index.shape) if n > 1] or [0]
    if index.stride(along) != 1:
        return None
    dim = start + new - index.ndim + along
    return Along(dim, place.inner) if out.shape[dim] == x.shape[place.dim] else None


def _by_indices(call: Call, indices: Indices, out: Tensor) -> Along | None:
    """Where examples are in what indices pick that depend on parameters."""
    used = [d for d, i in enumerate(indices) if i is not None]
    given = [i for i in indices if i is not None]
    if not _plain(indices) or any(i.dtype in (torch.bool, torch.uint8) for i in given):
        return None
    start = used[0] if used[-1] - used[0] == len(used) - 1 else 0
    shape = torch.broadcast_shapes(*(i.shape for i in given))
    place = aligned(call.dependent, torch.empty(shape, device="meta"))
    return None if place is None else Along(start + place.dim, place.inner)
