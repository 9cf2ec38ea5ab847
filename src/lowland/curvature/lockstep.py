"""Principal eigenpairs of many symmetric operators of one size, iterated in step: each operation is one for all."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowland.curvature.arguments import check_tolerance
from lowland.curvature.lanczos import (
    FEWEST_PRODUCTS,
    HOPELESS,
    Eigenpairs,
    random_direction,
    skewness,
    wanted_first,
    warm_start,
    why_not,
    with_residuals,
)
from lowland.curvature.vectors import euclidean_norm

Products = Callable[[Tensor, list[int]], Tensor]


def principal_eigenpairs(
    product: Products,
    n: int,
    starts: Sequence[Tensor | None],
    tol: float = 1e-3,
    *,
    max_products: int = 500,
    max_basis: int = 64,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[Eigenpairs | FloatingPointError]:
    """Of each operator the eigenpair of largest magnitude, as `lowland.curvature.lanczos.eigenpairs` finds it.

    It is the same iteration: the same random vectors, the same rules for when to orthogonalize again, to restart and
    to stop. The results are those of one operator at a time, up to rounding. The bases grow and restart in step, so
    all have one size at any time; an operator whose pair is found, or whose product is not finite, leaves.

    Args:
        product: ``product(vectors, active)`` gives Hᵢvᵢ for the rows vᵢ of ``vectors``, shape ``(a, n)``, one for
            each of the a operators i in ``active``, ascending. The images are a new tensor of that shape.
        n: dimension.
        starts: for each operator a vector ``(n,)`` near its eigenvector, or several ``(j, n)``, or None.
        tol: relative residual to reach.
        max_products: of each operator: then its best pair so far is its result, ``converged`` False.
        max_basis: memory: at most 2 · max_basis vectors are kept of each operator.
        dtype: of the vectors. Sums over them are float64 where they steer.
        device: of the vectors.

    Returns:
        For each operator its pair (k = 1), or a FloatingPointError where a product was not finite.

    Raises:
        ValueError: for a start that is zero or not finite, a tolerance below 0, and limits too small.
    """
    check_tolerance(tol)
    max_basis = min(max_basis, n)
    if not (tol >= 0 and max_products >= 1 and max_basis >= min(n, 3)):
        raise ValueError(
            "the iteration needs tol >= 0, max_products >= 1, max_basis >= 3: "
            f"got {tol}, {max_products}, {max_basis}"
        )  # fmt: skip
    fewest = min(FEWEST_PRODUCTS, n)
    draws = _Draws(len(starts), n, dtype, device)
    first = [draws.next(i) if start is None else warm_start(start, draws.next(i)) for i, start in enumerate(starts)]
    found: dict[int, Eigenpairs | FloatingPointError] = {}
    spaces = _Subspaces(first, n, max_basis)
    skew = skewness(tol, dtype)
    products = 0
    while spaces.active:
        finite = spaces.extend(product(spaces.following, spaces.active))
        products += 1
        for i in spaces.only(finite):
            found[i] = FloatingPointError("a product with the operator is not finite")
        values, rotation = spaces.ritz()
        order = wanted_first(values, "magnitude")
        best = order[:, :1]
        scale = values.abs().amax(1)
        estimates = (spaces.remainder[:, None] * rotation[:, -1]).abs()
        promising = (estimates.gather(1, best)[:, 0] <= tol * scale) & (products >= fewest)
        if spaces.size > 1:
            # The other end of the spectrum may still grow past this one.
            rival = torch.where(values.gather(1, best) > 0, 0, spaces.size - 1)
            promising &= (values.abs() + estimates).gather(1, rival)[:, 0] <= (1 + tol) * scale
        exhausted = (spaces.asymmetry > HOPELESS * skew * scale) & (products >= fewest)
        exhausted |= spaces.size == n or products == max_products
        done = torch.zeros_like(promising)
        rows = (promising | exhausted).nonzero()[:, 0]
        if len(rows):
            top, vectors, residuals = spaces.pairs(rows, _columns(rotation, best)[rows, :, 0])
            converged = residuals <= tol * scale[rows]
            done[rows] = converged | exhausted[rows]
            for position in done[rows].nonzero()[:, 0].tolist():
                i, at = spaces.active[rows[position]], slice(position, position + 1)
                value, residual = top[at].to(device, dtype), residuals[at].to(device, dtype)
                row = rows[position]
                reason = why_not(
                    residuals[position].item(),
                    tol,
                    scale[row].item(),
                    products,
                    spaces.asymmetry[row].item(),
                    skew,
                    products >= fewest,
                )
                # A vector of its own: one that is kept, as a warm start, must not keep the others' memory.
                found[i] = Eigenpairs(value, vectors[at].clone(), residual, products, not reason, reason)
        tiny = torch.finfo(dtype).tiny
        spent = spaces.remainder <= torch.finfo(dtype).eps * scale.clamp(min=tiny) * n**0.5
        for row in (spent & ~done).nonzero()[:, 0].tolist():
            # The basis spans an invariant subspace: what is left to find lies outside.
            spaces.following[row] = spaces.orthogonal(row, draws.next(spaces.active[row]))
        if spaces.size == max_basis:
            kept = order[:, : max(2, max_basis // 2)]
            spaces.keep(_columns(rotation, kept), values.gather(1, kept))
        spaces.only(~done)
    return [found[i] for i in range(len(starts))]


def _columns(matrices: Tensor, which: Tensor) -> Tensor:
    """Of each of the matrices ``(a, size, size)`` the columns that its row of ``which``, ``(a, count)``, names."""
    return matrices.gather(2, which[:, None].expand(-1, matrices.shape[1], -1))


class _Draws:
    """Every operator's random vectors: the same sequence for each, as of a generator of its own."""

    def __init__(self, operators: int, n: int, dtype: torch.dtype, device: torch.device | str):
        self.generator = torch.Generator().manual_seed(0)
        self.n, self.dtype, self.device = n, dtype, device
        self.vectors: list[Tensor] = []
        self.counts = [0] * operators

    def next(self, operator: int) -> Tensor:
        """Its next random unit vector."""
        if self.counts[operator] == len(self.vectors):
            self.vectors.append(random_direction(self.n, self.generator, self.dtype, self.device))
        self.counts[operator] += 1
        return self.vectors[self.counts[operator] - 1]


class _Subspaces:
    """For each active operator an orthonormal basis Q (rows), its images HQ, the projection QHQᵀ, the next vector.

    What `lowland.curvature.lanczos` keeps for one, with one more dimension in front.
    """

    def __init__(self, first: Sequence[Tensor], n: int, capacity: int):
        self.size = 0
        self.capacity = capacity
        self.active = list(range(len(first)))
        self.following = torch.stack(list(first)) if first else torch.empty(0, n)
        self.basis = self.following.new_empty(len(first), min(capacity, 16), n)
        self.images = torch.empty_like(self.basis)
        self.projection = torch.zeros(len(first), capacity, capacity, dtype=torch.float64, device="cpu")
        self.remainder = torch.zeros(len(first), dtype=torch.float64, device="cpu")
        self.asymmetry = torch.zeros_like(self.remainder)
        self._expected = torch.zeros(len(first), 0, dtype=torch.float64, device="cpu")  # (QH) v of the next vectors

    def extend(self, images: Tensor) -> Tensor:
        """Add the next vectors, whose images these are; say which of these are finite, ``(a,)`` on the CPU."""
        if self.size == self.basis.shape[1]:
            count, _, n = self.basis.shape
            more = self.basis.new_empty(count, min(self.size, self.capacity - self.size), n)
            self.basis, self.images = torch.cat([self.basis, more], 1), torch.cat([self.images, more], 1)
        self.basis[:, self.size], self.images[:, self.size] = self.following, images
        self.size += 1
        basis = self.basis[:, : self.size]
        # The last two coefficients first, then the whole basis once, and again where that took out much.
        column = images.new_zeros(len(images), self.size + 1)
        following = images.clone()  # in place from here on: new memory costs more than the arithmetic
        for recent in range(max(self.size - 2, 0), self.size):
            column[:, recent] = torch.linalg.vecdot(basis[:, recent], images)
            following.addcmul_(column[:, recent, None], basis[:, recent], value=-1)
        remainder = euclidean_norm(following)
        again = torch.ones_like(remainder, dtype=torch.bool)
        for _ in range(2):
            before = remainder
            correction = torch.bmm(basis, following[:, :, None])[:, :, 0] * again[:, None]
            following.unsqueeze(1).baddbmm_(correction[:, None], basis, alpha=-1)
            remainder = euclidean_norm(following)
            column[:, :-1] += correction
            again &= ~(remainder > before / 2)
            if not again.any():
                break
        column[:, -1] = remainder
        column = column.double().cpu()
        skewed = torch.linalg.vector_norm(column[:, :-2] - self._expected, dim=1)
        self.asymmetry = torch.maximum(self.asymmetry, skewed)
        self._expected = torch.nn.functional.pad(column[:, -1:], (self.size - 1, 0))
        self.projection[:, : self.size, self.size - 1] = column[:, :-1]
        self.projection[:, self.size - 1, : self.size] = column[:, :-1]
        self.following = following.div_(remainder.clamp(min=torch.finfo(following.dtype).tiny)[:, None])
        self.remainder = column[:, -1]
        return column.isfinite().all(1)

    def only(self, stay: Tensor) -> list[int]:
        """Go on with the rows where ``stay``, ``(a,)`` on the CPU, is true; return the operators of the others."""
        if stay.all():
            return []
        rows = stay.nonzero()[:, 0]
        left = [i for i, stays in zip(self.active, stay.tolist(), strict=True) if not stays]
        self.active = [self.active[row] for row in rows.tolist()]
        self.projection, self.remainder = self.projection[rows], self.remainder[rows]
        self.asymmetry, self._expected = self.asymmetry[rows], self._expected[rows]
        rows = rows.to(self.basis.device)
        self.basis, self.images, self.following = self.basis[rows], self.images[rows], self.following[rows]
        return left

    def orthogonal(self, row: int, vector: Tensor) -> Tensor:
        """The direction of ``vector`` outside the basis of ``row``, of unit length."""
        basis = self.basis[row, : self.size]
        self._expected[row] = 0
        for _ in range(2):
            vector = vector - (basis @ vector) @ basis
            vector = vector / euclidean_norm(vector)
        return vector

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``(a, size)`` and eigenvectors (columns) of the projections, float64 on the CPU."""
        values, rotation = torch.linalg.eigh(self.projection[:, : self.size, : self.size])
        return values, rotation

    def pairs(self, rows: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, vectors and true residuals of ``rows``, for the combinations ``rotation``, ``(rows, size)``."""
        rotation = rotation[:, None].to(self.basis)
        basis, images = self.basis[:, : self.size], self.images[:, : self.size]
        if len(rows) < len(basis):
            rows = rows.to(basis.device)
            basis, images = basis[rows], images[rows]
        vectors, images = torch.bmm(rotation, basis)[:, 0], torch.bmm(rotation, images)[:, 0]
        return with_residuals(vectors, images)

    def keep(self, rotation: Tensor, values: Tensor) -> None:
        """Restart from the Ritz vectors in the columns of ``rotation``, ``(a, size, count)``, and their values."""
        count = rotation.shape[2]
        self._expected = torch.bmm(self._expected[:, None], rotation)[:, 0]
        turned = rotation.mT.to(self.basis)
        self.basis[:, :count] = torch.bmm(turned, self.basis[:, : self.size])
        self.images[:, :count] = torch.bmm(turned, self.images[:, : self.size])
        self.size = count
        self.projection.zero_()
        self.projection.diagonal(dim1=1, dim2=2)[:, :count] = values
