"""Trace and diagonal of a symmetric operator from products with random vectors, each with its standard error."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lowland.checks import count, is_count
from lowland.curvature.arguments import whole_seed
from lowland.curvature.lanczos import Operator, check_operator

T = TypeVar("T", float, Tensor)


@dataclass(frozen=True)
class Sampled(Generic[T]):
    """What random vectors say of an operator, and how far off it may be.

    Attributes:
        value: the mean over the samples, a number or a tensor.
        standard_error: of ``value``, in its units and of its shape: s/√samples, with s the standard deviation over the
            samples. It doesn't see rounding. 0 where the value is exact, None with a single sample.
        samples: how many random vectors the error is from; 0 where the value is exact.
        products: how many products with the operator it took.
    """

    value: T
    standard_error: T | None
    samples: int
    products: int

    def __float__(self) -> float:
        """The value, so that the result can be used as a number."""
        return float(self.value)

    def __repr__(self) -> str:
        """The number with its error, or the shape of a tensor."""
        from_ = f"{self.samples} samples" if self.samples else "exact"
        if isinstance(self.value, Tensor):
            what = f"tensor of shape {tuple(self.value.shape)}"
        else:
            what = f"{self.value:.6g}" + ("" if self.standard_error is None else f" ± {self.standard_error:.2g}")
        return f"Sampled({what}, {from_}, {self.products} products)"


def trace(operator: Operator, samples: int = 10, *, rank: int | None = None, seed: int = 0) -> Sampled[float]:
    """The trace by Hutch++ (Meyer, Musco, Musco & Woodruff 2021, *Hutch++: Optimal Stochastic Trace Estimation*).

    The image of random vectors gives a basis Q of the directions in which H is large. There the trace is exact,
    tr QᵀHQ. Of what is left, P = I − QQᵀ, it is the mean of (Pv)ᵀH(Pv) over random vectors v of ±1 (Hutchinson 1990).
    It takes 2 · rank + samples products; where that is no fewer than the dimension, the unit vectors give the
    diagonal, and the trace is exact. ``rank`` vectors of n entries are kept.

    Args:
        operator: H.
        samples: random vectors for what is left.
        rank: size of Q, by default ``samples``; 0 is Hutchinson's estimate.
        seed: of the random vectors.

    Raises:
        TypeError: for an operator that has no products.
        ValueError: for samples below 1, a rank below 0 or above the dimension.
        FloatingPointError: if a product is not finite.
    """
    check_operator(operator)
    count("samples", samples)
    rank = min(samples, operator.n) if rank is None else rank
    if not is_count(rank, 0) or rank > operator.n:
        raise ValueError(f"rank must be an integer between 0 and the dimension {operator.n}, not {rank!r}")
    if 2 * rank + samples >= operator.n:
        return Sampled(sum(_unit_diagonal(operator)), 0.0, 0, operator.n)
    vectors = signs(operator, seed)
    inside, basis = 0.0, torch.zeros(0, operator.n, dtype=operator.dtype, device=operator.device)
    if rank:
        images = torch.stack([finite_product(operator, next(vectors)) for _ in range(rank)], dim=1)
        basis = torch.linalg.qr(images)[0].T
        inside = sum(_quadratic(operator, q) for q in basis)
    left = []
    for _ in range(samples):
        v = next(vectors)
        for _ in range(2 if rank else 0):  # once more takes out what rounding left
            v = v - (basis @ v) @ basis
        left.append(_quadratic(operator, v))
    value, error = mean_and_error(torch.tensor(left, dtype=torch.float64, device="cpu"))
    return Sampled(inside + value.item(), None if error is None else error.item(), samples, 2 * rank + samples)


def diagonal(operator: Operator, samples: int = 100, *, seed: int = 0) -> Sampled[Tensor]:
    """The diagonal: the mean of v ∘ Hv over random vectors v of ±1, each entry with its standard error.

    Bekas, Kokiopoulou & Saad 2007, *An Estimator for the Diagonal of a Matrix*. The variance of entry i is the sum of
    the squares of row i but for the diagonal, by ``samples``. Where samples are no fewer than the dimension, the unit
    vectors give the diagonal exactly.

    Args:
        operator: H.
        samples: random vectors, a product each.
        seed: of the random vectors.

    Returns:
        Value and error of shape ``(n,)``, in the operator's type and on its device.

    Raises:
        TypeError: for an operator that has no products.
        ValueError: for samples below 1.
        FloatingPointError: if a product is not finite.
    """
    check_operator(operator)
    count("samples", samples)
    if samples >= operator.n:
        exact = torch.tensor(list(_unit_diagonal(operator)), dtype=operator.dtype, device=operator.device)
        return Sampled(exact, torch.zeros_like(exact), 0, operator.n)
    # Welford's running mean and sum of squares: two vectors instead of one a sample.
    mean = torch.zeros(operator.n, dtype=operator.dtype, device=operator.device)
    squares = torch.zeros_like(mean)
    vectors = signs(operator, seed)
    for number in range(1, samples + 1):
        v = next(vectors)
        entry = v * finite_product(operator, v)
        away = entry - mean
        mean += away / number
        squares += away * (entry - mean)
    error = None if samples == 1 else (squares / ((samples - 1) * samples)).sqrt()
    return Sampled(mean, error, samples, samples)


def signs(operator: Operator, seed: int) -> Iterator[Tensor]:
    """Random vectors ``(n,)`` of ±1, the same on every device."""
    generator = torch.Generator().manual_seed(whole_seed(seed))
    while True:
        bits = torch.randint(2, (operator.n,), generator=generator, device="cpu", dtype=torch.int8)
        yield (2 * bits - 1).to(operator.device, operator.dtype)


def finite_product(operator: Operator, vector: Tensor) -> Tensor:
    """Hv. Raises FloatingPointError if it is not finite."""
    image = operator.product(vector)
    if not torch.isfinite(image).all():
        raise FloatingPointError("a product with the operator is not finite")
    return image


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Over the first dimension, and the standard error of the mean; None for a single value."""
    samples = len(values)
    return values.mean(0), None if samples == 1 else values.std(0) / math.sqrt(samples)


def _quadratic(operator: Operator, vector: Tensor) -> float:
    return torch.dot(vector.double(), finite_product(operator, vector).double()).item()


def _unit_diagonal(operator: Operator) -> Iterator[float]:
    for i in range(operator.n):
        unit = torch.zeros(operator.n, dtype=operator.dtype, device=operator.device)
        unit[i] = 1
        yield finite_product(operator, unit)[i].item()
