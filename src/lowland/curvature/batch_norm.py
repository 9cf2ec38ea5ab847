"""Batch norm in training mode whose gradient, differentiated once more, takes few passes over its input.

Torch composes that derivative of some forty operations, each of which reads and writes tensors as large as the input:
in a residual network a third of a Hessian product.

With x̂ = (x − μ)r, r = 1/√(σ² + ε), the mean m(·) over a channel's N entries, and P(d) = d − m(d) − x̂ m(d x̂), batch norm
y = γx̂ + β has the gradients

    by x: γ r P(d),    by γ: N m(d x̂),    by β: N m(d)

for the gradient d by y. What follows differentiates S = ⟨v, γ r P(d)⟩ + ⟨p, N m(d x̂)⟩ + ⟨q, N m(d)⟩, for the
gradients v, p, q by these. P is symmetric, and ∂x̂/∂x = r P, ∂r/∂x = −r² x̂/N, so that S has the gradients

    by d: γ r P(v) + p x̂ + q,    by γ: N r m(v P(d)),    by x: r P(a d + b v) − r² s x̂

with a = p − γ r m(v x̂), b = −γ r m(d x̂), s = γ m(v P(d)), and m(v P(d)) = m(v d) − m(v) m(d) − m(v x̂) m(d x̂).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _Norm(Function):
    """(x, γ, β) → y."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running: tuple[Tensor | None, Tensor | None],
        momentum: float, eps: float,
    ) -> Tensor:  # fmt: skip
        y, mean, invstd = torch.native_batch_norm(x, weight, bias, *running, True, momentum, eps)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, invstd)
        return y

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd = ctx.saved_tensors
        return (*_Slope.apply(d, x, weight, mean, invstd, ctx.eps), None, None, None)


class _Slope(Function):
    """(d, x, γ) → the gradients by x, γ and β."""

    @staticmethod
    def forward(
        ctx: Any, d: Tensor, x: Tensor, weight: Tensor, mean: Tensor, invstd: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        by_x, by_weight, by_bias = _kernel(d, x, weight, mean, invstd, eps)
        ctx.eps = eps
        ctx.save_for_backward(d, x, weight, mean, invstd, by_weight, by_bias)
        return by_x, by_weight, by_bias

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor | None, ...]:
        d, x, weight, mean, invstd, d_along, d_sum = ctx.saved_tensors
        entries = x.numel() // x.shape[1]
        by_d, v_along, v_sum = _kernel(v, x, weight, mean, invstd, ctx.eps)
        d_mean, v_mean, d_along, v_along = (total / entries for total in (d_sum, v_sum, d_along, v_along))
        both = (v * d).sum((0, *range(2, x.dim()))) / entries - v_mean * d_mean - v_along * d_along
        a, b = p - weight * invstd * v_along, -weight * invstd * d_along

        def wide(numbers: Tensor) -> Tensor:
            return numbers.view(1, -1, *(1,) * (x.dim() - 2))

        # p x̂ + q and c x̂ + e as one pass each: batch norm with given statistics.
        def along(slope: Tensor, level: Tensor) -> Tensor:
            return torch.native_batch_norm(x, slope, level, mean, invstd.pow(-2) - ctx.eps, False, 0.0, ctx.eps)[0]

        by_d = along(p, q).add_(by_d)
        by_weight = entries * invstd * both
        if not ctx.needs_input_grad[1]:
            return by_d, None, by_weight, None, None, None
        level = -invstd * (a * d_mean + b * v_mean)
        slope = -invstd * (a * d_along + b * v_along) - invstd.square() * weight * both
        by_x = along(slope, level).addcmul_(d, wide(invstd * a)).addcmul_(v, wide(invstd * b))
        return by_d, by_x, by_weight, None, None, None


def _kernel(d: Tensor, x: Tensor, weight: Tensor, mean: Tensor, invstd: Tensor, eps: float) -> tuple[Tensor, ...]:
    """γ r P(d), N m(d x̂), N m(d)."""
    return torch.ops.aten.native_batch_norm_backward(
        d, x, weight, None, None, mean, invstd, True, eps, [True, True, True]
    )


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`torch.nn.functional.batch_norm`, with this derivative in training mode; itself where it doesn't apply.

    That is without weight and bias, in half precision, away from a CPU, under autocast, and under `torch.vmap`; and
    where something looks at what is saved for the backward pass, as checkpoints do, which compute it again by torch's.
    """
    usual = (
        training
        and weight is not None
        and bias is not None
        and input.device.type == "cpu"
        and input.dtype in (torch.float32, torch.float64)
        and input.dtype == weight.dtype == bias.dtype
        and (running_mean is None or running_mean.dtype == input.dtype)
        and input.numel() > input.shape[1]
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    )
    if not usual:
        return torch.nn.functional.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )  # fmt: skip
    result: Tensor = _Norm.apply(input, weight, bias, (running_mean, running_var), momentum, eps)
    return result
