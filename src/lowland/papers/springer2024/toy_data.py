"""Points with an easy feature, a hard one, and noise (after Shah et al. 2020, *The Pitfalls of Simplicity Bias*)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.data.batches import seeded

MARGIN = 0.1  # of the linear coordinate from 0, and of a slab from the middle of the gap beside it
OUTER = 0.25  # share of the outer two of 5 slabs in the points of their label


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


def draw_points(
    n: int, slabs: int, noise: int, correlation: float, seed: int, part: int, *, rotate: bool = False
) -> Points:
    """``n`` points of one seed, ``(1, n, …)`` each, float64.

    Coordinates lie in [−1, 1], as the public generator of Shah et al. 2020 has them. The first is easy: its label times
    a number that is uniform in [`MARGIN`, 1]. The second is hard: an odd number of slabs of equal width with gaps of 2
    `MARGIN` between them, whose labels alternate from − in the centre on; the coordinate lies in one of those of its
    label, uniformly, and on either side alike. Of 5 slabs the outer two have a quarter of their label's points. The
    others are uniform (ours: around 0). With probability ``correlation`` the easy label is the hard one, else either.

    Args:
        n: how many.
        slabs: 3 or 5.
        noise: coordinates without meaning.
        correlation: in [0, 1].
        seed: of the draws, and of the rotation.
        part: 0, 1, ... for training, validation, ... points, each a draw of its own.
        rotate: whether all points are rotated at random, alike in all parts.
    """
    generator = seeded(seed, 2**30 + part)

    def uniform() -> Tensor:
        return torch.rand(n, generator=generator, dtype=torch.float64)

    def sign() -> Tensor:
        return torch.where(uniform() < 0.5, 1.0, -1.0).double()

    hard = sign()
    easy = torch.where(uniform() < correlation, hard, sign())
    linear = easy * (MARGIN + (1 - MARGIN) * uniform())
    width = (2 - 2 * (slabs - 1) * MARGIN) / slabs
    outer = torch.where(uniform() < OUTER, 2, 0) if slabs == 5 else torch.zeros(n, dtype=torch.int64)
    ring = torch.where(hard > 0, 1, outer)  # 0 is the slab in the centre
    within = width * uniform()
    distance = torch.where(ring > 0, (ring - 0.5) * width + 2 * MARGIN * ring + within, within / 2)
    slabbed = sign() * distance
    others = 2 * torch.rand(n, noise, generator=generator, dtype=torch.float64) - 1
    x = torch.cat([linear[:, None], slabbed[:, None], others], 1)
    if rotate:
        drawn = torch.randn(x.shape[1], x.shape[1], generator=seeded(seed, 2**30 - 1), dtype=torch.float64)
        x = x @ torch.linalg.qr(drawn)[0]
    return Points(x[None], easy[None], hard[None])


def together(several: list[Points]) -> Points:
    """Those of several seeds."""
    return Points(*(torch.cat([getattr(each, name) for each in several]) for name in ("x", "easy", "hard")))
