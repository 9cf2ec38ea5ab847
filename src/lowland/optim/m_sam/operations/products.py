"""Products of matrices, attention included, and what is like one."""

from torch import Tensor

from lowland.optim.m_sam.operations.call import Call, aligned, one, rule, same_dim
from lowland.optim.m_sam.places import Along, Place


@rule("addmm addbmm baddbmm addmv")
def _added_product(call: Call) -> Place | None:
    if call.func._schema.name.startswith("aten::addbmm"):
        return None
    added, a, b = call.args[:3]
    out = call.results[0] if call.results else added
    places = [call.at(t) for t in (a, b)]
    found = _product(call, a, b) if any(places) else None
    if any(places) and found is None:
        return None
    if (at := call.at(added)) is None:
        return found
    place = aligned([(added, at)], out)
    return place if found is None or found == place else None


@rule("mm bmm mv dot vdot")
def _product_alone(call: Call) -> Place | None:
    return _product(call, call.args[0], call.args[1])


def _product(call: Call, a: Tensor, b: Tensor) -> Along | None:
    """Of matrices, of vectors, or of as many matrices on either side."""
    at, bt = call.at(a), call.at(b)
    batch = a.ndim - 2  # dimensions that stand beside each other
    if (
        batch < 0
        or (at is not None and at.dim == a.ndim - 1)
        or (bt is not None and bt.dim == max(b.ndim - 2, 0) >= batch)
    ):
        return None  # summed over
    if at is not None and bt is not None:
        return at if at == bt and at.dim < batch and a.shape[at.dim] == b.shape[bt.dim] else None
    return at if at is not None else bt


@rule("linear")
def _linear(call: Call) -> Place | None:
    x = call.args[0]
    place = call.alone(x)
    return place if place is not None and place.dim < x.ndim - 1 else None


@rule("_cdist_forward")
def _cdist(call: Call) -> Place | None:
    a, b = call.args[:2]
    place = one(place for _, place in call.dependent)
    if place is None or a.ndim != b.ndim:
        return None
    return place if place.dim < a.ndim - 2 and call.results[0].shape[place.dim] == a.shape[place.dim] else None


@rule(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_fused_attention_overrideable"
)
def _attention(call: Call) -> list[Place | None] | None:
    """Examples may be among the batch or the heads, the first two dimensions."""
    query, key, value = call.args[:3]
    mask = call.given.get("attn_mask", call.given.get("attn_bias"))
    inputs = [(t, place) for t, place in call.dependent if any(t is x for x in (query, key, value))]
    if not call.only(query, key, value, mask) or not inputs:
        return None
    place = same_dim(inputs, call.results[0])
    if place is None or place.dim > 1 or any(t.shape[place.dim] != query.shape[place.dim] for t in (key, value)):
        return None
    of_mask = [(t, at) for t, at in call.dependent if t is mask]
    if of_mask and aligned(of_mask, call.results[0]) != place:
        return None
    rest = [place if out.ndim == 3 and out.shape[:2] == query.shape[:2] else None for out in call.results[1:]]
    return [place, *rest]


@rule("grid_sampler_2d grid_sampler_3d")
def _grid_sampler(call: Call) -> Place | None:
    place = same_dim(call.dependent, call.results[0])
    return place if place is not None and place.dim == 0 else None
