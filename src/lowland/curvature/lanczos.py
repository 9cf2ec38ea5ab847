"""Eigenpairs of a symmetric operator, each with a residual that says how wrong it can be."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.checks import is_count
from lowland.curvature.arguments import check_start
from lowland.curvature.subspaces import Ritz, Subspaces
from lowland.curvature.vectors import euclidean_norm
from lowland.curvature.wanted import Wanted, Which

Products = Callable[[Tensor, list[int]], Tensor]

# Fewer products would take a neighbouring eigenvalue for the extreme one too often: on spectra whose two largest are
# 2 to 5 percent apart, about one random start in twenty. A test counts them.
FEWEST_PRODUCTS = 8
_HOPELESS = 10  # times the asymmetry that is allowed: no iteration gets anywhere from there
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
    product, n, dtype, device = operator
    (found,) = eigenpairs_of_many(lambda rows, _: product(rows[0])[None], n, [wanted.start], wanted, dtype, device)
    if isinstance(found, FloatingPointError):
        raise found
    return found


def eigenpairs_of_many(
    product: Products,
    n: int,
    starts: Sequence[Tensor | None],
    wanted: Wanted,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[Eigenpairs | FloatingPointError]:
    """`eigenpairs` of each of several operators of one size, iterated in step: each operation is one for all.

    The results are those of one operator at a time, up to rounding: all have the same random vectors. The bases grow
    and restart in step, so all have one size at any time; an operator whose pairs are found, or whose product is not
    finite, leaves.

    Args:
        product: ``product(vectors, active)`` gives Hᵢvᵢ for the rows vᵢ of ``vectors``, shape ``(a, n)``, one for
            each of the a operators i in ``active``, ascending, in a tensor of that shape.
        n: dimension.
        starts: for each operator what `Wanted.start` is for one.
        wanted: which pairs, how exact, and at what price for each operator; its start is not looked at.
        dtype: of the vectors. Sums over them are float64 where they steer.
        device: of the vectors.

    Returns:
        For each operator its pairs, or a FloatingPointError where a product was not finite.

    Raises:
        TypeError: for a start that is no tensor, a generator that is none.
        ValueError: for a k, tol, basis or start that makes no sense.
    """
    wanted.check(n)
    fewest, max_basis = min(FEWEST_PRODUCTS, n), wanted.basis(n)
    draws = _Draws(len(starts), partial(random_direction, n, wanted.random(), dtype, device))
    first = [draws.next(i) if start is None else warm_start(start, draws.next(i)) for i, start in enumerate(starts)]
    found: dict[int, Eigenpairs | FloatingPointError] = {}
    spaces = Subspaces(first, n, max_basis)
    products = 0
    while spaces.active:
        finite = spaces.extend(product(spaces.following, spaces.active))
        products += 1
        for i in spaces.only(finite):
            found[i] = FloatingPointError("a product with the operator is not finite")
        ritz = spaces.ritz()
        scale = ritz.values.abs().amax(1).clamp(min=wanted.floor)
        done = torch.zeros(len(scale), dtype=torch.bool, device="cpu")
        if products >= fewest or products == wanted.max_products:
            for row, pairs in _ends(spaces, ritz, scale, wanted, products):
                done[row] = True
                found[spaces.active[row]] = pairs
        tiny = torch.finfo(dtype).tiny
        spent = spaces.remainder <= torch.finfo(dtype).eps * scale.clamp(min=tiny) * n**0.5
        for row in (spent & ~done).nonzero()[:, 0].tolist():
            # The basis spans an invariant subspace: what is left to find lies outside.
            spaces.turn(row, draws.next(spaces.active[row]))
        if spaces.size == max_basis:
            order = wanted_first(ritz.values, wanted.which)
            spaces.keep(ritz, order[:, : max(wanted.pairs + 1, max_basis // 2)])
        spaces.only(~done)
    return [found[i] for i in range(len(starts))]


def _ends(
    spaces: Subspaces, ritz: Ritz, scale: Tensor, wanted: Wanted, products: int
) -> Iterator[tuple[int, Eigenpairs]]:
    """The rows that end here, with their pairs: those are found, or there will be none."""
    k, tol, size = wanted.pairs, wanted.tol, spaces.size
    n, dtype = spaces.following.shape[1], spaces.following.dtype
    enough = products >= min(FEWEST_PRODUCTS, n)
    skew = max(tol, torch.finfo(dtype).eps ** 0.5)
    best = wanted_first(ritz.values, wanted.which)[:, :k]
    estimates = (spaces.remainder[:, None] * ritz.vectors[:, -1]).abs()
    promising = (estimates.gather(1, best) <= tol * scale[:, None]).all(1) & (enough and size >= k)
    if wanted.which == "magnitude" and size > 1:
        # The other end of the spectrum may still grow past this one.
        rival = torch.where(ritz.values.gather(1, best[:, :1]) > 0, 0, size - 1)
        promising &= (ritz.values.abs() + estimates).gather(1, rival)[:, 0] <= (1 + tol) * scale
    exhausted = (spaces.asymmetry > _HOPELESS * skew * scale) & enough
    exhausted |= bool(size == n or products == wanted.max_products)  # a limit may be a number of numpy's
    rows = (promising | exhausted).nonzero()[:, 0]
    if not len(rows):
        return
    chosen = torch.cat([best[:, ::2], best[:, 1::2]], 1) if wanted.which == "ends" else best
    values, vectors, residuals = spaces.pairs(rows, ritz, chosen)
    converged = (residuals <= tol * scale[rows, None]).all(1) & (residuals.shape[1] == k)
    for position in (converged | exhausted[rows]).nonzero()[:, 0].tolist():
        row = int(rows[position])
        asymmetry, largest = spaces.asymmetry[row].item(), scale[row].item()
        reason = _why_not(residuals[position].max().item(), tol, largest, products, asymmetry, skew, enough)
        if not (converged[position] or reason):
            reason = f"only {residuals.shape[1]} of {k} pairs in {products} products"
        yield row, Eigenpairs(
            values[position].to(vectors), vectors[position].clone(), residuals[position].to(vectors), products,
            not reason, reason, largest,
        )  # fmt: skip


class _Draws:
    """Every operator's random vectors: the same sequence for each, as of a generator of its own."""

    def __init__(self, operators: int, draw: Callable[[], Tensor]):
        self.draw = draw
        self.vectors: list[Tensor] = []
        self.counts = [0] * operators

    def next(self, operator: int) -> Tensor:
        """Its next random unit vector."""
        if self.counts[operator] == len(self.vectors):
            self.vectors.append(self.draw())
        self.counts[operator] += 1
        return self.vectors[self.counts[operator] - 1]


def _why_not(
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
