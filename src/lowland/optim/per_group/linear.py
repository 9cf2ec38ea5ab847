"""Fully connected layers: z = W a + b, at one position or many."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.per_group.gradients import Built, Factors, Piece, pairwise_pays
from lowland.optim.per_group.groups import Groups
from lowland.optim.per_group.registry import Rule, Use, rule

if TYPE_CHECKING:
    from lowland.optim.per_group.passes import FirstPass, Perturbation, SecondPass


@rule(F.linear)
class Linear(Rule):
    """The weight's gradient is Σ d aᵀ over the positions; an example's own weights add s d (a · a')."""

    def refuses(self, use: Use) -> str | None:
        """Single vectors have no rows."""
        return "no rows" if use.input.ndim < 2 else None

    def first(self, use: Use, watch: "FirstPass") -> Tensor:
        """Plain, tapped."""
        x, w, b = autocast(use.input, use.weight.detach(), None if use.bias is None else use.bias.detach())
        flat = x.flatten(0, -2)  # with more dimensions the output would be a view, whose gradient is copied
        use.leading = x.shape[:-1]
        return watch.tap(use, F.linear(flat, w, b), flat).view(*x.shape[:-1], -1)

    def pieces(self, use: Use, a: Tensor, d: Tensor, groups: Groups) -> dict[str, Piece]:
        """Factors where pairs of positions are cheaper."""
        return pieces(by_example(a, groups), by_example(d, groups), use, groups)

    def perturbed(self, use: Use, watch: "SecondPass") -> Tensor:
        """Plain and what is added, or each group with weights written out."""
        x, w, b = autocast(use.input, use.weight, use.bias)
        groups = watch.groups
        found = watch.factors(use.weight)
        bias = None if use.bias is None or use.bias not in watch.perturbations else use.bias
        if found is None and use.weight in watch.perturbations:
            if x.dtype.itemsize < use.weight.dtype.itemsize:
                moved = None if bias is None else watch.moved(bias, x.dtype)
                e = watch.moved(use.weight, x.dtype)
                return F.linear(x, w, b) + _Grouped.apply(x, w.detach(), None, e, moved, groups)
            biases = None if bias is None else watch.constant(bias)
            return _Grouped.apply(x, w, b, watch.constant(use.weight), biases, groups)
        if found is not None and found.keeps is None:
            fused = _fused(x, w, b, found, watch, bias)
            if fused is not None:
                return fused
            return added(F.linear(x, w, b), by_example(x, groups), found, watch, bias)
        if found is None:
            z = F.linear(x, w)
        else:
            assert found.keeps is not None
            z = _Kept.apply(x, w, over(groups.spread(found.keeps.to(x), len(x)), x.ndim))
            z = added(z, by_example(x, groups), found, watch, None)
        if b is None:
            return z
        return z + (b if bias is None else over(watch.rows(bias, len(x)).to(z.dtype), z.ndim))


def autocast(*tensors: Any) -> Any:
    """As autocast would give them to a product."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    to = torch.get_autocast_dtype(device)
    return tuple(
        t.to(to) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors
    )


def by_example(rows: Tensor, groups: Groups) -> Tensor:
    """``(rows, ..., features)`` as ``(examples, positions, features)``."""
    return rows.reshape(groups.size, -1, rows.shape[-1])


def over(rows: Tensor, ndim: int) -> Tensor:
    """``(rows,)`` or ``(rows, features)`` to go along with a tensor of ``ndim`` dimensions."""
    return rows.view(len(rows), *[1] * (ndim - rows.ndim), *rows.shape[1:])


def pieces(a: Tensor, d: Tensor, use: Use, groups: Groups) -> dict[str, Piece]:
    """Of weight and bias, from ``(examples, positions, features)`` of input and gradient."""
    found: dict[str, Piece] = {}
    if "weight" in use.owners:
        factors = Factors(a, d)
        cheap = pairwise_pays(a.shape[1], a.shape[2], d.shape[2], groups)
        found["weight"] = factors if cheap else factors.build(groups, use.weight.shape)
    if "bias" in use.owners:
        found["bias"] = Built(d.flatten(0, 1) if groups.m == a.shape[1] == 1 else groups.sums(d.sum(1)))
    return found


def _fused(
    x: Tensor, w: Tensor, b: Tensor | None, found: "Perturbation", watch: "SecondPass", bias: Tensor | None
) -> Tensor | None:
    """W x + b + d (c (a · x) + c_b) for examples alone, with one position; None for others."""
    factors = found.factors
    assert factors is not None
    assert found.c is not None
    if watch.groups.m > 1 or factors.positions > 1 or x.ndim > 2 or len(x) != watch.groups.size:
        return None
    a, d = (t.flatten(1).to(x.dtype) for t in (factors.a, factors.d))
    shift = None
    if bias is not None:
        moved = watch.perturbations[bias]
        if moved.raw is None or moved.c is None or moved.raw.data_ptr() != factors.d.data_ptr():
            return None  # the bias has other uses
        shift = moved.c.to(x.dtype)
    return _OneEach.apply(x, w, b, a, d, found.c.to(x.dtype), shift)


class _OneEach(torch.autograd.Function):
    """See `_fused`: two multiplications with vectors beyond the plain layer, either way."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, a: Tensor, d: Tensor, c: Tensor, shift: Tensor | None
    ) -> Tensor:
        w = w.detach()
        ctx.save_for_backward(x, w, a, d, c)
        along = _dots(a, x) * c
        if shift is not None:
            along += shift
        return F.linear(x, w, None if b is None else b.detach()).addcmul_(d, along[:, None])

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> Any:  # type: ignore[override]
        x, w, a, d, c = ctx.saved_tensors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = (dz @ w).addcmul_(a, (_dots(d, dz) * c)[:, None])
        if ctx.needs_input_grad[1]:
            dw = dz.T @ x
        if ctx.needs_input_grad[2]:
            db = dz.sum(0)
        return dx, dw, db, None, None, None, None


def _dots(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)  # a batched product of single rows takes nine times as long on a CPU


def added(z: Tensor, x: Tensor, found: "Perturbation", watch: "SecondPass", bias: Tensor | None) -> Tensor:
    """``z`` + Σ_i c_i d_i (a_i · x) over the group, and the bias's own perturbation.

    Args:
        z: ``(rows, ..., outputs)`` with the weights at w.
        x: ``(examples, positions, inputs)``.
        found: what is added to the weight.
        watch: the pass.
        bias: if it is perturbed.
    """
    factors, groups = found.factors, watch.groups
    assert factors is not None
    assert found.c is not None
    a, d, c = factors.a.to(x.dtype), factors.d.to(x.dtype), found.c.to(x.dtype)
    if groups.m == 1 and a.shape[1] == x.shape[1] == 1:
        alpha = torch.linalg.vecdot(x, a) * c[:, None]
        z = torch.addcmul(z, d.reshape(z.shape), over(alpha.flatten(), z.ndim))
    else:
        parts = []
        for xs, a_, d_, c_ in zip(*(groups.split(t) for t in (x, a, d, c)), strict=True):
            along = (xs.flatten(1, 2) @ a_.flatten(1, 2).mT) * c_[:, :1, None]
            parts.append((along @ d_.flatten(1, 2)).unflatten(1, xs.shape[1:3]))
        z = z + groups.join(parts).view(z.shape)
    if bias is None:
        return z
    moved = (watch.constant(bias) - bias.detach()).to(z.dtype)
    return z + over(groups.spread(moved, len(z)), z.ndim)


class _Grouped(torch.autograd.Function):
    """x Wⱼᵀ + bⱼ for the rows of each group; the gradients of W and b are those of one product over all rows."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        weights: Tensor,
        biases: Tensor | None,
        groups: Groups,
    ) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.groups = groups
        if bias is not None and biases is None:
            biases = bias.detach().expand(groups.count, -1)
        found = []
        for rows, w, chosen in zip(groups.split(x), groups.of_groups(weights), groups.parts, strict=True):
            flat = rows.flatten(1, -2)
            z = flat @ w.mT if biases is None else torch.baddbmm(biases[chosen[0]].unsqueeze(1), flat, w.mT)
            found.append(z)
        return groups.join(found).view(*x.shape[:-1], -1).data  # a view made in here couldn't be written to

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:  # type: ignore[override]
        x, weights = ctx.saved_tensors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            parts = zip(ctx.groups.split(d), ctx.groups.of_groups(weights), strict=True)
            dx = ctx.groups.join([rows.flatten(1, -2) @ w for rows, w in parts]).view(x.shape)
        if ctx.needs_input_grad[1]:
            dw = d.flatten(0, -2).T @ x.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            db = d.flatten(0, -2).sum(0)
        return dx, dw, db, None, None, None


class _Kept(torch.autograd.Function):
    """``keeps`` · x Wᵀ, where the weights used are ``keeps`` · W: the gradient of W is as at any weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, keeps: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight.detach(), keeps)  # in backward, too, uses of a parameter would be seen
        return F.linear(x, weight).mul_(keeps)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:  # type: ignore[override]
        x, weight, keeps = ctx.saved_tensors
        dx = (d * keeps) @ weight if ctx.needs_input_grad[0] else None
        dw = d.flatten(0, -2).T @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return dx, dw, None
