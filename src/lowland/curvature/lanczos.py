"""Eigenpairs of a symmetric operator, each with a residual that says how wrong it can be."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.checks import is_count
from lowland.curvature.arguments import check_start
from lowland.curvature.vectors import euclidean_norm
from lowland.curvature.wanted import Wanted, Which

# Fewer products would take a neighbouring eigenvalue for the extreme one too often: on spectra whose two largest are
# 2 to 5 percent apart, about one random start in twenty. A test counts them.
FEWEST_PRODUCTS = 8
HOPELESS = 10  # times the asymmetry that is allowed: no iteration gets anywhere from there
_SHOWN = 5  # values in a repr
_WARM_MIX = 1.0  # norm of the random part of a warm start, the rest having norm 1: less saves next to nothing


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs (λ, v) of H, the most wanted first.

    Attributes:
        values: λ, shape ``(k,)``.
        vectors: v, shape ``(k, n)``, of unit length and orthogonal to each other.
        residuals: ‖Hv − λv‖ of each, shape ``(k,)``, computed from the products themselves and not from a
            recurrence that rounding could have falsified; from differences of gradients where these give more. Some
            eigenvalue of H lies within it of λ, unless ``reason`` says that the products are with something else.
        products: how many products with H it took.
        converged: whether all residuals are ≤ tol · |λ₁|, and nothing speaks against them.
        reason: why not, where ``converged`` is False; else empty.
        largest: |λ₁|, the largest magnitude seen, also where other eigenvalues were asked for.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool
    reason: str = ""
    largest: float = 0.0

    def __repr__(self) -> str:
        """The first values and the largest residual, without vectors."""
        shown = ", ".join(f"{value:.6g}" for value in self.values[:_SHOWN].tolist())
        more = f" and {len(self.values) - _SHOWN} more" if len(self.values) > _SHOWN else ""
        residual = max(self.residuals.tolist(), default=0.0)
        how = "converged" if self.converged else f"not converged: {self.reason}"
        return f"Eigenpairs({shown}{more}; residuals up to {residual:.2g}, {self.products} products, {how})"


class Operator(NamedTuple):
    """A symmetric operator on vectors.

    Attributes:
        product: v ↦ Hv for v of shape ``(n,)``, linear and symmetric.
        n: dimension.
        dtype: of the vectors. Sums over them are float64 where they steer.
        device: of the vectors.
    """

    product: Callable[[Tensor], Tensor]
    n: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"


def check_operator(operator: Operator) -> None:
    """Raise an error for what is no operator: TypeError without products, ValueError without a dimension."""
    if not (isinstance(operator, Operator) and callable(operator.product)):
        raise TypeError(
            "this needs an operator with products, Operator(product, n) with product a function v ↦ Hv: not a "
            f"{type(operator).__name__}" + " whose product is no function" * isinstance(operator, Operator)
        )
    if not is_count(operator.n, 1):
        raise ValueError(f"the dimension n of an operator must be an integer of at least 1, not {operator.n!r}")


def eigenpairs(operator: Operator, wanted: Wanted) -> Eigenpairs:
    """Extreme eigenpairs by Lanczos iteration with full reorthogonalization and thick restarts.

    Golub & Van Loan, *Matrix Computations*, chapter 10; restarts after Wu & Simon 2000, *Thick-Restart Lanczos*.
    The products are kept beside the basis, so that the residual of every pair is at hand at no further product.

    A small residual proves that *some* eigenvalue lies within it of λ. That it is the extreme one rests on the
    random start and is not proved: where others lie within a few percent of it, the iteration can settle on one of
    those, and is then off by their distance, the less often the smaller ``tol``. Of an eigenvalue that H has
    several times, copies may be missed: `lowland.curvature.extremes.extremes` looks for them. Therefore it makes at
    least 8 products, a warm start is mixed with a random vector, and with ``which="magnitude"`` the other end of the
    spectrum must be out of reach too.

    That H is symmetric is checked at no further product: ⟨u, Hv⟩ against ⟨v, Hu⟩ for all u and v of the basis, which
    begins at random. Where these differ by more than the larger of tol and √u (u their rounding unit), over
    |λ₁|, nothing is certified, and by more than ten times that, the iteration ends.

    Args:
        operator: H.
        wanted: which pairs, how exact, and at what price.

    Raises:
        TypeError: for an operator that has no products, a start that is no tensor, a generator that is none.
        ValueError: for a k, tol, basis or start that makes no sense.
        FloatingPointError: if a product is not finite.
    """
    check_operator(operator)
    wanted.check(operator.n)
    product, n, dtype, device = operator
    k, tol, which, start = wanted.pairs, wanted.tol, wanted.which, wanted.start
    max_basis, max_products, generator = wanted.basis(n), wanted.max_products, wanted.random()

    def random_vector() -> Tensor:
        return random_direction(n, generator, dtype, device)

    space = _Subspace(n, max_basis, dtype, device)
    skew = skewness(tol, dtype)
    fewest = min(FEWEST_PRODUCTS, n)
    following = random_vector()
    if start is not None:
        following = warm_start(start, following)

    products = 0
    while True:
        image = product(following)
        products += 1
        following, remainder = space.extend(following, image)
        values, rotation = space.ritz()
        order = wanted_first(values, which)
        scale = max(values.abs().max().item(), wanted.floor)
        crooked = products >= fewest and space.asymmetry > HOPELESS * skew * scale
        exhausted = space.size == n or products == max_products or crooked
        estimates = (remainder * rotation[-1, order[:k]]).abs()
        promising = space.size >= k and products >= fewest and bool((estimates <= tol * scale).all())
        if promising and which == "magnitude" and space.size > 1:
            # The other end of the spectrum may still grow past this one.
            rival = 0 if values[order[0]] > 0 else -1
            reach = (values[rival].abs() + (remainder * rotation[-1, rival]).abs()).item()
            promising = reach <= (1 + tol) * scale
        if promising or exhausted:
            chosen = torch.cat([order[:k:2], order[1:k:2]]) if which == "ends" else order[:k]
            pairs = space.pairs(rotation[:, chosen])
            residuals = pairs[2]
            converged = len(residuals) == k and bool((residuals <= tol * scale).all())
            if converged or exhausted:
                values_, vectors, residuals = pairs
                reason = why_not(
                    residuals.max().item(), tol, scale, products, space.asymmetry, skew, products >= fewest
                )
                if not (converged or reason):
                    reason = f"only {len(residuals)} of {k} pairs in {products} products"
                values_, residuals = values_.to(device, dtype), residuals.to(device, dtype)
                return Eigenpairs(values_, vectors, residuals, products, not reason, reason, scale)
        if remainder <= torch.finfo(dtype).eps * max(scale, torch.finfo(dtype).tiny) * n**0.5:
            # The basis spans an invariant subspace: what is left to find lies outside.
            following = space.orthogonal(random_vector())
        if space.size == max_basis:
            best = order[: max(k + 1, max_basis // 2)]
            space.keep(rotation[:, best], values[best])


def skewness(tol: float, dtype: torch.dtype) -> float:
    """How far ⟨u, Hv⟩ and ⟨v, Hu⟩ may differ, over |λ₁|."""
    return max(tol, torch.finfo(dtype).eps ** 0.5)


def why_not(
    residual: float, tol: float, scale: float, products: int, asymmetry: float, skew: float, enough: bool
) -> str:
    """Why a largest ``residual`` is no certificate; empty where it is one. ``enough``: whether products are."""
    if asymmetry > skew * scale:
        return (
            f"⟨u, Hv⟩ and ⟨v, Hu⟩ differ by {asymmetry:.2g}, with |λ₁| about {scale:.2g}: the products are not those "
            "of a symmetric operator, so they are not with a Hessian, or only roughly. An operation of the model has a "
            "wrong second derivative, or its rounding is coarse (float16, bfloat16, autocast)"
        )
    if not residual <= tol * scale:
        return (
            f"after {products} products the residual is {residual:.2g}, above tol · |λ₁| = {tol * scale:.2g}: raise "
            "max_products or tol"
        )
    if not enough:
        return f"so few products ({products}) don't tell whether another eigenvalue is larger: raise max_products"
    return ""


def random_direction(n: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A unit vector ``(n,)``, the same on every device."""
    vector = torch.randn(n, generator=generator, dtype=torch.float64, device=generator.device).to(device, dtype)
    return vector / euclidean_norm(vector)


def warm_start(start: Tensor, random: Tensor) -> Tensor:
    """The first vector of an iteration that begins near ``start``, mixed with a ``random`` unit vector ``(n,)``.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for a start of another shape, or one that is zero or not finite.
    """
    check_start(start, len(random))
    warm = start.reshape(-1, len(random)).to(random).sum(0)
    length = euclidean_norm(warm)
    if not (torch.isfinite(length) and length > 0):
        raise ValueError("start must be finite and not zero")
    mixed = warm / length + _WARM_MIX * random
    mixed /= euclidean_norm(mixed)
    return mixed


def wanted_first(values: Tensor, which: Which) -> Tensor:
    """The order of eigenvalues ``(..., size)``, as indices."""
    if which == "ends":  # in turn
        falling, size = torch.argsort(-values, stable=True), values.shape[-1]
        return falling[..., [size - 1 - i // 2 if i % 2 else i // 2 for i in range(size)]]
    keys = {"magnitude": -values.abs(), "largest": -values, "smallest": values}
    return torch.argsort(keys[which], stable=True)


def with_residuals(vectors: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rayleigh quotients, ``vectors`` ``(k, n)`` of unit length and true residuals, from ``images``, H times them."""
    lengths = euclidean_norm(vectors)[:, None]
    vectors, images = vectors / lengths, images / lengths
    values = (vectors * images).sum(1, dtype=torch.float64)
    residuals = euclidean_norm(images - values[:, None].to(images) * vectors)
    return values.cpu(), vectors, residuals.double().cpu()


class _Subspace:
    """An orthonormal basis Q (rows), its images HQ, and the projection QHQᵀ.

    ``asymmetry`` is the largest ‖Q Hv − (QH) v‖ over the vectors v added: that of the products.
    """

    def __init__(self, n: int, capacity: int, dtype: torch.dtype, device: torch.device | str):
        self.size = 0
        self.capacity = capacity
        first = min(capacity, 16)
        self.basis = torch.empty(first, n, dtype=dtype, device=device)
        self.images = torch.empty(first, n, dtype=dtype, device=device)
        self.projection = torch.zeros(capacity, capacity, dtype=torch.float64, device="cpu")
        self.asymmetry = 0.0
        self._expected = torch.zeros(0, dtype=torch.float64, device="cpu")  # of the next vector: (QH) v

    def extend(self, vector: Tensor, image: Tensor) -> tuple[Tensor, float]:
        """Add a unit vector orthogonal to the basis; return the next one, and how much of the image it was."""
        if self.size == len(self.basis):
            more = self.basis.new_empty(min(self.size, self.capacity - self.size), *self.basis.shape[1:])
            self.basis, self.images = torch.cat([self.basis, more]), torch.cat([self.images, more])
        self.basis[self.size], self.images[self.size] = vector, image
        self.size += 1
        # Lanczos: all but the last two coefficients are rounding, or, after a restart, small. Taking those two out
        # first makes one pass over the whole basis enough; twice is enough in any case (Giraud et al. 2005).
        column = torch.zeros(self.size + 1, dtype=image.dtype, device=image.device)
        following = image
        for recent in range(max(self.size - 2, 0), self.size):
            column[recent] = torch.dot(self.basis[recent], image)
            following = following - column[recent] * self.basis[recent]
        remainder = euclidean_norm(following)
        for _ in range(2):
            before = remainder
            correction = self.basis[: self.size] @ following
            following = following - correction @ self.basis[: self.size]
            remainder = euclidean_norm(following)
            column[:-1] += correction
            if remainder > before / 2:
                break
        column[-1] = remainder
        column = column.double().cpu()
        if not column.isfinite().all():
            raise FloatingPointError("a product with the operator is not finite")
        self.asymmetry = max(self.asymmetry, torch.linalg.vector_norm(column[:-2] - self._expected).item())
        self._expected = torch.zeros(self.size, dtype=torch.float64, device="cpu")
        self._expected[-1] = column[-1]
        self.projection[: self.size, self.size - 1] = column[:-1]
        self.projection[self.size - 1, : self.size] = column[:-1]
        return following / remainder.clamp(min=torch.finfo(following.dtype).tiny), column[-1].item()

    def orthogonal(self, vector: Tensor) -> Tensor:
        """The direction of ``vector`` outside the basis, of unit length."""
        basis = self.basis[: self.size]
        for _ in range(2):
            vector = vector - (basis @ vector) @ basis
            vector = vector / euclidean_norm(vector)
        self._expected = torch.zeros(self.size, dtype=torch.float64, device="cpu")
        return vector

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``(size,)`` and eigenvectors (columns) of the projection, float64 on the CPU."""
        values, rotation = torch.linalg.eigh(self.projection[: self.size, : self.size])
        return values, rotation

    def pairs(self, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, vectors and true residuals for the columns of ``rotation``."""
        rotation = rotation.T.to(self.basis)
        vectors = rotation @ self.basis[: self.size]
        return with_residuals(vectors, rotation @ self.images[: self.size])

    def keep(self, rotation: Tensor, values: Tensor) -> None:
        """Go on with the Ritz vectors in the columns of ``rotation`` only."""
        count = rotation.shape[1]
        self._expected = self._expected @ rotation
        turned = rotation.T.to(self.basis)
        self.basis[:count] = turned @ self.basis[: self.size]
        self.images[:count] = turned @ self.images[: self.size]
        self.size = count
        self.projection.zero_()
        self.projection.diagonal()[:count] = values
