"""Pairs of patches without taking any out: sums of products of pixels, and the transpose of those sums."""

import math

import torch
from torch import Tensor

from lowland.optim.m_sam.gradients import Factors
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.layers.geometry import Geometry


class Patches(Factors):
    """Those of a convolution: products of patches are sums of products of pixels, so that no patches are taken out.

    Args:
        x: input, ``(rows, channels, *pixels)``.
        output_gradients: ``(rows, channels, *pixels)``.
        geometry: of the convolution.
        size: examples.
    """

    def __init__(self, x: Tensor, output_gradients: Tensor, geometry: Geometry, size: int):
        self.x, self.geometry = x, geometry
        self.output_gradients = output_gradients.flatten(2).mT.reshape(size, -1, output_gradients.shape[1])

    @property
    def activations(self) -> Tensor:  # type: ignore[override]
        """The patches, taken out for what is rarely asked for."""
        return self.geometry.patches(self.x).reshape(*self.output_gradients.shape[:2], -1)

    @property
    def inputs(self) -> int:
        """How many activations a patch has."""
        return self.x.shape[1] * math.prod(self.geometry.size)

    @property
    def kept(self) -> Tensor:
        """The input, from which the patches are taken."""
        return self.x

    @property
    def rate(self) -> float:  # type: ignore[override]
        """As `Factors.rate`: convolutions side by side have few channels each, and are copied to and fro."""
        return 1 if self.geometry.is_product else 4

    def gram(self, rows: Tensor, others: Tensor) -> Tensor:
        """Products of all pairs of patches, without taking them out."""
        return products_of_patches(rows, others, self.geometry)

    def cost(self, groups: Groups, memory: bool = True) -> float:
        """As `Factors.cost`: three times the products of pixels and of gradients, and the sums between."""
        pixels = math.prod(self.x.shape[2:]) * len(self.x) // groups.size * groups.m
        r, channels, outputs = self.positions * groups.m, self.x.shape[1], self.output_gradients.shape[2]
        numbers = r * r if self.geometry.is_product else _numbers(self.x, self.geometry) * groups.m**2
        flops = 6 * (pixels**2 * channels + r * r * outputs) + memory * 3 * FLOPS_PER_SUM * numbers
        return float(groups.count * flops)


# A number in sums over short rows takes as long as this many multiplications.
FLOPS_PER_SUM = 60


def _numbers(x: Tensor, geometry: Geometry) -> int:
    """Additions in `products_of_patches` for one image with itself."""
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


def pixel_products(a: Tensor, b: Tensor) -> Tensor:
    """In float32 at least: sums over offsets follow."""
    return torch.bmm(a, b).to(torch.promote_types(a.dtype, torch.float32))


def products_of_patches(rows: Tensor, others: Tensor, geometry: Geometry) -> Tensor:
    """Of all pairs of patches: sums over offsets in the kernel of the products of the pixels there.

    Args:
        rows: whose patches come first, ``(groups, rows, channels, *pixels)``.
        others: the same.
        geometry: of the convolution.

    Returns:
        ``(groups, rows · positions, rows · positions)``.
    """
    found = pixel_products(flat(rows).mT, flat(others))
    found = found.view(len(rows), rows.shape[1], *rows.shape[3:], others.shape[1], *others.shape[3:])
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


def sums_of_positions(products: Tensor, pixels: tuple[int, ...], geometry: Geometry) -> Tensor:
    """The transpose of `products_of_patches`, for products of one group's positions with themselves.

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
