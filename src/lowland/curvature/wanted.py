"""Which eigenpairs are wanted, how exact, and how much they may take: what every search for eigenpairs is given."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowland.checks import count, is_count
from lowland.curvature.arguments import check_start, check_tolerance

Which = Literal["magnitude", "largest", "smallest", "ends"]


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a search for eigenpairs is given.

    Attributes:
        k: how many pairs; with ``"ends"``, at each end.
        tol: relative residual to reach: ‖Hv − λv‖ ≤ tol · |λ₁|, λ₁ the largest in magnitude seen.
        which: ends of the spectrum: largest ``"magnitude"``, or algebraically ``"largest"`` or ``"smallest"``, or
            ``"ends"``: the k largest, in falling order, and then the k smallest, in rising order.
        start: a vector ``(n,)`` near the wanted eigenvector, from an earlier call, say; or several, ``(j, n)``.
        max_products: give up after so many; the best pairs so far come back with ``converged`` False.
        max_basis: memory: at most 2 · max_basis vectors are kept; past that it restarts from the best half.
        generator: for the random start, on the CPU; by default one seeded with 0, so that calls repeat.
        floor: |λ₁| counts as at least this: what is smaller by far is rounding, and need not be resolved.
    """

    k: int = 1
    tol: float = 1e-3
    which: Which = "magnitude"
    start: Tensor | None = None
    max_products: int = 500
    max_basis: int = 64
    generator: torch.Generator | None = None
    floor: float = 0.0

    def check(self, n: int) -> None:
        """Refuse what makes no sense for an operator of dimension n.

        Raises:
            TypeError: for a start that is no tensor, a generator that is none.
            ValueError: for a k, tol, basis or start that makes no sense.
        """
        if not is_count(self.k, 1) or self.k > n:
            raise ValueError(f"k must be an integer between 1 and the dimension {n}, not {self.k!r}")
        check_tolerance(self.tol)
        if self.which not in ("magnitude", "largest", "smallest", "ends"):
            raise ValueError(f'which must be "magnitude", "largest", "smallest" or "ends", not {self.which!r}')
        if self.pairs > n:
            raise ValueError(
                f"k pairs at each end are 2k of the {n} that there are: k must be at most {n // 2}, not {self.k}"
            )
        count("max_basis", self.max_basis)
        if self.basis(n) < min(n, self.pairs + 2):
            raise ValueError(
                f"{self.pairs} pairs need a basis of at least {self.pairs + 2} vectors, not {self.basis(n)}"
            )
        count("max_products", self.max_products)
        if not isinstance(self.generator, torch.Generator | None):
            raise TypeError(f"generator must be a torch.Generator or None, not a {type(self.generator).__name__}")
        if self.start is not None:
            check_start(self.start, n)

    @property
    def pairs(self) -> int:
        """How many in all."""
        return int(2 * self.k if self.which == "ends" else self.k)

    def basis(self, n: int) -> int:
        """How many vectors the basis has at most, for an operator of dimension n."""
        return int(min(self.max_basis, n))

    def random(self) -> torch.Generator:
        """What draws the random vectors."""
        return torch.Generator().manual_seed(0) if self.generator is None else self.generator
