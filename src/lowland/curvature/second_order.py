"""What torch must do otherwise while derivatives are differentiated once more."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lowland.curvature.batch_norm import batch_norm
from lowland.torch_tools import uncompiled

# What torch says of a function that can't be differentiated twice.
_ONCE = ("differentiate twice", "is not implemented", "double backward", "twice differentiable")


@contextmanager
def differentiable_twice(model: nn.Module) -> Iterator["Region"]:
    """The region in which losses, gradients and Hessian products are computed, every product included.

    Fused attention has no second derivative: the math kernel is chosen, also where a product computes checkpointed
    activations again. Compiled graphs have none either: they run uncompiled. The second derivative of
    ``torch._weight_norm_interface`` is wrong (torch 2.13; `torch.autograd.gradgradcheck` fails): weight norm is
    computed from its formula. Where a product computes checkpointed activations again, batch norm in them meets copies
    of the model's buffers.

    Raises:
        RuntimeError: torch's own, with what to do, for an operation that can't be differentiated twice.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    region = Region()
    with sdpa_kernel(SDPBackend.MATH), uncompiled(), region, _copied_buffers(model):
        try:
            yield region
        except RuntimeError as error:
            if any(words in str(error).lower() for words in _ONCE):
                raise RuntimeError(
                    f"an operation of the model has no second derivative, so there are no Hessian products: {error}. "
                    "Write it in differentiable operations (a custom autograd.Function needs a differentiable "
                    "backward)"
                ) from error
            raise


@contextmanager
def _copied_buffers(model: nn.Module) -> Iterator[None]:
    copies = {id(buffer): buffer.clone() for buffer in model.buffers()}
    places = [(m, name, b) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    try:
        for module, name, buffer in places:
            module._buffers[name] = copies[id(buffer)]
        yield
    finally:
        for module, name, buffer in places:
            module._buffers[name] = buffer


class Region(TorchFunctionMode):
    """Computes operations whose second derivative torch gets wrong, or slowly, from their formulas.

    Attributes:
        kinks: whether a ReLU has been seen: differences of gradients then take short steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinks = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.kinks = self.kinks or "relu" in getattr(func, "__name__", "")
        instead = _INSTEAD.get(func)
        return (instead or func)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """G v/‖v‖, the norm over all dimensions but ``dim``; -1: over all."""
    return v * (g / _norm(v, dim))


def _weight_norm_interface(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    norm = _norm(v, dim)
    return v * (g / norm), norm


def _norm(v: Tensor, dim: int) -> Tensor:
    if dim == -1:
        return torch.linalg.vector_norm(v)
    others = [d for d in range(v.dim()) if d != dim]
    return torch.linalg.vector_norm(v, dim=others, keepdim=True) if others else v.abs()


_INSTEAD: dict[Any, Callable[..., Any]] = {
    torch.nn.functional.batch_norm: batch_norm,
    torch._weight_norm: _weight_norm,
    torch._weight_norm_interface: _weight_norm_interface,
    torch.ops.aten._weight_norm: _weight_norm,
    torch.ops.aten._weight_norm.default: _weight_norm,
    torch.ops.aten._weight_norm_interface: _weight_norm_interface,
    torch.ops.aten._weight_norm_interface.default: _weight_norm_interface,
}
