"""How results lie in memory: as without the passes, since dropout draws in that order.

What torch decides on it goes by the strides of all that a function is given, even along dimensions of size one, and
differs by function, type and device. So it isn't foretold, but seen: the function is called once for all tensors that
lie alike, on zeros.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lowland.values import Args, Function, Tree

#: Of sequences, images and volumes: fewer dimensions always lie in order.
_MANY = 3


@dataclass(frozen=True)
class _Form:
    """Of a tensor, all but its values."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def as_plain(out: Tensor, func: Function, *args: Tree) -> Tensor:
    """``out``, in memory as ``func(*args)``, the function without the passes, gives it."""
    if out.ndim < _MANY:
        return out
    device = out.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return with_strides(out, _strides(func, tuple(map(_form, args)), autocast))


def with_strides(out: Tensor, strides: tuple[int, ...]) -> Tensor:
    """``out``, or a copy of it with these ``strides``."""
    if out.stride() == strides:
        return out
    return torch.empty_strided(out.shape, strides, dtype=out.dtype, device=out.device).copy_(out)


def more_rows(out: Tensor, some: Tensor) -> Tensor:
    """``out``, in memory as ``some``, which is a part of its rows."""
    return with_strides(out, some.stride()) if some.stride(0) == some[0].numel() else out


def zeros(value: Tree) -> Tree:
    """Zeros that lie as ``value``, if that is a tensor."""
    return _made(_form(value)) if isinstance(value, Tensor) else value


@lru_cache(maxsize=4096)
def _strides(func: Function, forms: Args, autocast: torch.dtype | None) -> tuple[int, ...]:
    """Of what ``func`` gives, under the ``autocast`` that is on."""
    with torch.no_grad():
        found: Tensor = func(*map(_made, forms))
    return found.stride()


def _form(value: Tree) -> Tree:
    if isinstance(value, Tensor):
        return _Form(value.shape, value.stride(), value.dtype, value.device)
    return tuple(value) if isinstance(value, list) else value


def _made(form: Tree) -> Tree:
    if not isinstance(form, _Form):
        return form
    return torch.empty_strided(form.shape, form.strides, dtype=form.dtype, device=form.device).zero_()
