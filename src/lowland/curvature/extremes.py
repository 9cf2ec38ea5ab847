"""Eigenpairs at both ends of a spectrum, each eigenvalue as often as it occurs."""

from dataclasses import replace

import torch
from torch import Tensor

from lowland.curvature.lanczos import FEWEST_PRODUCTS, Eigenpairs, Operator, check_operator, eigenpairs, wanted_first
from lowland.curvature.vectors import euclidean_norm
from lowland.curvature.wanted import Wanted, Which

_ROUGH = 0.03  # residual over |λ₁| at which a look for more pairs first asks whether any can be wanted


def extremes(operator: Operator, wanted: Wanted) -> Eigenpairs:
    """Extreme eigenpairs of which none is missed: copies of a multiple eigenvalue, too.

    A Krylov space has a single vector of each eigenspace, so that `lowland.curvature.lanczos.eigenpairs` may give one
    copy of a multiple eigenvalue and go on to the next. Here the pairs found are taken out of the operator (deflation:
    Parlett 1998, *The Symmetric Eigenvalue Problem*, section 5.1; Saad 2011, *Numerical Methods for Large Eigenvalue
    Problems*, section 4.2), and an iteration with a new random vector looks for a pair more wanted than the last of
    them, until there is none. Two that differ by less than tol · |λ₁| are as good as each other. It takes some 8 to 30
    products for each end, and as many as a pair takes for each copy found.

    That nothing is missed rests on the random vectors, as there.

    Args:
        operator: H.
        wanted: which pairs, how exact, and at what price, the search for copies included. The pairs found are kept in
            memory beside the basis.

    Raises:
        TypeError: for an operator that has no products, a generator that is none.
        ValueError: for arguments out of range.
        FloatingPointError: if a product is not finite.
    """
    check_operator(operator)
    wanted.check(operator.n)
    counter = _Counter(operator)
    wanted = replace(wanted, generator=wanted.random())
    k, tol, which = wanted.k, wanted.tol, wanted.which
    pairs = eigenpairs(counter.operator, wanted)
    if not pairs.converged:
        return pairs
    found = _Found(counter.operator, pairs)
    unknown = ""
    for end in _ENDS[which]:
        while not unknown and len(found.vectors) < operator.n:
            more = _one_more(found, end, wanted, wanted.max_products - counter.products)
            if more is None:
                break
            if more.reason:
                unknown = (
                    f"after {counter.products} products it isn't known whether an eigenvalue occurs several times: "
                    "raise max_products or tol"
                )
            else:
                found.add(more.vectors[0])
    values, vectors, residuals = found.wanted(which, k)
    worst = residuals.max().item()
    if not unknown and worst > tol * pairs.largest:
        unknown = f"the residual is {worst:.2g}, above tol · |λ₁| = {tol * pairs.largest:.2g}: lower tol"
    return replace(
        pairs, values=values, vectors=vectors, residuals=residuals, products=counter.products,
        converged=not unknown, reason=unknown,
    )  # fmt: skip


_ENDS: dict[Which, tuple[Which, ...]] = {
    "ends": ("largest", "smallest"), "largest": ("largest",), "smallest": ("smallest",), "magnitude": ("magnitude",)
}  # fmt: skip


class _Counter:
    """An operator that counts its products."""

    def __init__(self, operator: Operator):
        self.products = 0

        def product(vector: Tensor) -> Tensor:
            self.products += 1
            return operator.product(vector)

        self.operator = operator._replace(product=product)


class _Found:
    """Orthonormal pairs: those of an iteration, and what was found besides."""

    def __init__(self, operator: Operator, pairs: Eigenpairs):
        self.operator = operator
        self.values, self.vectors, self.residuals, self.scale = (
            pairs.values.double().cpu(), pairs.vectors, pairs.residuals.double().cpu(), pairs.largest
        )  # fmt: skip
        self._images: Tensor | None = None

    def deflated(self, end: Which) -> Operator:
        """The operator with these pairs moved to where they are wanted least."""
        basis = self.vectors
        place = {"largest": -self.scale, "smallest": self.scale, "magnitude": 0.0}[end]

        def product(vector: Tensor) -> Tensor:
            inside = (basis @ vector) @ basis
            image = self.operator.product(vector - inside)
            return image - (basis @ image) @ basis + place * inside

        return self.operator._replace(product=product)

    def last(self, end: Which, k: int) -> float:
        """The k-th most wanted value at one end."""
        return self.values[wanted_first(self.values, end)[k - 1]].item()

    def add(self, vector: Tensor) -> None:
        """Take up one more vector, and turn all so that they are the eigenvectors within their span."""
        for _ in range(2):
            vector = vector - (self.vectors @ vector) @ self.vectors
        vector = vector / euclidean_norm(vector)
        if self._images is None:
            self._images = torch.stack([self.operator.product(v) for v in self.vectors])
        vectors = torch.cat([self.vectors, vector[None]])
        images = torch.cat([self._images, self.operator.product(vector)[None]])
        projection = (vectors @ images.T).double().cpu()
        self.values, rotation = torch.linalg.eigh((projection + projection.T) / 2)
        turn = rotation.T.to(vectors)
        self.vectors, self._images = turn @ vectors, turn @ images
        away = self._images - self.values[:, None].to(vectors) * self.vectors
        self.residuals = euclidean_norm(away).double().cpu()

    def wanted(self, which: Which, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Values, vectors and residuals of the wanted pairs, in their order."""
        order = wanted_first(self.values, which)
        chosen = torch.cat([order[: 2 * k : 2], order[1 : 2 * k : 2]]) if which == "ends" else order[:k]
        vectors = self.vectors[chosen.to(self.vectors.device)]
        return self.values[chosen].to(vectors), vectors, self.residuals[chosen].to(vectors)


def _one_more(found: _Found, end: Which, wanted: Wanted, left: int) -> Eigenpairs | None:
    """A pair more wanted than the k-th of those found; None if there is none, with a reason if that isn't known."""
    operator = found.deflated(end)
    sign = -1.0 if end == "smallest" else 1.0
    last = found.last(end, wanted.k)
    last, slack = abs(last) if end == "magnitude" else sign * last, wanted.tol * found.scale
    one = replace(wanted, k=1, tol=max(_ROUGH, wanted.tol), which=end, start=None, floor=slack)
    while True:
        if left < min(FEWEST_PRODUCTS, operator.n):
            return _UNKNOWN
        pairs = eigenpairs(operator, replace(one, max_products=left))
        left -= pairs.products
        value = pairs.values.item()
        value = abs(value) if end == "magnitude" else sign * value
        residual = pairs.residuals.item()
        if pairs.converged and value + residual <= last + slack:
            return None
        if not pairs.converged:
            return pairs
        if residual <= slack:
            return pairs if value > last + slack else None
        one = replace(one, tol=0.99 * slack / pairs.largest, start=pairs.vectors)


_UNKNOWN = Eigenpairs(torch.zeros(0), torch.zeros(0), torch.zeros(0), 0, False, "no products left")
