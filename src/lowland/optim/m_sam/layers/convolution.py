"""Convolutions of one, two and three dimensions: fully connected layers of patches."""

from itertools import starmap
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.gradients import Built, Factors, Piece
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.layers.geometry import Geometry
from lowland.optim.m_sam.layers.linear import autocast
from lowland.optim.m_sam.layers.patches import Patches, flat, pixel_products, products_of_patches, sums_of_positions
from lowland.optim.m_sam.layout import as_plain
from lowland.optim.m_sam.perturbation import Products
from lowland.optim.m_sam.registry import rule
from lowland.optim.m_sam.rule import AtPerturbed, AtW, Rule, Use
from lowland.values import Context


@rule(F.conv1d, F.conv2d, F.conv3d)
class Convolution(Rule):
    """Small images go by pairs of positions; larger ones as a grouped convolution, each group with its own weights."""

    arguments: ClassVar[tuple[str, ...]] = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    defaults: ClassVar = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}

    def geometry(self, use: Use) -> Geometry:
        """How it goes over its input."""
        return Geometry(use)

    def refuses(self, use: Use) -> str | None:
        """Refuse single images, which have no rows."""
        return "no rows" if use.input.ndim != use.weight.ndim else None

    def first(self, use: Use, watch: AtW) -> Tensor:
        """The plain convolution, whose output gradients are taken up."""
        geometry = self.geometry(use)
        at_w = use.at_w()
        x, w, b = autocast(geometry.prepared(use.input), at_w["weight"], at_w["bias"])
        return watch.tap(use, self._as_plain(geometry.run(x, w, b), use), x)

    def prepared(self, use: Use) -> Tensor:
        """The input as the convolution gets it: padded, and in autocast's type."""
        x: Tensor = autocast(self.geometry(use).prepared(use.input))[0]
        return x

    def pieces(self, use: Use, activations: Tensor, output_gradients: Tensor, groups: Groups) -> dict[str, Piece]:
        """As factors where pairs of positions are cheaper, else one weight gradient for each group."""
        geometry, shape = self.geometry(use), use.weight.shape
        bias: dict[str, Piece] = (
            {"bias": Built(groups.sums(output_gradients.flatten(2).sum(2)))} if "bias" in use.owners else {}
        )
        if "weight" not in use.owners:
            return bias
        if geometry.groups == 1 and not geometry.transposed and len(shape) <= 4:
            patches = Patches(activations, output_gradients, geometry, groups.size)
            if patches.pays(groups):
                return {"weight": patches} | bias
        if geometry.is_product:
            both = activations, output_gradients
            factors = Factors(*(t.flatten(2).mT.reshape(groups.size, -1, t.shape[1]) for t in both))
            return {"weight": factors.build(groups, shape)} | bias
        parts = zip(groups.split(activations), groups.split(output_gradients), groups.parts, strict=True)
        stacks = [_weight_gradients(geometry, x, dz, count, shape) for x, dz, (_, count, _) in parts]
        return {"weight": Built(stacks[0] if len(stacks) == 1 else torch.cat(stacks), owned=True)} | bias

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The plain convolution and what is added, or each group with its own weights."""
        geometry = self.geometry(use)
        x, w, b = autocast(geometry.prepared(use.input), use.weight, use.bias)
        groups = watch.groups
        found = watch.factors(use.weight)
        bias = None if use.bias is None or use.bias not in watch.perturbations else use.bias
        if found is not None and isinstance(found.factors, Patches):
            z = _PairwiseConvolution.apply(x, w, Products.of(found, x.dtype, groups), geometry)
        elif use.weight in watch.perturbations:
            if x.dtype.itemsize < use.weight.dtype.itemsize:
                e = watch.moved(use.weight, x.dtype)
                z = geometry.run(x, w) + _ConvolutionByGroup.apply(x, w.detach(), e, groups, geometry)
            else:
                z = _ConvolutionByGroup.apply(x, w, watch.constant(use.weight), groups, geometry)
        else:
            z = geometry.run(x, w)
        if b is not None:
            rows = watch.rows(bias, len(z)).to(z.dtype) if bias is not None else b
            z = z + rows.view(*rows.shape, *[1] * len(geometry.size))
        return self._as_plain(z, use)

    def _as_plain(self, z: Tensor, use: Use) -> Tensor:
        return as_plain(z, use.func, *(use.arguments[name] for name in self.arguments))


@rule(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
class TransposedConvolution(Convolution):
    """As a grouped convolution, each group with its own weights."""

    arguments: ClassVar = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    defaults: ClassVar = Convolution.defaults | {"output_padding": 0}

    def geometry(self, use: Use) -> Geometry:
        """How it goes over its input."""
        return Geometry(use, transposed=True)


class _PairwiseConvolution(torch.autograd.Function):
    """The convolution with W + Σ_i c d_i a_iᵀ for each group, never built; the gradient of W is the plain one.

    a_i are the patches of the activations, d_i the output gradients and c the coefficients of `Products`.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, w: Tensor, added: Products, geometry: Geometry) -> Tensor:
        w = w.detach()
        a, d, c = added.activations, added.output_gradients, added.coefficients
        keeps, groups = added.keeps, added.groups
        ctx.save_for_backward(x, w, a, d, c)
        ctx.groups, ctx.geometry = groups, geometry
        ctx.keeps = None if keeps is None else groups.spread(keeps, len(x)).view(-1, *[1] * (x.ndim - 1))
        z = geometry.run(x, w)
        z = z if keeps is None else z.mul_(ctx.keeps)
        parts = (groups.split(t) for t in (z, x, a, d))
        for z_, x_, a_, d_, c_ in zip(*parts, groups.of_groups(c), strict=True):
            pairs = products_of_patches(a_, x_, geometry).mul_(c_[:, None, None]).to(x.dtype)
            _add_product(z_, d_.flatten(1, 2).mT, pairs)
        return z

    @staticmethod
    def backward(ctx: Context, dz: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, w, a, d, c = ctx.saved_tensors
        groups, geometry = ctx.groups, ctx.geometry
        needed = ctx.needs_input_grad[:2]
        if ctx.keeps is None:
            dx, dw = geometry.derivatives(dz, x, w, needed)
        else:
            dx = geometry.derivatives(dz * ctx.keeps, x, w, (True, False))[0] if needed[0] else None
            dw = geometry.derivatives(dz, x, w, (False, True))[1] if needed[1] else None
        if needed[0]:
            parts = (groups.split(t) for t in (dx, dz, a, d))
            for dx_, dz_, a_, d_, c_ in zip(*parts, groups.of_groups(c), strict=True):
                pairs = pixel_products(d_.flatten(1, 2), flat(dz_)).mul_(c_[:, None, None])
                pairs = sums_of_positions(pairs, tuple(x.shape[2:]), geometry).to(x.dtype)
                _add_product(dx_, flat(a_), pairs)
        return dx, dw, None, None


def _channels_last(rows: Tensor) -> bool:
    """Whether ``(groups, rows, channels, *pixels)`` lie so in memory, and not with the pixels last."""
    return rows.movedim(2, -1).is_contiguous() and not rows.is_contiguous()


def _add_product(to: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left``, ``(groups, channels, n)``, times ``right``, ``(groups, n, rows · pixels)``, in memory's order.

    ``to`` is ``(groups, rows, channels, *pixels)``.
    """
    if _channels_last(to):
        to.movedim(2, -1).view(len(to), -1, to.shape[2]).baddbmm_(right.mT, left.mT)
    elif to.shape[1] == 1 and to.is_contiguous():
        to.view(len(to), to.shape[2], -1).baddbmm_(left, right)
    else:
        found = torch.bmm(left, right)
        to += found.view(len(to), to.shape[2], to.shape[1], *to.shape[3:]).transpose(1, 2)


def _each_row(weights: Tensor, rows: Tensor) -> Tensor:
    """``(groups, *shape)``, repeated for the rows of each group, one below the other."""
    return weights.unsqueeze(1).expand(-1, rows.shape[1], *weights.shape[1:]).flatten(0, 2)


# Groups of up to so many images are computed image by image, as one grouped convolution; larger ones one by one.
FEW = 2


def _weight_gradients(geometry: Geometry, x: Tensor, d: Tensor, count: int, shape: torch.Size) -> Tensor:
    rows = x.shape[1]
    if rows > FEW:  # side by side they would have to be copied
        like = x.new_empty(shape)
        return torch.stack(
            [geometry.derivatives(dz, its, like, (False, True))[1] for dz, its in zip(d, x, strict=True)]
        )
    like = x.new_empty(count * rows * shape[0], *shape[1:])
    x, d = (t.flatten(0, 2).unsqueeze(0) for t in (x, d))
    each = geometry.derivatives(d, x, like, (False, True), count * rows)[1].view(count, rows, *shape)
    return each[:, 0] if rows == 1 else each.sum(1)


def _products(weights: Tensor, rows: Tensor) -> Tensor:
    """``(groups, outputs, inputs)`` times the channels of ``(groups, rows, inputs, *pixels)``, laid out like these."""
    if _channels_last(rows):
        by_pixel = rows.movedim(2, -1)
        found = torch.bmm(by_pixel.flatten(1, -2), weights.mT)
        return found.view(*by_pixel.shape[:-1], -1).movedim(-1, 2)
    if rows.shape[1] == 1:
        return torch.bmm(weights, rows.flatten(1, 2).flatten(2)).view(len(rows), 1, -1, *rows.shape[3:])
    return (weights.unsqueeze(1) @ rows.flatten(3)).unflatten(3, rows.shape[3:])


class _ConvolutionByGroup(torch.autograd.Function):
    """Each group of rows with its own weights; the gradient of the weight is that of one convolution of all rows."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, stack: Tensor, groups: Groups, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight, stack)
        ctx.groups, ctx.geometry = groups, geometry

        def run(rows: Tensor, weights: Tensor) -> Tensor:
            if geometry.is_product:
                return _products(weights.flatten(2), rows)
            if rows.shape[1] > FEW:
                return torch.stack([geometry.run(r, w) for r, w in zip(rows, weights, strict=True)])
            z = geometry.run(
                rows.flatten(0, 2).unsqueeze(0), _each_row(weights, rows), None, rows.shape[0] * rows.shape[1]
            )
            return z.view(*rows.shape[:2], -1, *z.shape[2:])

        parts = zip(groups.split(x), groups.of_groups(stack), strict=True)
        # Not as a view, which nobody could write to.
        return groups.join(list(starmap(run, parts))).data

    @staticmethod
    def backward(ctx: Context, d: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, stack = ctx.saved_tensors
        groups, geometry = ctx.groups, ctx.geometry
        dx = dw = None
        if ctx.needs_input_grad[0]:
            found = []
            for dz, rows, w in zip(groups.split(d), groups.split(x), groups.of_groups(stack), strict=True):
                if geometry.is_product:
                    found.append(_products(w.flatten(2).mT, dz))
                elif rows.shape[1] > FEW:
                    each = (geometry.derivatives(*given, (True, False))[0] for given in zip(dz, rows, w, strict=True))
                    found.append(torch.stack(list(each)))
                else:
                    side_by_side = (t.flatten(0, 2).unsqueeze(0) for t in (dz, rows))
                    of_rows = geometry.derivatives(
                        *side_by_side, _each_row(w, rows), (True, False), rows.shape[0] * rows.shape[1]
                    )[0]
                    found.append(of_rows.view(rows.shape))
            dx = groups.join(found)
        if ctx.needs_input_grad[1]:
            dw = geometry.derivatives(d, x, weight, (False, True))[1]
        return dx, dw, None, None, None
