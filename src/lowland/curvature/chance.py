"""A loss must be a function of the weights, or what is measured of it is noise."""

import torch
from torch import Tensor

_GRADIENT = 30  # near a minimum a gradient is a small difference of large ones: it is allowed so much more than a loss
_COARSE = 4  # rounding units of float16 or bfloat16, where the parameters are of these types
_CHANCE = "the loss is not a function of the weights alone"
_ADVICE = (
    "Measure on fixed batches, a list of (x, y) without random augmentation. (Dropout, and a loader that shuffles with "
    "torch's global generator, are held fixed; a loader with a generator of its own, persistent workers that draw "
    "random numbers, NumPy's or Python's random numbers are not.)"
)


class Unchanging:
    """Sees every evaluation at the same weights, and raises ValueError at one that is not the first again.

    What may differ is rounding, as of kernels that add up in changing order: of the loss √u, relative, u the rounding
    unit of the vectors' type (in float32 0.03 %), and of the gradient 30 times as much of its norm. For parameters of
    float16 and bfloat16 it is 4 times their own rounding unit, 0.4 % and 3 %.

    Args:
        dtype: of the vectors and sums.
        coarsest: the largest rounding unit of the parameters' types.
    """

    def __init__(self, dtype: torch.dtype, coarsest: float):
        single = coarsest <= torch.finfo(torch.float32).eps
        self.rounding = torch.finfo(dtype).eps ** 0.5 if single else _COARSE * coarsest
        self.first: tuple[Tensor, Tensor | None] | None = None

    def __call__(self, losses: Tensor, gradient: Tensor | None = None) -> None:
        """One more evaluation: a loss, or one for each group, and the gradient where that is measured."""
        if self.first is None:
            self.first = losses, gradient
            return
        loss = _difference(self.first[0], losses)
        if gradient is None or self.first[1] is None:
            self._refuse(loss)
        else:
            self._refuse(loss, _difference(self.first[1], gradient))

    def finite(self) -> None:
        """Raise FloatingPointError if the loss was not."""
        assert self.first is not None
        loss = self.first[0]
        if not torch.isfinite(loss).all():
            raise FloatingPointError(f"the loss is {loss.item()}")

    @property
    def gradient(self) -> Tensor:
        """Of the first evaluation."""
        assert self.first is not None
        assert self.first[1] is not None
        return self.first[1]

    def again(self, number: int, loss: Tensor) -> None:
        """The loss of one of the groups once more: relative to all, root mean square, if that is larger."""
        assert self.first is not None
        losses = self.first[0]
        if number >= len(losses):
            self.counted(number + 1)
        scale = max(losses.square().mean().sqrt().item(), losses[number].abs().item(), loss.abs().item())
        self._refuse((loss - losses[number]).abs().item() / scale if scale > 0 else 0.0)

    def counted(self, number: int) -> None:
        """How many groups there were."""
        assert self.first is not None
        if number != len(self.first[0]):
            raise ValueError(f"{_CHANCE}: there were {len(self.first[0])} groups of examples, now {number}. {_ADVICE}")

    def _refuse(self, loss: float, gradient: float | None = None) -> None:
        if loss > self.rounding or (gradient or 0.0) > _GRADIENT * self.rounding:
            also = "" if gradient is None else f" and {gradient:.2g} in the gradient"
            raise ValueError(
                f"{_CHANCE}: two evaluations at the same weights differ by {loss:.2g} in the loss{also}, relative. "
                f"{_ADVICE}"
            )


def _difference(a: Tensor, b: Tensor) -> float:
    """Relative, in the Euclidean norm."""
    largest = max(torch.linalg.vector_norm(a).item(), torch.linalg.vector_norm(b).item())
    return torch.linalg.vector_norm(a - b).item() / largest if largest > 0 else 0.0
