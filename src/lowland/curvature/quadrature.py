"""The density of an operator's eigenvalues by stochastic Lanczos quadrature."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.checks import count, is_count, number
from lowland.curvature.estimates import Sampled, finite_product, mean_and_error, signs
from lowland.curvature.lanczos import Operator, check_operator
from lowland.curvature.vectors import euclidean_norm

_WIDTH = 1 / 200  # of the range of the nodes
_SPACING = 1 / 4  # of the grid, over the width
_TAIL = 4  # widths, beyond the outermost nodes
_FINEST = 10**6  # points of a grid
_ROUNDING = 32  # rounding units of the largest coefficient: a remainder below that is rounding of the product


@dataclass(frozen=True, repr=False)
class Spectrum:
    """How the eigenvalues of an operator are distributed: a share of 1/n for each, smoothed.

    Attributes:
        grid: where the density is, evenly spaced, shape ``(points,)``, float64 on the CPU.
        density: the share of the eigenvalues per unit of them, over ``grid``: each node is a normal density of standard
            deviation ``width``. Value and standard error ``(points,)``. The error doesn't see the smoothing.
        width: of the smoothing, in units of the eigenvalues. What lies closer together is not told apart.
        nodes: Ritz values of each sample, shape ``(samples, steps)``.
        weights: what share of the eigenvalues each stands for, shape ``(samples, steps)``; they add up to 1 in each
            sample. 0 where a sample ended early.
        size: n, how many eigenvalues the operator has.
        exact_moments: the largest p of which `moment` is free of error by the number of steps.
    """

    grid: Tensor
    density: Sampled[Tensor]
    width: float
    nodes: Tensor
    weights: Tensor
    size: int
    exact_moments: float

    def __repr__(self) -> str:
        """Range and cost, without tensors."""
        samples, steps = self.nodes.shape
        return (
            f"Spectrum({self.size} eigenvalues, nodes from {self.nodes.min().item():.4g} to "
            f"{self.nodes.max().item():.4g}, {samples} samples of {steps} steps, smoothed by {self.width:.2g})"
        )

    def moment(self, p: int) -> Sampled[float]:
        """The mean of λᵖ over all eigenvalues, tr(Hᵖ)/n, with its standard error over the samples.

        Each sample gives vᵀHᵖv for its random unit vector v, with no error by the quadrature: m steps of Lanczos give
        all moments up to 2m − 1.

        Raises:
            ValueError: for a p below 0, or above 2m − 1.
        """
        if not is_count(p, 0):
            raise ValueError(f"p must be an integer of at least 0, not {p!r}")
        if p > self.exact_moments:
            raise ValueError(
                f"{self.nodes.shape[1]} steps give moments up to {self.exact_moments:g}, not {p}: raise steps"
            )
        return self._sampled((self.weights * self.nodes**p).sum(1))

    def share_above(self, value: float) -> Sampled[float]:
        """The share of the eigenvalues above ``value``, not smoothed, with its standard error over the samples.

        A quadrature moves a share of the eigenvalues to each node, so that this may be off by the weight of one node.
        """
        number("value", value)
        return self._sampled((self.weights * (self.nodes > value)).sum(1))

    def on(self, grid: Tensor, width: float) -> Sampled[Tensor]:
        """The density at other points, ``(points,)``, with another smoothing.

        Raises:
            TypeError: for a grid that is no tensor.
            ValueError: for one that isn't ``(points,)``, or a width that isn't above 0.
        """
        if not isinstance(grid, Tensor):
            raise TypeError(f"grid must be a tensor, not a {type(grid).__name__}")
        if grid.dim() != 1 or not len(grid):
            raise ValueError(f"grid must be of shape (points,), not {tuple(grid.shape)}")
        _check_width(width)
        value, error = mean_and_error(_smoothed(self.nodes, self.weights, grid.to(self.nodes), width))
        return Sampled(value, error, len(self.nodes), self.density.products)

    def _sampled(self, values: Tensor) -> Sampled[float]:
        value, error = mean_and_error(values)
        return Sampled(value.item(), None if error is None else error.item(), len(values), self.density.products)


def spectrum(
    operator: Operator, samples: int = 10, steps: int = 80, *, width: float | None = None, seed: int = 0
) -> Spectrum:
    """The density of the eigenvalues by stochastic Lanczos quadrature.

    For a random unit vector v, the eigenvalues and the squares of the first entries of the eigenvectors of Lanczos'
    tridiagonal matrix are a Gauss quadrature of v's spectral measure, whose expectation is that of the operator: 1/n at
    each eigenvalue (Golub & Meurant 1994; Lin, Saad & Yang 2016, *Approximating Spectral Densities of Large Matrices*).
    For networks: Ghorbani, Krishnan & Xiao 2019, *An Investigation into Neural Net Optimization via Hessian Eigenvalue
    Density*, and Yao et al. 2020, *PyHessian*. Every vector is orthogonalized against all before, twice, so that there
    are no ghosts. ``steps`` vectors of n entries are kept.

    Args:
        operator: H.
        samples: random vectors.
        steps: products for each of them; no more than n are made.
        width: standard deviation of the smoothing, in units of the eigenvalues; by default 1/200 of the range of the
            nodes. The grid has four points to a width, and goes four widths beyond the outermost nodes.
        seed: of the random vectors.

    Raises:
        TypeError: for an operator that has no products.
        ValueError: for samples or steps below 1, a width not above 0 or too fine for a million points.
        FloatingPointError: if a product is not finite.
    """
    check_operator(operator)
    count("samples", samples)
    count("steps", steps)
    if width is not None:
        _check_width(width)
    vectors = signs(operator, seed)
    found = [_quadrature(operator, next(vectors), min(steps, operator.n)) for _ in range(samples)]
    products = sum(products for _, _, products, _ in found)
    exact = min(math.inf if ended else 2 * products - 1 for _, _, products, ended in found)
    longest = max(len(nodes) for nodes, *_ in found)
    nodes = torch.stack([torch.cat([each, each[-1:].expand(longest - len(each))]) for each, *_ in found])
    weights = torch.stack([torch.cat([each, each.new_zeros(longest - len(each))]) for _, each, *_ in found])
    low, high = nodes.min().item(), nodes.max().item()
    if width is None:
        width = _WIDTH * ((high - low) or abs(high) or 1.0)
    points = math.ceil((high - low + 2 * _TAIL * width) / (_SPACING * width)) + 1
    if points > _FINEST:
        raise ValueError(
            f"width={width:g} takes {points} points from {low:g} to {high:g}: take one of at least "
            f"{(high - low) / (_SPACING * _FINEST) * 1.1:.2g}, or density.on(grid, width) over a part"
        )
    grid = torch.linspace(low - _TAIL * width, high + _TAIL * width, points, dtype=torch.float64, device="cpu")
    value, error = mean_and_error(_smoothed(nodes, weights, grid, width))
    return Spectrum(grid, Sampled(value, error, samples, products), width, nodes, weights, operator.n, exact)


def _check_width(width: Any) -> None:
    number("width", width, 0, math.inf)
    if not 0 < width < math.inf:
        raise ValueError(f"width is a standard deviation, finite and above 0: not {width!r}")


def _quadrature(operator: Operator, start: Tensor, steps: int) -> tuple[Tensor, Tensor, int, bool]:
    """Nodes and weights of one vector, how many products it took, and whether they are all there are."""
    basis = torch.empty(steps, operator.n, dtype=operator.dtype, device=operator.device)
    along, across = [], []
    following, scale, ended = start / euclidean_norm(start), 0.0, False
    for step in range(steps):
        basis[step] = following
        image = finite_product(operator, following)
        along.append(torch.dot(following.double(), image.double()).item())
        for _ in range(2):
            image = image - (basis[: step + 1] @ image) @ basis[: step + 1]
        remainder = euclidean_norm(image).item()
        scale = max(scale, abs(along[-1]), remainder)
        ended = step + 1 == operator.n or remainder <= _ROUNDING * torch.finfo(operator.dtype).eps * scale
        if ended:
            break
        across.append(remainder)
        following = image / remainder
    size = len(along)
    tridiagonal = torch.diag(torch.tensor(along, dtype=torch.float64, device="cpu"))
    beside = torch.tensor(across[: size - 1], dtype=torch.float64, device="cpu")
    tridiagonal += torch.diag(beside, 1) + torch.diag(beside, -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes, vectors[0].square(), size, ended


def _smoothed(nodes: Tensor, weights: Tensor, grid: Tensor, width: float) -> Tensor:
    """The density of each sample, ``(samples, points)``."""
    rows = []
    for at, share in zip(nodes, weights, strict=True):
        distances = (grid[:, None] - at[None]) / width
        rows.append((-0.5 * distances.square()).exp() @ share / (width * math.sqrt(2 * math.pi)))
    return torch.stack(rows)
