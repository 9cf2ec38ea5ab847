"""Fully connected layers: z = W a + b, at one position or many."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.gradients import Built, Factors, Piece
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.perturbation import Perturbation, Products
from lowland.optim.m_sam.registry import rule
from lowland.optim.m_sam.rows import over
from lowland.optim.m_sam.rule import AtPerturbed, AtW, Rule, Use
from lowland.values import Args, Context


@rule(F.linear)
class Linear(Rule):
    """The weight's gradient is Σ d aᵀ over the positions; an example's own weights add s d (a · a')."""

    by_row = True
    #: Whether the weight is written ``(inputs, outputs)``.
    turned: ClassVar[bool] = False

    def matrix(self, weight: Tensor) -> Tensor:
        """One weight, or those of all groups, as ``(..., outputs, inputs)``."""
        return weight.mT if self.turned else weight

    def refuses(self, use: Use) -> str | None:
        """Refuse single vectors, which have no rows."""
        return "no rows" if use.input.ndim < 2 else None

    def leading(self, use: Use) -> int:
        """All dimensions but the last."""
        return use.input.ndim - 1

    def first(self, use: Use, watch: AtW) -> Tensor:
        """The plain product, whose output gradients are taken up."""
        at_w = use.at_w()
        x, w, b = autocast(use.input, self.matrix(at_w["weight"]), at_w["bias"])
        flat = x.flatten(0, -2)  # with more dimensions the output would be a view, whose gradient is copied
        use.leading = x.shape[:-1]
        return watch.tap(use, F.linear(flat, w, b), flat).view(*x.shape[:-1], -1)

    def prepared(self, use: Use) -> Tensor:
        """The input in autocast's type."""
        x: Tensor = autocast(use.input)[0]
        return x

    def pieces(self, use: Use, activations: Tensor, output_gradients: Tensor, groups: Groups) -> dict[str, Piece]:
        """As factors where pairs of positions are cheaper, else one weight gradient for each group."""
        a, d = by_example(activations, groups), by_example(output_gradients, groups)
        found: dict[str, Piece] = {}
        if "weight" in use.owners:
            factors = Factors(d, a) if self.turned else Factors(a, d)
            found["weight"] = factors if factors.pays(groups) else factors.build(groups, use.weight.shape)
        if "bias" in use.owners:
            alone = groups.m == a.shape[1] == 1
            found["bias"] = Built(d.flatten(0, 1) if alone else groups.sums(d.sum(1)), owned=not alone, terms=d)
        return found

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The plain product and what is added, or each group with weights written out."""
        x, w, b = autocast(use.input, self.matrix(use.weight), use.bias)
        groups = watch.groups
        found = watch.factors(use.weight)
        bias = None if use.bias is None or use.bias not in watch.perturbations else use.bias
        if found is None and use.weight in watch.perturbations:
            if x.dtype.itemsize < use.weight.dtype.itemsize:
                moved = None if bias is None else watch.moved(bias, x.dtype)
                e = self.matrix(watch.moved(use.weight, x.dtype))
                return F.linear(x, w, b) + _LinearByGroup.apply(x, w.detach(), None, e, moved, groups)
            biases = None if bias is None else watch.constant(bias)
            return _LinearByGroup.apply(x, w, b, self.matrix(watch.constant(use.weight)), biases, groups)
        if found is not None:
            return pairwise(x, w, b, found, watch, bias, self.turned)
        z = F.linear(x, w)
        if b is None:
            return z
        return z + (b if bias is None else over(watch.rows(bias, len(x)).to(z.dtype), z.ndim))


def autocast(x: Tensor, *others: Tensor | None) -> Args:
    """``x`` and ``others``, which may be None, as autocast would give them to a product."""
    device, tensors = x.device.type, (x, *others)
    if not torch.is_autocast_enabled(device):
        return tensors
    to = torch.get_autocast_dtype(device)
    return tuple(
        t.to(to) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors
    )


def by_example(rows: Tensor, groups: Groups) -> Tensor:
    """``(rows, ..., features)`` as ``(examples, positions, features)``."""
    return rows.reshape(groups.size, -1, rows.shape[-1])


def pairwise(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    found: Perturbation,
    watch: AtPerturbed,
    bias: Tensor | None,
    turned: bool = False,
) -> Tensor:
    """The layer with each group's own weights, never built.

    Args:
        x: ``(rows, ..., inputs)``.
        w: at w.
        b: at w, or None.
        found: what is added to the weight.
        watch: the pass.
        bias: the parameter, if it is perturbed.
        turned: whether inputs and outputs have changed places in ``found``.
    """
    added = Products.of(found, x.dtype, watch.groups)
    if turned:
        added = replace(added, activations=added.output_gradients, output_gradients=added.activations)
    moved = None
    if bias is not None:
        its = watch.perturbations[bias]
        d = None if found.factors is None else found.factors.kept if turned else found.factors.output_gradients
        alike = d is not None and its.terms is d
        if alike and its.coefficients is not None and added.keeps is None and x.dtype.itemsize > 2:
            added = replace(added, shift=its.coefficients.to(x.dtype))
        else:
            moved = watch.moved(bias, x.dtype)
    z: Tensor = _PairwiseLinear.apply(x, w, b, added)
    return z if moved is None else z + over(watch.groups.spread(moved, len(z)), z.ndim)


class _PairwiseLinear(torch.autograd.Function):
    """``keeps`` · W x + b + Σ_i d_i (c a_i · x + shift), over the group; gradients of W and b are plain.

    a_i, d_i and c are activations, output gradients and coefficients of `Products`.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, w: Tensor, b: Tensor | None, added: Products) -> Tensor:
        w, b = w.detach(), None if b is None else b.detach()  # in backward, too, uses of a parameter would be seen
        a, d, c = added.activations, added.output_gradients, added.coefficients
        keeps, groups = added.keeps, added.groups
        ctx.save_for_backward(x, w, a, d, c, keeps)
        ctx.groups = groups
        if keeps is None:
            z = F.linear(x, w, b)
        else:
            z = F.linear(x, w).mul_(over(groups.spread(keeps, len(x)), x.ndim))
            z = z if b is None else z.add_(b)
        _add_pairs(z, x, a, d, c, added.shift, groups)
        return z.data if z._is_view() else z  # a view made in here couldn't be written to

    @staticmethod
    def backward(ctx: Context, dz: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, w, a, d, c, keeps = ctx.saved_tensors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            kept = dz if keeps is None else dz * over(ctx.groups.spread(keeps, len(dz)), dz.ndim)
            dx = kept @ w
            _add_pairs(dx, dz, d, a, c, None, ctx.groups)
        if ctx.needs_input_grad[1]:
            dw = dz.flatten(0, -2).T @ x.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            db = dz.flatten(0, -2).sum(0)
        return dx, dw, db, None


def _add_pairs(z: Tensor, x: Tensor, a: Tensor, d: Tensor, c: Tensor, shift: Tensor | None, groups: Groups) -> None:
    """``z`` += Σ_i d_i (c a_i · x + shift), over the group, as `_PairwiseLinear` has them."""
    if groups.m == a.shape[1] == 1 and x.ndim == 2 and len(x) == groups.size:
        along = _dots(a.flatten(1), x) * c
        z.addcmul_(d.flatten(1), (along if shift is None else along.add_(shift))[:, None])
        return
    x, z = by_example(x, groups), z.view(groups.size, -1, z.shape[-1])
    shifts = None if shift is None else groups.of_groups(shift)
    parts = zip(*(groups.split(t) for t in (z, x, a, d)), groups.of_groups(c), strict=True)
    for i, (z_, x_, a_, d_, c_) in enumerate(parts):
        along = torch.bmm(x_.flatten(1, 2), a_.flatten(1, 2).mT).mul_(c_[:, None, None])
        if shifts is not None:
            along.add_(shifts[i][:, None, None])
        z_.view(len(c_), -1, z_.shape[-1]).baddbmm_(along, d_.flatten(1, 2))


def _dots(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)  # a batched product of single rows takes nine times as long on a CPU


class _LinearByGroup(torch.autograd.Function):
    """x Wⱼᵀ + bⱼ for the rows of each group; the gradients of W and b are those of one product over all rows."""

    @staticmethod
    def forward(
        ctx: Context,
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
    def backward(ctx: Context, d: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
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
