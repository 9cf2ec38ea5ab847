"""Subspaces in which several symmetric operators of one size are projected, grown in step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.curvature.vectors import euclidean_norm


class Ritz(NamedTuple):
    """Eigenpairs of the projections, float64 on the CPU.

    Attributes:
        values: ascending, ``(a, size)``.
        vectors: in columns, ``(a, size, size)``, in terms of the basis.
    """

    values: Tensor
    vectors: Tensor

    def columns(self, which: Tensor) -> Tensor:
        """Of each operator the vectors that its row of ``which``, ``(a, count)``, names: ``(a, size, count)``."""
        return self.vectors.gather(2, which[:, None].expand(-1, self.vectors.shape[1], -1))


class Subspaces:
    """For each active operator an orthonormal basis Q (rows), its images HQ, the projection QHQᵀ, the next vector.

    Attributes:
        size: how many vectors each basis has.
        active: the operators that are left, ascending: a row of all tensors for each.
        following: the next vectors, ``(a, n)``, of unit length and orthogonal to the bases.
        remainder: the length of each of these before it was scaled, ``(a,)``, float64 on the CPU.
        asymmetry: the largest ‖Q Hv − (QH) v‖ over the vectors v added, of each operator's products, ``(a,)`` likewise.
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
        # Lanczos: all but the last two coefficients are rounding, or, after a restart, small. Taking those two out
        # first makes one pass over the whole basis enough; twice is enough in any case (Giraud et al. 2005).
        column = images.new_zeros(len(images), self.size + 1)
        following = images.clone()  # in place from here on: new memory costs more than the arithmetic
        for recent in range(max(self.size - 2, 0), self.size):
            column[:, recent] = torch.linalg.vecdot(basis[:, recent], images)
            following.addcmul_(column[:, recent, None], basis[:, recent], value=-1)
        remainder = euclidean_norm(following)
        again = torch.ones_like(remainder, dtype=torch.bool)
        for _ in range(2):
            before = remainder
            correction = torch.bmm(basis, following[:, :, None])[:, :, 0]
            correction *= again[:, None]
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

    def turn(self, row: int, vector: Tensor) -> None:
        """Go on in ``row`` with the direction of ``vector``, ``(n,)``, outside the basis."""
        basis = self.basis[row, : self.size]
        self._expected[row] = 0
        for _ in range(2):
            vector = vector - (basis @ vector) @ basis
            vector = vector / euclidean_norm(vector)
        self.following[row] = vector

    def ritz(self) -> Ritz:
        """The eigenpairs of the projections."""
        return Ritz(*torch.linalg.eigh(self.projection[:, : self.size, : self.size]))

    def pairs(self, rows: Tensor, ritz: Ritz, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, vectors and true residuals of ``rows``, of those that their rows of ``which`` name."""
        basis, images = self.basis[:, : self.size], self.images[:, : self.size]
        turned = ritz.columns(which)[rows].mT.to(basis)
        if len(rows) < len(basis):
            rows = rows.to(basis.device)
            basis, images = basis[rows], images[rows]
        return with_residuals(torch.bmm(turned, basis), torch.bmm(turned, images))

    def keep(self, ritz: Ritz, which: Tensor) -> None:
        """Restart each from those of its Ritz vectors that its row of ``which``, ``(a, count)``, names."""
        count, rotation = which.shape[1], ritz.columns(which)
        self._expected = torch.bmm(self._expected[:, None], rotation)[:, 0]
        turned = rotation.mT.to(self.basis)
        self.basis[:, :count] = torch.bmm(turned, self.basis[:, : self.size])
        self.images[:, :count] = torch.bmm(turned, self.images[:, : self.size])
        self.size = count
        self.projection.zero_()
        self.projection.diagonal(dim1=1, dim2=2)[:, :count] = ritz.values.gather(1, which)


def with_residuals(vectors: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rayleigh quotients, ``vectors`` ``(..., n)`` of unit length and true residuals, from ``images``, H times them."""
    lengths = euclidean_norm(vectors)[..., None]
    vectors, images = vectors / lengths, images / lengths
    values = (vectors * images).sum(-1, dtype=torch.float64)
    residuals = euclidean_norm(images - values[..., None].to(images) * vectors)
    return values.cpu(), vectors, residuals.double().cpu()
