"""Groups of examples, each of which is measured for itself, and the mean over them."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lowland.curvature.nondeterminism import DeterminismCheck
from lowland.curvature.objective import Objective
from lowland.curvature.vectors import coarsest
from lowland.torch_tools import level_of_caller

_LOST = 0.1  # share of a rise that rounding may be


@dataclass(frozen=True)
class Sharpness:
    """A rise of the loss, in its units, and what it is the mean of.

    Attributes:
        value: the mean of ``values``, weighted.
        values: of each batch, or of each group of m examples where m was given, in the order of the data.
        weights: what each of them counts, by default its number of examples.
        standard_error: of ``value``. For `sharpness` over the groups, as a sample of all groups there could be; for
            `average_sharpness` over the draws of the noise, at these examples. None with a single one.
    """

    value: float
    values: tuple[float, ...]
    weights: tuple[float, ...]
    standard_error: float | None

    def __repr__(self) -> str:
        """The mean with its error, and of how many it is, without them."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return f"Sharpness({self.value:.6g}{error}, the mean of {len(self.values)})"

    def __float__(self) -> float:
        """The measured ``value``, so that the result can be used as a number."""
        return self.value


def groups(objective: Objective, m: int | None) -> Iterator[tuple[float, Objective]]:
    """Each batch, or each group of m examples within one: its weight, and its loss as an objective of this process.

    Groups are consecutive; the last one of a batch may be smaller.

    Raises:
        TypeError: with ``m``, if a batch isn't two tensors that can be cut.
        ValueError: with ``m``, if a layer couples the examples of a batch that would be cut.
    """
    for weight, x, y in objective.weighted_batches():
        if m is None:
            yield weight, objective.on([(x, y)])
            continue
        if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() and y.dim() and len(x) == len(y)):
            raise TypeError(
                "m cuts batches into groups: it needs two tensors (x, y) of the same length. For other batches leave "
                "m out, or measure each group by itself"
            )
        if len(x) > m:
            _refuse_coupling(objective.model)
        for part in zip(x.split(int(m)), y.split(int(m)), strict=True):
            weight = float(objective.weight(*part))
            if weight != 0:
                yield weight, objective.on([part])


def unchanging_groups(
    objective: Objective, m: int | None, seen: DeterminismCheck
) -> Iterator[tuple[float, Objective, Callable[[Tensor], None]]]:
    """As `groups`, with a third entry: a function that takes the group's loss at w, measured again.

    It raises ValueError if that loss differs from the first, which ``seen`` keeps: one loss of each group more.
    """
    first = [group.loss() for _, group in groups(objective, m)]
    seen(torch.stack(first))
    number = 0
    for number, (weight, group) in enumerate(groups(objective, m), 1):
        yield weight, group, partial(seen.again, number - 1)
    seen.counted(number)


def warn_of_rounding(objective: Objective, rise: float, loss: float) -> None:
    """Warn if ``rise``, a difference of losses, is lost in their rounding.

    Warns:
        UserWarning: if it is below 10 rounding units of ``loss``, in the coarsest type among the parameters'.
    """
    rounding = coarsest(objective.params) * abs(loss)
    if abs(rise) < rounding / _LOST:
        warnings.warn(
            f"the rise is {rise:.2g}, and the losses whose difference it is are rounded by about {rounding:.1g}: take "
            "a larger rho unless the loss is flat here, or measure a copy in float64 on batches of float64, "
            "copy.deepcopy(model).double()",
            stacklevel=level_of_caller(),
        )


def _refuse_coupling(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"batch norm ({name}) mixes the examples of a batch, so that a group of m has no loss of its own: "
                "measure in evaluation mode, or leave m out"
            )
