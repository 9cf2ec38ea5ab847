"""A loss must be a function of the weights, or what is measured of it is noise."""

import torch
from torch import Tensor

_GRADIENT = 30  # near a minimum a gradient is a small difference of large ones: it is allowed so much more than a loss


def refuse_chance(first: tuple[Tensor, Tensor], again: tuple[Tensor, Tensor]) -> None:
    """Raise ValueError where two evaluations at the same weights differ by more than rounding can explain.

    That is √u of the loss and 30 √u of the gradient's norm, relative, u the rounding unit of the parameters' type: in
    float32 0.03 % and 1 %. Kernels that add up in changing order stay far below.

    Args:
        first: loss, a 0-d tensor, and gradient ``(n,)``.
        again: the same, evaluated once more.
    """
    rounding = torch.finfo(first[0].dtype).eps ** 0.5
    loss, gradient = (_difference(a, b) for a, b in zip(first, again, strict=True))
    if loss > rounding or gradient > _GRADIENT * rounding:
        raise ValueError(
            "the loss is not a function of the weights alone: two evaluations at the same weights differ by "
            f"{loss:.2g} in the loss and {gradient:.2g} in the gradient, relative. Give the monitor fixed batches, a "
            "list of (x, y) without random augmentation. (Dropout, and a loader that shuffles with torch's global "
            "generator, are held fixed; a loader with a generator of its own, NumPy's or Python's random numbers are "
            "not.)"
        )


def _difference(a: Tensor, b: Tensor) -> float:
    largest = max(torch.linalg.vector_norm(a).item(), torch.linalg.vector_norm(b).item())
    return torch.linalg.vector_norm(a - b).item() / largest if largest > 0 else 0.0
