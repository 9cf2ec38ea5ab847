"""Operations that compute each entry of their result from the same entry of their arguments."""

from lowland.optim.m_sam.operations.call import Call, aligned, rule
from lowland.optim.m_sam.places import Place


@rule(
    "_to_copy copy clone fill masked_fill zero where native_dropout _prelu_kernel hardswish polar complex ldexp "
    "log_sigmoid_forward bernoulli normal real imag angle special_expit floor_divide"
)
def entrywise(call: Call) -> Place | None:
    """Where its arguments have them, which must meet after broadcasting."""
    out = call.results[0] if call.results else call.args[0]
    return aligned(call.dependent, out)


@rule("bucketize")
def _bucketize(call: Call) -> Place | None:
    return aligned(call.dependent, call.results[0]) if call.only(call.given["self"]) else None
