"""What a matrix of curvature tells by its products alone: trace and diagonal."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from lowland.curvature import estimates
from lowland.curvature.estimates import Sampled
from lowland.curvature.lanczos import Operator

Product = Callable[[Tensor], Tensor]


class Curvature(ABC):
    """A symmetric matrix over the parameters of a model, known by its products with vectors.

    Attributes:
        shape: ``(n, n)``, n the number of parameters.
        dtype: of the vectors.
        device: of the vectors.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """The product with ``vectors`` of shape ``(n,)``, or ``(n, k)`` for k at once."""

    @abstractmethod
    def products(self) -> AbstractContextManager[Product]:
        """A context that gives v ↦ Hv for v of shape ``(n,)``: many products at the same weights, checked as one is."""

    @contextmanager
    def _operator(self) -> Iterator[Operator]:
        with torch.inference_mode(False), self.products() as product:
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
        with self._operator() as operator:
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
        with self._operator() as operator:
            return estimates.diagonal(operator, samples, seed=seed)
