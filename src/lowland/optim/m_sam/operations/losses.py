"""Losses of torch's, each of which is an operation."""

from lowland.optim.m_sam.operations.call import Call, aligned, rule
from lowland.optim.m_sam.places import Along, Place


@rule("mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits")
def _entrywise_loss(call: Call) -> Place | None:
    return aligned(call.dependent, call.results[0]) if call.given["reduction"] == 0 else None


@rule("nll_loss_forward nll_loss2d_forward")
def _nll_loss(call: Call) -> list[Place | None] | None:
    x = call.args[0]
    place = call.alone(x)
    if call.given["reduction"] != 0 or place is None or x.ndim < 2 or place.dim == 1:
        return None
    return [Along(place.dim - (place.dim > 1), place.inner), None]


@rule("_ctc_loss")
def _ctc_loss(call: Call) -> list[Place | None] | None:
    x = call.args[0]
    place = call.alone(x)
    if place is None or place.dim != 1 or x.ndim != 3:
        return None
    return [Along(0, place.inner), Along(0, place.inner)]
