"""Random views of photographs, a whole batch at a time on its own device."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow has it
_DRAWS = 10


def random_view(images: Tensor, *, generator: torch.Generator, colour: bool = True) -> Tensor:
    """Each image cropped, resized, mirrored and recoloured at random, as Gulrajani & Lopez-Paz 2021 do.

    A crop of 70 to 100 % of the area and of a ratio of sides between 3/4 and 4/3, resized bilinearly; half of the
    images mirrored; brightness, contrast and saturation times 0.7 to 1.3 and hue by up to 0.3 turns, in this order (the
    order is ours; the benchmark draws it); a tenth turned grey.

    Args:
        images: floating ``(n, 3, height, width)`` in [0, 1].
        generator: on the CPU; the draws are the same wherever the images are.
        colour: whether images are recoloured and turned grey, too; otherwise cropped, resized and mirrored only.

    Returns:
        Such images, of the same shape.
    """
    drawn = torch.rand(len(images), 8 + 2 * _DRAWS, generator=generator).to(images.device)
    areas = 0.7 + 0.3 * drawn[:, 8 : 8 + _DRAWS]
    ratios = torch.exp((2 * drawn[:, 8 + _DRAWS :] - 1) * math.log(4 / 3))
    images = _crop(images, areas, ratios, drawn[:, 0], drawn[:, 1], drawn[:, 2] < 0.5)
    if not colour:
        return images
    brightness, contrast, saturation = (0.7 + 0.6 * drawn[:, k].view(-1, 1, 1, 1) for k in (3, 4, 5))
    images = (brightness * images).clamp(0, 1)
    mean = grey(images).mean((2, 3), keepdim=True)
    images = (mean + contrast * (images - mean)).clamp(0, 1)
    colourless = grey(images)
    images = (colourless + saturation * (images - colourless)).clamp(0, 1)
    images = shift_hue(images, 0.6 * drawn[:, 6] - 0.3)
    return torch.where(drawn[:, 7].view(-1, 1, 1, 1) < 0.1, grey(images), images)


def grey(images: Tensor) -> Tensor:
    """The luminance of ``(n, 3, height, width)``, ``(n, 1, height, width)``."""
    return (images * images.new_tensor(_GREY).view(3, 1, 1)).sum(1, keepdim=True)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """``images`` in [0, 1], ``(n, 3, height, width)``, the hue of each turned by ``turns``, ``(n,)``."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = (sixths + 6 * turns.view(-1, 1, 1)).unsqueeze(1)
    offsets = images.new_tensor([5, 3, 1]).view(3, 1, 1)
    k = (hue + offsets) % 6
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)


def _crop(images: Tensor, areas: Tensor, ratios: Tensor, across: Tensor, down: Tensor, mirrored: Tensor) -> Tensor:
    """The first of the crops ``(n, draws)`` that fits into its image, or all of it; at ``across`` and ``down``."""
    sides = torch.stack([(areas * ratios).sqrt(), (areas / ratios).sqrt()])  # in parts of width and height
    fits = (sides <= 1).all(0)
    first = fits.int().argmax(1, keepdim=True)
    chosen = sides.gather(2, first.expand(2, -1, -1)).squeeze(2)
    width, height = torch.where(fits.any(1), chosen, 1)
    zero = torch.zeros_like(width)
    rows = [
        torch.stack([torch.where(mirrored, -width, width), zero, (2 * across - 1) * (1 - width)], 1),
        torch.stack([zero, height, (2 * down - 1) * (1 - height)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1).to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
