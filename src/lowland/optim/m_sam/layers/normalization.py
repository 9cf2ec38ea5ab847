"""Scale and shift of normalization layers: each row with its own."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.layers.batch_norm import as_a_function, batch_norm
from lowland.optim.m_sam.layout import as_plain
from lowland.optim.m_sam.registry import rule
from lowland.optim.m_sam.rule import AtPerturbed, AtW, EitherPass, Rule, Use
from lowland.values import Context


class _Normalization(Rule):
    """A layer whose scale and shift may differ by row; `with_rows` says how."""

    def first(self, use: Use, watch: AtW) -> Tensor:
        """With a copy of the parameters for each row, whose gradients are those of the rows."""
        return self.with_rows(use, *self._rows(use, watch))

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """With the parameters of each row's group."""
        return self.with_rows(use, *self._rows(use, watch))

    def _rows(self, use: Use, watch: EitherPass) -> list[Tensor | None]:
        given = ((name, use.arguments[name]) for name in ("weight", "bias"))
        return [watch.rows(p, len(use.input)) if name in use.owners else p for name, p in given]

    def with_rows(self, use: Use, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The layer with ``(rows, *shape)`` of either; frozen ones come as they are."""
        raise NotImplementedError


@rule(F.layer_norm)
class LayerNorm(_Normalization):
    """The normalized rows, times and plus their own."""

    arguments: ClassVar[tuple[str, ...]] = ("input", "normalized_shape", "weight", "bias", "eps")
    defaults: ClassVar = {"weight": None, "bias": None, "eps": 1e-5}
    by_row = True

    def refuses(self, use: Use) -> str | None:
        """Refuse what is normalized over the rows, too."""
        return "no rows" if use.input.ndim <= len(use.normalized_shape) else None

    def leading(self, use: Use) -> int:
        """All dimensions that aren't normalized."""
        return use.input.ndim - len(use.normalized_shape)

    def with_rows(self, use: Use, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The normalized rows with scale and shift, broadcast over the positions."""
        ndim = len(use.normalized_shape)
        x = use.input
        both = weight is not None and bias is not None and weight.ndim == bias.ndim == ndim + 1
        if both and x.numel() and not torch.is_autocast_enabled(x.device.type):
            out: Tensor = _LayerNorm.apply(x, weight, bias, use.eps)
            return out
        return affine(F.layer_norm(use.input, use.normalized_shape, None, None, use.eps), weight, bias, ndim)


class _LayerNorm(torch.autograd.Function):
    """Layer norm with a scale and a shift for each row: what autograd would do, in fewer passes over memory."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        shape = weight.shape[1:]
        alike = weight.stride(0) == bias.stride(0) == 0
        scale, shift = (weight[0], bias[0]) if alike else (None, None)
        y, mean, rstd = torch.native_layer_norm(x, shape, scale, shift, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.alike = alike
        return y if alike else torch.addcmul(_along(bias, x), y, _along(weight, x), out=y)

    @staticmethod
    def backward(ctx: Context, d: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias, mean, rstd = ctx.saved_tensors
        between = tuple(range(1, x.ndim - weight.ndim + 1))
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            own = (weight[0], bias[0]) if ctx.alike else (None, None)
            scaled = d if ctx.alike else d * _along(weight, x)
            dx = torch.ops.aten.native_layer_norm_backward(
                scaled, x, weight.shape[1:], mean, rstd, *own, [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            dw = (x - mean).mul_(rstd).mul_(d)
            dw = dw.sum(between) if between else dw
        if ctx.needs_input_grad[2]:
            db = d.sum(between) if between else d
        return dx, dw, db, None


def _along(rows: Tensor, x: Tensor) -> Tensor:
    """``(rows, *shape)`` to go along with ``(rows, ..., *shape)``."""
    return rows.view(len(rows), *[1] * (x.ndim - rows.ndim), *rows.shape[1:])


@rule(F.rms_norm)
class RMSNorm(LayerNorm):
    """As layer norm, without a shift and without subtracting the mean."""

    arguments: ClassVar[tuple[str, ...]] = ("input", "normalized_shape", "weight", "eps")
    defaults: ClassVar = {"weight": None, "eps": None}
    parameters: ClassVar = ("weight",)

    def _rows(self, use: Use, watch: EitherPass) -> list[Tensor | None]:
        return [watch.rows(use.weight, len(use.input)), None]

    def with_rows(self, use: Use, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The normalized rows with scale and shift, broadcast over the positions."""
        y = F.rms_norm(use.input, use.normalized_shape, None, use.eps)
        return affine(y, weight, None, len(use.normalized_shape))


def affine(y: Tensor, weight: Tensor | None, bias: Tensor | None, ndim: int) -> Tensor:
    """``y`` · weight + bias, either ``(*shape)`` or ``(rows, *shape)`` of ``ndim`` more dimensions."""
    w, b = (t if t is None or t.ndim == ndim else _along(t, y) for t in (weight, bias))
    if w is not None and b is not None:
        return torch.addcmul(b, y, w)
    return y * w if w is not None else y + b if b is not None else y


@rule(F.group_norm)
class GroupNorm(_Normalization):
    """One call on all rows side by side: channels of their own, in groups of their own."""

    arguments: ClassVar[tuple[str, ...]] = ("input", "num_groups", "weight", "bias", "eps")
    defaults: ClassVar = {"weight": None, "bias": None, "eps": 1e-5}

    def with_rows(self, use: Use, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """All rows as the channels of a single one, ``(1, rows · channels, ...)``."""
        x = use.input
        w, b = (t if t is None else t.expand(*x.shape[:2]).reshape(-1) for t in (weight, bias))
        side_by_side = x.reshape(1, -1, *x.shape[2:])
        y = F.group_norm(side_by_side, len(x) * use.num_groups, w, b, use.eps).view(x.shape)
        return as_plain(y, F.group_norm, x, use.num_groups, use.weight, use.bias, use.eps)


@rule(F.batch_norm)
class BatchNorm(_Normalization):
    """In evaluation mode a scale and a shift of each row; in training mode each group by itself."""

    arguments: ClassVar[tuple[str, ...]] = (
        "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
    )  # fmt: skip
    defaults: ClassVar = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}

    def unread(self, use: Use) -> tuple[str, ...]:
        """In training mode running statistics are written to, no more."""
        return ("running_mean", "running_var") if use.training else ()

    def first(self, use: Use, watch: AtW) -> Tensor:
        """In training mode with a copy of the parameters for each group."""
        return self._by_group(use, watch) if use.training else super().first(use, watch)

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """In training mode with each group's own parameters."""
        return self._by_group(use, watch) if use.training else super().perturbed(use, watch)

    def unmoved(self, use: Use, watch: AtPerturbed) -> Tensor:
        """Statistics are those of the groups all the same."""
        return self._by_group(use, watch) if use.training else super().unmoved(use, watch)

    def _by_group(self, use: Use, watch: EitherPass) -> Tensor:
        given = ((name, use.arguments[name]) for name in ("weight", "bias"))
        weight, bias = (watch.stack(p) if name in use.owners else p for name, p in given)
        what = f"batch norm ({watch.names[next(iter(use.owners.values()))]})"
        as_a_function(what)
        running = (use.running_mean, use.running_var)
        return batch_norm(use.input, running, weight, bias, use.momentum, use.eps, groups=watch.groups, what=what)

    def with_rows(self, use: Use, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The normalized rows with scale and shift, along the second dimension."""
        x = use.input
        y = F.batch_norm(x, use.running_mean, use.running_var, None, None, False, 0.0, use.eps)
        after = [1] * (x.ndim - 2)
        w, b = (t if t is None else t.view(*t.shape, *after) for t in (weight, bias))
        if w is not None and b is not None:
            y = torch.addcmul(b, y, w)
        elif w is not None:
            y = y * w
        elif b is not None:
            y = y + b
        return as_plain(y, F.batch_norm, x, use.running_mean, use.running_var)
