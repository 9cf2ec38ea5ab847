"""Detects a loss that differs between evaluations at the same weights: its curvature would be noise."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowland.curvature.vectors import coarsest
from lowland.torch_tools import level_of_caller

_GRADIENT = 30  # near a minimum a gradient is a small difference of large ones: it is allowed so much more than a loss
_ON_CPU = 100  # rounding units of the vectors' type
_COARSE = 4  # rounding units of float16 or bfloat16, where the parameters are of these types
_CHANCE = "the loss is not a function of the weights alone"
_SEEN = 0.1  # share of a rise that chance may be
_ADVICE = (
    "Measure on fixed batches, a list of (x, y) without random augmentation. (Dropout, and a loader that shuffles with "
    "torch's global generator, are held fixed; a loader with a generator of its own, persistent workers that draw "
    "random numbers, NumPy's or Python's random numbers are not.)"
)


class DeterminismCheck:
    """Compares all evaluations at the same weights, and raises ValueError if one differs from the first.

    Rounding is allowed. On a CPU the loss may differ by 100 u, relative, with u the rounding unit of the vectors' type
    (1e-5 in float32). On other devices kernels add in varying order and multiply in coarser types (TF32): there it is
    √u (0.03 %). For float16 and bfloat16 parameters it is 4 times their own rounding unit, 0.4 % and 3 %. The gradient
    may differ by 30 times as much, relative to its norm.

    A gradient may differ by rounding alone, and by more: where weights have grown so large that a softmax is all 0 and
    1, two kernels for the same attention give different ones. The loss is then the same, and so is the gradient, bit
    for bit, if it is computed once more in the same way: that is not refused, and ``unsure`` says so.

    Args:
        params: of the model: their types and device count.
        dtype: of the vectors and sums.

    Attributes:
        apart: the largest difference of a loss that was seen, in units of the loss.
        unsure: why a gradient here is rounding, in words; empty where it isn't.
    """

    def __init__(self, params: Sequence[Tensor], dtype: torch.dtype):
        largest = coarsest(params)
        self.unit, self.apart, self.unsure = torch.finfo(dtype).eps, 0.0, ""
        if largest > torch.finfo(torch.float32).eps:
            self.rounding = _COARSE * largest
        elif all(param.device.type == "cpu" for param in params):
            self.rounding = _ON_CPU * self.unit
        else:
            self.rounding = self.unit**0.5
        self.first: tuple[Tensor, Tensor | None] | None = None

    def __call__(
        self,
        losses: Tensor,
        gradient: Tensor | None = None,
        again: Callable[[], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """One more evaluation.

        Args:
            losses: a loss, or one for each group.
            gradient: where it is measured.
            again: makes the same evaluation in the same way. It is called where the gradient differs and the loss
                doesn't.
        """
        if self.first is None:
            self.first = losses, gradient
            return
        loss = _difference(self.first[0], losses)
        self._note(self.first[0], losses)
        if gradient is None or self.first[1] is None:
            self._refuse(loss)
            return
        slope = _difference(self.first[1], gradient)
        if again is not None and loss <= self.rounding and slope > _GRADIENT * self.rounding:
            repeated = again()
            if torch.equal(repeated[0], losses) and torch.equal(repeated[1], gradient):
                self.unsure = (
                    f"the gradient at these weights is a matter of rounding: computed in two ways (by two kernels for "
                    f"the same attention, say) it differs by {slope:.2g}, relative, though each gives the same every "
                    "time. Weights or activations are too large for their type: measure a copy in float64, or lower "
                    "the learning rate if training has diverged"
                )
                self.first = losses, gradient
                return
        self._refuse(loss, slope)

    def warn_beside(self, rise: float) -> None:
        """Warn if ``rise``, a difference of losses, may be chance.

        Warns:
            UserWarning: if losses at the same weights differed by more than a tenth of ``rise``, and by more than 10
                rounding units of the loss.
        """
        assert self.first is not None
        rounding = 10 * self.unit * self.first[0].abs().max().item()
        if self.apart > max(_SEEN * abs(rise), rounding):
            warnings.warn(
                f"the rise is {rise:.2g}, and two evaluations of the loss at the same weights differ by "
                f"{self.apart:.1g}: {_CHANCE}. {_ADVICE}",
                stacklevel=level_of_caller(),
            )

    def finite(self) -> None:
        """Raise FloatingPointError unless the first loss was finite."""
        assert self.first is not None
        loss = self.first[0]
        if not torch.isfinite(loss).all():
            raise FloatingPointError(f"the loss is {loss.item()}")

    @property
    def gradient(self) -> Tensor:
        """The gradient of the first evaluation."""
        assert self.first is not None
        assert self.first[1] is not None
        return self.first[1]

    def again(self, number: int, loss: Tensor) -> None:
        """Compare ``loss``, that of the group with this ``number``, with its first.

        Relative to the larger of that loss and the root mean square of all groups'.
        """
        assert self.first is not None
        losses = self.first[0]
        if number >= len(losses):
            self.counted(number + 1)
        self._note(losses[number], loss)
        scale = max(losses.square().mean().sqrt().item(), losses[number].abs().item(), loss.abs().item())
        self._refuse((loss - losses[number]).abs().item() / scale if scale > 0 else 0.0)

    def counted(self, number: int) -> None:
        """Raise ValueError unless there are as many groups as at the first evaluation."""
        assert self.first is not None
        if number != len(self.first[0]):
            raise ValueError(f"{_CHANCE}: there were {len(self.first[0])} groups of examples, now {number}. {_ADVICE}")

    def _note(self, first: Tensor, now: Tensor) -> None:
        self.apart = max(self.apart, (now - first).abs().max().item())

    def _refuse(self, loss: float, gradient: float | None = None) -> None:
        if loss > self.rounding or (gradient or 0.0) > _GRADIENT * self.rounding:
            also = "" if gradient is None else f" and {gradient:.2g} in the gradient"
            raise ValueError(
                f"{_CHANCE}: two evaluations at the same weights differ by {loss:.2g} in the loss{also}, relative. "
                f"{_ADVICE}"
            )


def _difference(a: Tensor, b: Tensor) -> float:
    """The relative difference, in the Euclidean norm."""
    largest = max(torch.linalg.vector_norm(a).item(), torch.linalg.vector_norm(b).item())
    return torch.linalg.vector_norm(a - b).item() / largest if largest > 0 else 0.0
