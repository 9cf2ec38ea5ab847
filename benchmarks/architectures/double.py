"""Models that compute in float32 whatever their weights are, in float64."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import nn


@contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    """RMS norms, soft-maxima and recurrences of transformers' models cast to float32, whose rounding would hide errors.

    Inside, ``torch.float32`` in the files that define the model's layers, and ``Tensor.float``, mean float64, and
    torch's grouped product, which has no float64, is that which transformers has for such cases.
    """
    files = {type(module).__module__ for module in model.modules()}
    found = [sys.modules[name] for name in files if not name.startswith(("torch.", "lowland."))]
    changed = [module for module in found if getattr(module, "torch", None) is torch]
    single, grouped = torch.Tensor.float, torch.nn.functional.grouped_mm
    try:
        for module in changed:
            module.torch = _Double("torch")
        torch.Tensor.float = torch.Tensor.double
        torch.nn.functional.grouped_mm = lambda x, weight, offs: torch.ops.transformers.grouped_mm_fallback(
            x, weight, offs
        )
        yield
    finally:
        torch.Tensor.float, torch.nn.functional.grouped_mm = single, grouped
        for module in changed:
            module.torch = torch


class _Double(ModuleType):
    """Torch, but for two names."""

    float32 = float = torch.float64

    def __getattr__(self, name: str):
        return getattr(torch, name)
