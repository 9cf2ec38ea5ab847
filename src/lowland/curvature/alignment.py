"""How parallel two directions are."""

import torch
from torch import Tensor

from lowland.curvature.vectors import euclidean_norm


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """|cos| of the angle between two vectors of one shape, a 0-d tensor in [0, 1]; 0 if either is zero.

    NaN if either has an entry that isn't finite.

    Raises:
        TypeError: for what is no tensor of floating-point numbers.
        ValueError: for vectors of different sizes.
    """
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.is_floating_point() and b.is_floating_point()):
        raise TypeError("alignment is that of two tensors of floating-point numbers")
    if a.numel() != b.numel():
        raise ValueError(f"alignment is that of two vectors of one size, not of {a.numel()} and {b.numel()} entries")
    tiny = torch.finfo(a.dtype).tiny
    a, b = (v.reshape(-1) / v.abs().max().clamp(min=tiny) for v in (a, b))  # so that no square over- or underflows
    norms = euclidean_norm(a) * euclidean_norm(b)
    return torch.where(norms != 0, ((a * b).sum() / norms).abs().clamp(max=1), torch.zeros_like(norms))
