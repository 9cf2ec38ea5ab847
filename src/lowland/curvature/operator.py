"""What a matrix of curvature tells by its products alone: trace, diagonal, spectrum."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowland.curvature import estimates, quadrature
from lowland.curvature.estimates import Sampled
from lowland.curvature.for_scipy import linear_operator
from lowland.curvature.lanczos import Operator
from lowland.curvature.objective import Objective
from lowland.curvature.processes import Product
from lowland.curvature.quadrature import Spectrum
from lowland.patience import doing

if TYPE_CHECKING:
    from lowland.curvature.for_scipy import LinearOperator


class Curvature(ABC):
    """A symmetric matrix over the parameters of a model, known by its products with vectors.

    Attributes:
        objective: the loss.
        shape: ``(n, n)``, n the number of parameters.
        dtype: of the vectors.
        device: of the vectors.
    """

    objective: Objective
    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def __init__(self, objective: Objective):
        self.objective = objective
        self.shape = (objective.size, objective.size)
        self.dtype, self.device = objective.dtype, objective.device

    def __repr__(self) -> str:
        """Of which model, and how large."""
        kind = str(self.dtype).removeprefix("torch.")
        model = type(self.objective.model).__name__
        return f"{type(self).__name__}({model}, {self.shape[0]:,} parameters, {kind} on {self.device})"

    @abstractmethod
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """The product with ``vectors`` of shape ``(n,)``, or ``(n, k)`` for k at once."""

    @abstractmethod
    def products(self) -> AbstractContextManager[Product]:
        """A context that gives v ↦ Hv for v of shape ``(n,)``: many products at the same weights, checked as one is."""

    @contextmanager
    def operator(self) -> Iterator[Operator]:
        """`products` with their dimension and type, for what works with any operator."""
        with torch.inference_mode(False), doing("products with the curvature"), self.products() as product:
            yield Operator(product, self.shape[0], self.dtype, self.device)

    def trace(self, samples: int = 10, *, rank: int | None = None, seed: int = 0) -> Sampled[float]:
        """The trace by Hutch++, with its standard error; see `lowland.curvature.estimates.trace`.

        Args:
            samples: random vectors for what lies outside the directions of large curvature.
            rank: how many of these directions; by default ``samples``. It takes 2 · rank + samples products.
            seed: of the random vectors.

        Raises:
            ValueError: for samples below 1, a rank below 0 or above the dimension; see `__matmul__` for the loss.
            FloatingPointError: if the loss or a product is not finite.
        """
        with self.operator() as operator:
            return estimates.trace(operator, samples, rank=rank, seed=seed)

    def diagonal(self, samples: int = 100, *, seed: int = 0) -> Sampled[Tensor]:
        """The diagonal, each entry with its standard error; see `lowland.curvature.estimates.diagonal`.

        Args:
            samples: random vectors, a product each.
            seed: of the random vectors.

        Raises:
            ValueError: for samples below 1; see `__matmul__` for the loss.
            FloatingPointError: if the loss or a product is not finite.
        """
        with self.operator() as operator:
            return estimates.diagonal(operator, samples, seed=seed)

    def spectrum(self, samples: int = 10, steps: int = 80, *, width: float | None = None, seed: int = 0) -> Spectrum:
        """The density of the eigenvalues, with its standard error; see `lowland.curvature.quadrature.spectrum`.

        Args:
            samples: random vectors.
            steps: products for each of them. That many vectors of n entries are kept.
            width: standard deviation of the smoothing, in units of the eigenvalues; by default 1/200 of their range.
            seed: of the random vectors.

        Raises:
            ValueError: for samples or steps below 1, a width that isn't above 0; see `__matmul__` for the loss.
            FloatingPointError: if the loss or a product is not finite.
        """
        with self.operator() as operator:
            return quadrature.spectrum(operator, samples, steps, width=width, seed=seed)

    def to_scipy(self) -> "LinearOperator":
        """The matrix for SciPy's solvers, `scipy.sparse.linalg.eigsh` for example: a ``LinearOperator``.

        Every product differentiates anew; its vectors go to the device and come back.
        """
        return linear_operator(self.__matmul__, self.shape[0], self.dtype, self.device)
