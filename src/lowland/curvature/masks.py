"""The same masks of dropout in float64 as in the parameters' own type."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout}


class MasksOf(TorchFunctionMode):
    """Draws dropout's masks in ``dtype``, whatever they are for: on a GPU another type draws other masks."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        if func not in _DROPOUTS or not isinstance(x, Tensor) or x.dtype == self.dtype:
            return func(*args, **kwargs)
        rest = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        mask = func(torch.ones_like(x, dtype=self.dtype), *args[1:3], **rest)
        return x * mask.to(x.dtype)
