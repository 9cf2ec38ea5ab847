"""Convolutions of one, two and three dimensions: fully connected layers of patches."""

from itertools import starmap
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.per_group.gradients import Built, Factors, Piece, pairwise_pays
from lowland.optim.per_group.groups import Groups
from lowland.optim.per_group.linear import added, autocast
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

    @property
    def unfolds(self) -> bool:
        """Whether patches can be taken out."""
        return self.groups == 1 and len(self.size) <= 2

    @property
    def is_product(self) -> bool:
        """Whether a patch is a pixel."""
        return self.groups == 1 and set(self.size) == {1} and not any(self.padding)

    def patches(self, x: Tensor) -> Tensor:
        """``(rows, channels, *pixels)`` to ``(rows, positions, channels · kernel)``."""
        if self.is_product:
            chosen = (slice(None), slice(None), *(slice(None, None, s) for s in self.stride))
            return x[chosen].flatten(2).mT
        if len(self.size) == 1:
            sizes = [(before, *given) for before, given in zip((1, 1, 0, 1), self._sizes, strict=True)]
            return F.unfold(x.unsqueeze(2), *sizes).mT
        return F.unfold(x, *self._sizes).mT

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
        x, geometry = self._padded(use)
        x, w, b = autocast(x, use.weight.detach(), None if use.bias is None else use.bias.detach())
        return watch.tap(use, geometry.run(x, w, b), x)

    def _padded(self, use: Use) -> tuple[Tensor, _Geometry]:
        geometry = _Geometry(use)
        return F.pad(use.input, geometry.before) if geometry.before else use.input, geometry

    def pieces(self, use: Use, a: Tensor, d: Tensor, groups: Groups) -> dict[str, Piece]:
        """Factors where pairs of positions are cheaper."""
        geometry, shape = _Geometry(use), use.weight.shape
        bias: dict[str, Piece] = {"bias": Built(groups.sums(d.flatten(2).sum(2)))} if "bias" in use.owners else {}
        if "weight" not in use.owners:
            return bias
        positions, inputs = d[0, 0].numel() * (len(a) // groups.size), shape[1:].numel()
        if geometry.unfolds:
            cheap = pairwise_pays(positions, inputs, shape[0], groups)
            if cheap or geometry.is_product:
                factors = Factors(
                    geometry.patches(a).reshape(groups.size, -1, inputs),
                    d.flatten(2).mT.reshape(groups.size, -1, shape[0]),
                )
                return {"weight": factors if cheap else factors.build(groups, shape)} | bias
        parts = zip(groups.split(a), groups.split(d), groups.parts, strict=True)
        stacks = [_weight_gradients(geometry, x, dz, count, shape) for x, dz, (_, count, _) in parts]
        return {"weight": Built(stacks[0] if len(stacks) == 1 else torch.cat(stacks), owned=True)} | bias

    def perturbed(self, use: Use, watch: "SecondPass") -> Tensor:
        """Plain and what is added, or each group with its own weights."""
        x, geometry = self._padded(use)
        x, w, b = autocast(x, use.weight, use.bias)
        groups = watch.groups
        found = watch.factors(use.weight)
        bias = None if use.bias is None or use.bias not in watch.perturbations else use.bias
        if found is not None and found.keeps is None and geometry.unfolds:
            z = geometry.run(x, w, None if bias is not None else b)
            patches = geometry.patches(x)
            flat = z.flatten(2).mT
            patches = patches.reshape(groups.size, -1, patches.shape[2])
            z = added(flat, patches, found, watch, None).mT.unflatten(2, z.shape[2:])
            b = b if bias is not None else None
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


def _side_by_side(rows: Tensor) -> Tensor:
    """``(groups, rows, channels, ...)`` to ``(rows, groups · channels, ...)``."""
    return rows.transpose(0, 1).flatten(1, 2)


def _apart(rows: Tensor, count: int) -> Tensor:
    """The inverse."""
    return rows.unflatten(1, (count, -1)).transpose(0, 1)


def _weight_gradients(geometry: _Geometry, x: Tensor, d: Tensor, count: int, shape: torch.Size) -> Tensor:
    if x.shape[1] > 1:  # side by side they would have to be copied
        like = x.new_empty(shape)
        return torch.stack(
            [geometry.derivatives(dz, rows, like, (False, True))[1] for dz, rows in zip(d, x, strict=True)]
        )
    like = x.new_empty(count * shape[0], *shape[1:])
    x, d = _side_by_side(x), _side_by_side(d)
    return geometry.derivatives(d, x, like, (False, True), count)[1].view(count, *shape)


class _Grouped(torch.autograd.Function):
    """Each group of rows with its own weights; the gradient of the weight is that of one convolution of all rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stack: Tensor, groups: Groups, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(x, stack)
        ctx.groups, ctx.geometry = groups, geometry

        def run(rows: Tensor, weights: Tensor, count: int) -> Tensor:
            if geometry.is_product:
                patches = rows[(slice(None),) * 3 + tuple(slice(None, None, s) for s in geometry.stride)]
                if rows.shape[1] == 1:
                    return torch.bmm(weights.flatten(2), patches.flatten(1, 2).flatten(2)).view(
                        count, 1, -1, *patches.shape[3:]
                    )
                z = weights.flatten(2).unsqueeze(1) @ patches.flatten(3)
                return z.unflatten(3, patches.shape[3:])
            if rows.shape[1] > 1:
                return torch.stack([geometry.run(r, w) for r, w in zip(rows, weights, strict=True)])
            return _apart(geometry.run(_side_by_side(rows), weights.flatten(0, 1), None, count), count)

        parts = zip(groups.split(x), groups.of_groups(stack), groups.parts, strict=True)
        # Not as a view, which nobody could write to.
        return groups.join(list(starmap(lambda r, w, part: run(r, w, part[1]), parts))).data

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:  # type: ignore[override]
        x, stack = ctx.saved_tensors
        groups, geometry = ctx.groups, ctx.geometry
        dx = dw = None
        if ctx.needs_input_grad[0]:
            found = []
            parts = zip(groups.split(d), groups.split(x), groups.of_groups(stack), groups.parts, strict=True)
            for dz, rows, w, (_, count, _) in parts:
                if dz.shape[1] > 1:
                    each = (geometry.derivatives(*given, (True, False))[0] for given in zip(dz, rows, w, strict=True))
                    found.append(torch.stack(list(each)))
                    continue
                flat = (_side_by_side(dz), _side_by_side(rows), w.flatten(0, 1))
                found.append(_apart(geometry.derivatives(*flat, (True, False), count)[0], count))
            dx = groups.join(found)
        if ctx.needs_input_grad[1]:
            dw = geometry.derivatives(d, x, stack[0], (False, True))[1]
        return dx, dw, None, None, None
