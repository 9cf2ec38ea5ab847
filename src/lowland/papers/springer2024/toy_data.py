"""Points with an easy feature, a hard one, and noise (after Shah et al. 2020, *The Pitfalls of Simplicity Bias*)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.data.batches import seeded

MARGIN = 0.1  # of the linear coordinate from 0, and of the other one from a slab's sides, as a share of its width


@dataclass(frozen=True)
class Points:
    """Points of several seeds: ``x`` ``(seeds, n, 2 + noise)``; ``easy`` and ``hard`` labels ±1, ``(seeds, n)``.

    The label to learn is the hard one's.
    """

    x: Tensor
    easy: Tensor
    hard: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Points":
        """The same there, as that type."""
        return Points(*(tensor.to(device, dtype) for tensor in (self.x, self.easy, self.hard)))


def draw_points(n: int, slabs: int, noise: int, correlation: float, seed: int, part: int) -> Points:
    """``n`` points of one seed, ``(1, n, …)`` each, float64.

    The first coordinate is easy, uniform in [`MARGIN`, 1] times its label. The second is hard: [−1, 1] falls into
    ``slabs`` of equal width, whose labels alternate from + on, and the coordinate lies in one of those of its label.
    The others are standard normal. With probability ``correlation`` the easy label is the hard one, else either.

    Args:
        n: how many.
        slabs: at least 2.
        noise: coordinates without meaning.
        correlation: in [0, 1].
        seed: of the draws.
        part: 0, 1, ... for training, validation, ... points, each a draw of its own.
    """
    generator = seeded(seed, 2**30 + part)

    def uniform() -> Tensor:
        return torch.rand(n, generator=generator, dtype=torch.float64)

    def sign() -> Tensor:
        return torch.where(uniform() < 0.5, 1.0, -1.0).double()

    hard = sign()
    easy = torch.where(uniform() < correlation, hard, sign())
    linear = easy * (MARGIN + (1 - MARGIN) * uniform())
    of_label = torch.where(hard > 0, (slabs + 1) // 2, slabs // 2)
    slab = 2 * (uniform() * of_label).floor() + (hard < 0)
    inside = MARGIN + (1 - 2 * MARGIN) * uniform()
    slabbed = 2 * (slab + inside) / slabs - 1
    others = torch.randn(n, noise, generator=generator, dtype=torch.float64)
    x = torch.cat([linear[:, None], slabbed[:, None], others], 1)
    return Points(x[None], easy[None], hard[None])


def together(several: list[Points]) -> Points:
    """Those of several seeds."""
    return Points(*(torch.cat([getattr(each, name) for each in several]) for name in ("x", "easy", "hard")))
