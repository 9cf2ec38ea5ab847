"""What is done to torch's functions while something is measured in float64."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout}
_FACTORIES = ("like", "new_", "empty", "full", "zeros", "ones", "rand")  # which take a type, and no values


class MasksOf(TorchFunctionMode):
    """Draws dropout's masks in ``dtype``, whatever they are for: on a GPU another type draws other masks."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        if func not in _DROPOUTS or not isinstance(x, Tensor) or x.dtype == self.dtype:
            return func(*args, **kwargs)
        rest = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        mask = func(torch.ones_like(x, dtype=self.dtype), *args[1:3], **rest)
        return x * mask.to(x.dtype)


class Rounded(TorchFunctionMode):
    """Sees whether numbers of float64 are rounded to another type on the way: ``seen`` is the coarsest.

    Args:
        graph: leave out those that are constants, which round nothing that is differentiated. What a function of
            autograd's own computes inside counts.
    """

    def __init__(self, graph: bool = False) -> None:
        super().__init__()
        self.graph = graph
        self.seen = torch.float64

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(word in getattr(func, "__name__", "") for word in _FACTORIES):
            fine = any(tensor.dtype == torch.float64 for tensor in _tensors((args, kwargs)))
            constants = self.graph and torch.is_grad_enabled() and not _mapped()
            rounded = {
                tensor.dtype
                for tensor in _tensors(result)
                if fine and tensor.is_floating_point() and (tensor.requires_grad or not constants)
            }
            self.seen = max({self.seen, *rounded}, key=lambda dtype: torch.finfo(dtype).eps)
        return result


def _mapped() -> bool:
    """Whether inside of `torch.vmap`, where no tensor says that it requires a gradient."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
