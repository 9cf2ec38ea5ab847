"""How the networks' weights are initialized."""

import math
from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def glorot_normal_(model: M) -> M:
    """Truncated normal weights of variance 2/(fan_in + fan_out) after truncation, zero biases, in place.

    The variance is that of Glorot & Bengio 2010, equation 12. The normal is truncated at two standard deviations, as in
    Flax's ``glorot_normal``, which Long & Bartlett 2024 use.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            outputs, inputs = module.weight.shape[:2]
            patch = module.weight[0, 0].numel()  # pixels under a kernel; 1 for a linear layer
            truncated_normal_(module.weight, math.sqrt(2 / ((inputs + outputs) * patch)) / _TRUNCATED)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def he_normal_(model: M) -> M:
    """Normal weights of variance 2/fan_out for convolutions (He et al. 2015, equation 14), zero biases, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


# Standard deviation of a standard normal truncated at ±2.
_TRUNCATED = 0.8796256610342398


def truncated_normal_(weight: Tensor, std: float) -> None:
    """Draw ``weight`` from a normal of standard deviation ``std``, truncated at ±2 ``std``, in place."""
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def variance_scaling_(weight: Tensor, scale: float) -> None:
    """Draw ``weight``, ``(out, in)``, from a truncated normal of variance ``scale`` / fan_in, in place."""
    truncated_normal_(weight, math.sqrt(scale / weight.shape[1]) / _TRUNCATED)
