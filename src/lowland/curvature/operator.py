"""What a matrix of curvature tells by its products alone: eigenpairs, trace, diagonal, spectrum."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowland.curvature import estimates, extremes, lanczos, quadrature
from lowland.curvature.estimates import Sampled
from lowland.curvature.for_scipy import linear_operator
from lowland.curvature.lanczos import Eigenpairs, Operator
from lowland.curvature.objective import Objective, described
from lowland.curvature.processes import Product
from lowland.curvature.quadrature import Spectrum
from lowland.curvature.wanted import Wanted, Which
from lowland.patience import doing

if TYPE_CHECKING:
    from lowland.curvature.for_scipy import LinearOperator

Search = Callable[[Operator, Wanted], Eigenpairs]


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
        return f"{type(self).__name__}({described(self.objective)})"

    @abstractmethod
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """The product with ``vectors`` of shape ``(n,)``, or ``(n, k)`` for k at once."""

    @abstractmethod
    def products(self) -> AbstractContextManager[Product]:
        """A context that gives v ↦ Hv for v of shape ``(n,)``: many products at the same weights, checked as one is."""

    @abstractmethod
    def certified(self, wanted: Wanted, search: Search = lanczos.eigenpairs) -> Eigenpairs:
        """What ``search`` finds, checked as far as it can be: for callers that tell of the ``reason`` themselves."""

    def eigenpairs(
        self,
        k: int = 1,
        tol: float = 1e-3,
        *,
        which: Which = "magnitude",
        start: Tensor | None = None,
        max_products: int = 500,
        max_basis: int = 64,
        generator: torch.Generator | None = None,
    ) -> Eigenpairs:
        """The k extreme eigenpairs, each with its residual ‖Hv − λv‖; see `lowland.curvature.lanczos.eigenpairs`.

        A residual bounds the distance from λ to *some* eigenvalue. It does not prove that no larger one exists:
        that rests on the random start, so a warm ``start`` is mixed with a random vector, and there are at least 8
        products. Nor does it see what float32 products themselves got wrong, about 1e-6 of |λ₁|. What else is checked
        stands in `lowland.curvature.Hessian`.

        Args:
            k: how many.
            tol: stop when every residual is ≤ tol · |λ₁|.
            which: largest ``"magnitude"``, the algebraic end ``"largest"`` or ``"smallest"``, or k of both ``"ends"``.
            start: ``(n,)`` or ``(j, n)``, eigenvectors of an earlier call.
            max_products: give up after so many (``converged`` is then False).
            max_basis: at most 2 · max_basis vectors of n entries are kept in memory.
            generator: of the random start, on the CPU; by default seeded with 0.

        Raises:
            TypeError: for a ``start`` that is no tensor, or a generator that is none.
            ValueError: for arguments out of range, a ``start`` of another size; where two evaluations at the same
                weights differ; for a loss without a gradient.
            RuntimeError: where an operation has no second derivative.
            FloatingPointError: if the loss or a product is not finite.

        Warns:
            UserWarning: with the reason, where ``converged`` is False.
        """
        wanted = Wanted(k, tol, which, start, max_products, max_basis, generator)
        pairs = self.certified(wanted)
        if not pairs.converged:
            warnings.warn(f"the eigenpairs are not certified: {pairs.reason}", stacklevel=2)
        return pairs

    def extremes(
        self,
        k: int = 1,
        tol: float = 1e-3,
        *,
        which: Which = "ends",
        max_products: int = 1000,
        max_basis: int = 64,
        generator: torch.Generator | None = None,
    ) -> Eigenpairs:
        """The k largest and the k smallest eigenpairs, each eigenvalue as often as it occurs.

        See `lowland.curvature.extremes.extremes` for how, and `eigenpairs` for what is checked, raised and warned of.

        Args:
            k: how many at each end.
            tol: stop when every residual is ≤ tol · |λ₁|.
            which: both ``"ends"``, or k pairs as `eigenpairs` has them.
            max_products: give up after so many (``converged`` is then False).
            max_basis: at most 2 · max_basis vectors of n entries are kept in memory, and the pairs found.
            generator: of the random vectors, on the CPU; by default seeded with 0.

        Returns:
            The k largest, in falling order, and then the k smallest, in rising order.
        """
        wanted = Wanted(k, tol, which, None, max_products, max_basis, generator)
        pairs = self.certified(wanted, extremes.extremes)
        if not pairs.converged:
            warnings.warn(f"the eigenpairs are not certified: {pairs.reason}", stacklevel=2)
        return pairs

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
