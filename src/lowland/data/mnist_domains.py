"""RotatedMNIST and ColoredMNIST: domains made from MNIST, as Gulrajani & Lopez-Paz 2021 do for their benchmark.

MNIST's training and test images are joined, shuffled, and dealt to the domains in turn.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.data.batches import seeded
from lowland.data.dataset import Dataset
from lowland.data.domains import Domains
from lowland.data.split import Split

#: Degrees, counter-clockwise.
ANGLES = (0, 15, 30, 45, 60, 75)

#: Domain → how often the colour is not that of the label.
COLOURS = {"+90%": 0.1, "+80%": 0.2, "-90%": 0.9}
LABEL_NOISE = 0.25


def rotated_mnist(mnist: Dataset, seed: int = 0) -> Domains:
    """Six domains, each of digits turned by one of `ANGLES` (Ghifary et al. 2015).

    ``mnist``: the dataset as `load` gives it, on any device, where the domains are made. Inputs are uint8
    ``(n, 1, 28, 28)``. The deal depends on ``seed`` and the number of images alone.
    """
    dealt = _dealt(mnist, len(ANGLES), seeded(seed, 2**30))
    splits = {
        str(angle): Split(rotate(part.inputs, angle), part.targets) for angle, part in zip(ANGLES, dealt, strict=True)
    }
    return Domains("rotated-mnist", splits, mnist.classes)


def colored_mnist(mnist: Dataset, seed: int = 0) -> Domains:
    """Three domains of red and green digits whose colour says more about the label than their shape does.

    The label is 1 for digits below 5, and wrong for a quarter of the images; the colour is that of the label, and wrong
    for 10 %, 20 % and 90 % (Arjovsky et al. 2019, *Invariant risk minimization*, at 28 × 28 pixels).

    ``mnist``: as for `rotated_mnist`. Inputs are uint8 ``(n, 2, 28, 28)``: the digit is in the channel of its colour,
    the other channel is zero. ``attributes`` are the colours. The draws depend on ``seed`` and the number of images
    alone.
    """
    generator = seeded(seed, 2**30)
    splits = {}
    for part, (name, wrong) in zip(_dealt(mnist, len(COLOURS), generator), COLOURS.items(), strict=True):
        noise, flips = (torch.rand(len(part), generator=generator).to(part.inputs.device) for _ in range(2))
        targets = (_targets(part) < 5) ^ (noise < LABEL_NOISE)
        colours = (targets ^ (flips < wrong)).long()
        channels = F.one_hot(colours, 2).to(torch.uint8).view(-1, 2, 1, 1)
        splits[name] = Split(part.inputs * channels, targets.long(), attributes=colours)
    return Domains("colored-mnist", splits, ("5 to 9", "0 to 4"))


def rotate(images: Tensor, angle: float) -> Tensor:
    """``images``, uint8 ``(n, channels, side, side)``, turned counter-clockwise by ``angle`` degrees.

    About their centre, bilinearly, with zeros from outside; rounded.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # From a pixel of the result to where it comes from; the vertical axis points down.
    back = torch.tensor([[[cosine, -sine, 0], [sine, cosine, 0]]], device=images.device)
    grid = F.affine_grid(back, [1, *images.shape[1:]], align_corners=False).expand(len(images), -1, -1, -1)
    turned = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned.round().to(torch.uint8)


def _dealt(mnist: Dataset, parts: int, generator: torch.Generator) -> Sequence[Split]:
    splits = [mnist.train] if mnist.test is None else [mnist.train, mnist.test]
    joined = Split(torch.cat([split.inputs for split in splits]), torch.cat([_targets(split) for split in splits]))
    order = torch.randperm(len(joined), generator=generator)
    return [joined.take(order[part::parts]) for part in range(parts)]


def _targets(split: Split) -> Tensor:
    if split.targets is None:
        raise ValueError("images without labels make no domains")
    return split.targets
