"""Convolutions of one, two and three dimensions: fully connected layers of patches."""

import math
from itertools import starmap
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.per_group.gradients import Built, Factors, Piece
from lowland.optim.per_group.groups import Groups
from lowland.optim.per_group.linear import autocast
from lowland.optim.per_group.registry import Rule, Use, laid_out, rule

if TYPE_CHECKING:
    from lowland.optim.per_group.passes import FirstPass, SecondPass

_DERIVATIVES = torch.ops.aten.convolution_backward.default


class _Geometry:
    """Stride, padding and dilation, one for each dimension, and groups of channels."""

    def __init__(self, use: Use):
        size = use.weight.shape[2:]
        self.size = tuple(size)
        self.stride, self.dilation = (_each(value, len(size)) for value in (use.stride, use.dilation))
        self.groups = use.groups
        #: Both sides of each dimension; `before` is what must be padded by hand.
        self.before: list[int] = []
        if use.padding == "same":
            whole = [d * (k - 1) for d, k in zip(self.dilation, size, strict=True)]
            self.padding = [p // 2 for p in whole]
            if any(p % 2 for p in whole):
                self.before = [p % 2 * i for p in reversed(whole) for i in (0, 1)]
        else:
            self.padding = [0] * len(size) if use.padding == "valid" else _each(use.padding, len(size))
        #: Of pixels that no patch looks at.
        self.skips = [1] * len(size)
        if self.is_product:
            self.skips, self.stride = self.stride, self.skips

    def prepared(self, x: Tensor) -> Tensor:
        """What the convolution is of: all that is needed of the input, and what is padded by hand."""
        if max(self.skips) > 1:
            x = x[(slice(None), slice(None), *(slice(None, None, s) for s in self.skips))].contiguous()
        return F.pad(x, self.before) if self.before else x

    @property
    def is_product(self) -> bool:
        """Whether a patch is a pixel."""
        return self.groups == 1 and set(self.size) == {1} and not any(self.padding)

    def patches(self, x: Tensor) -> Tensor:
        """``(rows, channels, *pixels)`` to ``(rows, positions, channels · kernel)``."""
        if len(self.size) == 1:
            sizes = [(before, *given) for before, given in zip((1, 1, 0, 1), self._sizes, strict=True)]
            return F.unfold(x.unsqueeze(2), *sizes).mT
        return F.unfold(x, *self._sizes).mT

    def lengths(self, i: int, pixels: int) -> tuple[int, int]:
        """Along dimension ``i``: of the padded input, and of the output."""
        padded = pixels + 2 * self.padding[i]
        return padded, (padded - self.dilation[i] * (self.size[i] - 1) - 1) // self.stride[i] + 1

    def steps(self, i: int, offset: int, positions: int) -> slice:
        """The pixels at one offset in the kernel, for all positions along dimension ``i``."""
        start = offset * self.dilation[i]
        return slice(start, start + (positions - 1) * self.stride[i] + 1, self.stride[i])

    @property
    def _sizes(self) -> tuple[tuple[int, ...], ...]:
        return self.size, tuple(self.dilation), tuple(self.padding), tuple(self.stride)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, copies: int = 1) -> Tensor:
        """The convolution, ``copies`` of it side by side."""
        zeros = [0] * len(self.size)
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, False, zeros, copies * self.groups
        )

    def derivatives(
        self, d: Tensor, x: Tensor, weight: Tensor, which: tuple[bool, bool], copies: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Of input and weight."""
        zeros = [0] * len(self.size)
        dx, dw, _ = _DERIVATIVES(
            d, x, weight, None, self.stride, self.padding, self.dilation, False, zeros, copies * self.groups,
            [*which, False],
        )  # fmt: skip
        return dx, dw


def _each(value: Any, count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


@rule(F.conv1d, F.conv2d, F.conv3d)
class Convolution(Rule):
    """Small images go by pairs of positions; larger ones as a grouped convolution, each group with its own weights."""

    arguments: ClassVar = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    defaults: ClassVar = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}

    def refuses(self, use: Use) -> str | None:
        """Single images have no rows."""
        return "no rows" if use.input.ndim != use.weight.ndim else None

    def first(self, use: Use, watch: "FirstPass") -> Tensor:
        """Plain, tapped."""
        geometry = _Geometry(use)
        x, w, b = autocast(
            geometry.prepared(use.input), use.weight.detach(), None if use.bias is None else use.bias.detach()
        )
        return watch.tap(use, geometry.run(x, w, b), x)

    def prepared(self, use: Use) -> Tensor:
        """See `Rule`."""
        x: Tensor = autocast(_Geometry(use).prepared(use.input))[0]
        return x

    def pieces(self, use: Use, a: Tensor, d: Tensor, groups: Groups) -> dict[str, Piece]:
        """Factors where pairs of positions are cheaper."""
        geometry, shape = _Geometry(use), use.weight.shape
        bias: dict[str, Piece] = {"bias": Built(groups.sums(d.flatten(2).sum(2)))} if "bias" in use.owners else {}
        if "weight" not in use.owners:
            return bias
        if geometry.groups == 1 and len(shape) <= 4:
            patches = Patches(a, d, geometry, groups.size)
            if patches.pays(groups):
                return {"weight": patches} | bias
        if geometry.is_product:
            factors = Factors(*(t.flatten(2).mT.reshape(groups.size, -1, t.shape[1]) for t in (a, d)))
            return {"weight": factors.build(groups, shape)} | bias
        parts = zip(groups.split(a), groups.split(d), groups.parts, strict=True)
        stacks = [_weight_gradients(geometry, x, dz, count, shape) for x, dz, (_, count, _) in parts]
        return {"weight": Built(stacks[0] if len(stacks) == 1 else torch.cat(stacks), owned=True)} | bias

    def perturbed(self, use: Use, watch: "SecondPass") -> Tensor:
        """Plain and what is added, or each group with its own weights."""
        geometry = _Geometry(use)
        x, w, b = autocast(geometry.prepared(use.input), use.weight, use.bias)
        groups = watch.groups
        found = watch.factors(use.weight)
        bias = None if use.bias is None or use.bias not in watch.perturbations else use.bias
        if found is not None and isinstance(found.factors, Patches):
            c, keeps = (None if t is None else t.to(x.dtype) for t in (found.c, found.keeps))
            z = _Pairwise.apply(x, w, found.factors, c, keeps, groups, geometry)
        elif use.weight in watch.perturbations:
            if x.dtype.itemsize < use.weight.dtype.itemsize:
                e = watch.moved(use.weight, x.dtype)
                z = geometry.run(x, w) + _Grouped.apply(x, w.detach(), e, groups, geometry)
            else:
                z = _Grouped.apply(x, w, watch.constant(use.weight), groups, geometry)
        else:
            z = geometry.run(x, w)
        z = laid_out(z, x)
        if b is None:
            return z
        rows = watch.rows(bias, len(z)).to(z.dtype) if bias is not None else b
        return z + rows.view(*rows.shape, *[1] * len(geometry.size))


class Patches(Factors):
    """Those of a convolution: products of patches are sums of products of pixels, so that no patches are taken out.

    Args:
        x: input, ``(rows, channels, *pixels)``.
        d: gradient at the output, ``(rows, channels, *pixels)``.
        geometry: of the convolution.
        size: examples.
    """

    def __init__(self, x: Tensor, d: Tensor, geometry: _Geometry, size: int):
        self.x, self.geometry = x, geometry
        self.d = d.flatten(2).mT.reshape(size, -1, d.shape[1])

    @property
    def a(self) -> Tensor:  # type: ignore[override]
        """The patches, for what is rarely asked for."""
        return self.geometry.patches(self.x).reshape(*self.d.shape[:2], -1)

    @property
    def inputs(self) -> int:
        """See `Factors`."""
        return self.x.shape[1] * math.prod(self.geometry.size)

    @property
    def kept(self) -> Tensor:
        """See `Factors`."""
        return self.x

    @property
    def rate(self) -> float:  # type: ignore[override]
        """See `Factors`: convolutions side by side have few channels each, and are copied to and fro."""
        return 1 if self.geometry.is_product else 4

    def gram(self, rows: Tensor, others: Tensor) -> Tensor:
        """See `Factors`."""
        return sums_of_pixels(_product(flat(rows).mT, flat(others)), rows, others, self.geometry)

    def cost(self, groups: Groups, memory: bool = True) -> float:
        """See `Factors`: three times the products of pixels and of gradients, and the sums between."""
        pixels = math.prod(self.x.shape[2:]) * len(self.x) // groups.size * groups.m
        r, channels, outputs = self.positions * groups.m, self.x.shape[1], self.d.shape[2]
        numbers = r * r if self.geometry.is_product else _numbers(self.x, self.geometry) * groups.m**2
        flops = 6 * (pixels**2 * channels + r * r * outputs) + memory * 3 * FLOPS_PER_SUM * numbers
        return float(groups.count * flops)


# A number in sums over short rows takes as long as this many multiplications.
FLOPS_PER_SUM = 60


def _numbers(x: Tensor, geometry: _Geometry) -> int:
    """Additions in `sums_of_pixels` for one image with itself."""
    sizes, found = list(x.shape[2:]), 0
    for i in reversed(range(len(sizes))):
        padded, out = geometry.lengths(i, sizes[i])
        sizes[i] = padded
        found += math.prod(sizes) ** 2
        sizes[i] = out
        found += geometry.size[i] * math.prod(sizes) ** 2
    return found


def flat(rows: Tensor) -> Tensor:
    """``(groups, rows, channels, *pixels)`` to ``(groups, channels, rows · pixels)``."""
    return rows.transpose(1, 2).flatten(2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In float32 at least: sums over offsets follow."""
    return torch.bmm(a, b).to(torch.promote_types(a.dtype, torch.float32))


def sums_of_pixels(products: Tensor, rows: Tensor, others: Tensor, geometry: _Geometry) -> Tensor:
    """A · a' of patches: the sum over offsets in the kernel of the products of the pixels there.

    Args:
        products: of all pairs of pixels, ``(groups, rows · pixels, rows · pixels)``.
        rows: whose pixels come first, ``(groups, rows, channels, *pixels)``.
        others: the same.
        geometry: of the convolution.

    Returns:
        ``(groups, rows · positions, rows · positions)``.
    """
    found = products.view(len(rows), rows.shape[1], *rows.shape[3:], others.shape[1], *others.shape[3:])
    dims = len(geometry.size)
    for i in reversed(range(dims)):  # dimension by dimension
        at = (2 + i, 3 + dims + i)
        padded = _padded(found, at, geometry.padding[i])
        _, out = geometry.lengths(i, found.shape[at[0]])
        total = None
        for o in range(geometry.size[i]):
            chosen = padded[_at(at, geometry.steps(i, o, out))]
            total = chosen.clone() if total is None else total.add_(chosen)
        assert total is not None
        found = total
    return found.flatten(1, 1 + dims).flatten(2)


def sums_of_positions(products: Tensor, pixels: tuple[int, ...], geometry: _Geometry) -> Tensor:
    """The transpose of `sums_of_pixels`, for products of one group's positions with themselves.

    Args:
        products: ``(groups, rows · positions, rows · positions)``.
        pixels: their numbers.
        geometry: of the convolution.

    Returns:
        ``(groups, rows · pixels, rows · pixels)``.
    """
    dims = len(pixels)
    outs = [geometry.lengths(i, n)[1] for i, n in enumerate(pixels)]
    found = products.view(len(products), -1, *outs, products.shape[2] // math.prod(outs), *outs)
    for i in range(dims):
        at, (padded, out) = (2 + i, 3 + dims + i), geometry.lengths(i, pixels[i])
        shape = list(found.shape)
        shape[at[0]] = shape[at[1]] = padded
        total = found.new_zeros(shape)
        for o in range(geometry.size[i]):
            total[_at(at, geometry.steps(i, o, out))] += found
        p = geometry.padding[i]
        found = total[_at(at, slice(p, p + pixels[i]))]
    return found.flatten(1, 1 + dims).flatten(2)


def _at(dims: tuple[int, int], chosen: slice) -> tuple[slice, ...]:
    return tuple(chosen if i in dims else slice(None) for i in range(dims[1] + 1))


def _padded(t: Tensor, dims: tuple[int, int], by: int) -> Tensor:
    if not by:
        return t
    sizes = [n + 2 * by * (i in dims) for i, n in enumerate(t.shape)]
    padded = t.new_zeros(sizes)
    padded[_at(dims, slice(by, -by))] = t
    return padded


class _Pairwise(torch.autograd.Function):
    """The convolution with W + Σ_i c d_i a_iᵀ for each group, never built; the gradient of W is the plain one."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, its: Patches, c: Tensor, keeps: Tensor | None, groups: Groups, geometry: Any
    ) -> Tensor:
        w = w.detach()
        ctx.save_for_backward(x, w)
        ctx.its, ctx.c, ctx.groups, ctx.geometry = its, c, groups, geometry
        ctx.keeps = None if keeps is None else groups.spread(keeps, len(x)).view(-1, *[1] * (x.ndim - 1))
        z = geometry.run(x, w)
        z = z if keeps is None else z.mul_(ctx.keeps)
        parts = (groups.split(t) for t in (z, x, its.x.to(x.dtype), its.d.to(x.dtype)))
        for z_, x_, a, d, c_ in zip(*parts, groups.of_groups(c), strict=True):
            pairs = its.gram(a, x_).mul_(c_[:, None, None]).to(x.dtype)
            z_ += _maps(torch.bmm(d.flatten(1, 2).mT, pairs), z_)
        return z

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> Any:  # type: ignore[override]
        x, w = ctx.saved_tensors
        its, groups, geometry = ctx.its, ctx.groups, ctx.geometry
        needed = ctx.needs_input_grad[:2]
        if ctx.keeps is None:
            dx, dw = geometry.derivatives(dz, x, w, needed)
        else:
            dx = geometry.derivatives(dz * ctx.keeps, x, w, (True, False))[0] if needed[0] else None
            dw = geometry.derivatives(dz, x, w, (False, True))[1] if needed[1] else None
        if needed[0]:
            parts = (groups.split(t) for t in (dx, dz, its.x.to(x.dtype), its.d.to(x.dtype)))
            for dx_, dz_, a, d, c_ in zip(*parts, groups.of_groups(ctx.c), strict=True):
                pairs = _product(d.flatten(1, 2), flat(dz_)).mul_(c_[:, None, None])
                pairs = sums_of_positions(pairs, tuple(x.shape[2:]), geometry).to(x.dtype)
                dx_ += _maps(torch.bmm(flat(a), pairs), dx_)
        return dx, dw, None, None, None, None, None


def _maps(found: Tensor, like: Tensor) -> Tensor:
    """``(groups, channels, rows · pixels)`` to ``(groups, rows, channels, *pixels)``."""
    return found.view(len(like), like.shape[2], like.shape[1], *like.shape[3:]).transpose(1, 2)


def _each_row(weights: Tensor, rows: Tensor) -> Tensor:
    """``(groups, *shape)``, repeated for the rows of each group, one below the other."""
    return weights.unsqueeze(1).expand(-1, rows.shape[1], *weights.shape[1:]).flatten(0, 2)


# Groups of up to so many images are computed image by image, as one grouped convolution; larger ones one by one.
FEW = 2


def _weight_gradients(geometry: _Geometry, x: Tensor, d: Tensor, count: int, shape: torch.Size) -> Tensor:
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
    """``(groups, outputs, inputs)`` times the channels of ``(groups, rows, inputs, *pixels)``."""
    if rows.shape[1] == 1:
        return torch.bmm(weights, rows.flatten(1, 2).flatten(2)).view(len(rows), 1, -1, *rows.shape[3:])
    return (weights.unsqueeze(1) @ rows.flatten(3)).unflatten(3, rows.shape[3:])


class _Grouped(torch.autograd.Function):
    """Each group of rows with its own weights; the gradient of the weight is that of one convolution of all rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stack: Tensor, groups: Groups, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(x, stack)
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
    def backward(ctx: Any, d: Tensor) -> Any:  # type: ignore[override]
        x, stack = ctx.saved_tensors
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
            dw = geometry.derivatives(d, x, stack[0], (False, True))[1]
        return dx, dw, None, None, None
