"""What a step does, counted while it runs: operations, bytes that they move, and bytes that are held at its peak."""

import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from common import in_turns

_WRITE_ONLY = ("copy_", "fill_", "zero_", "_foreach_copy_", "_foreach_zero_")


@dataclass(frozen=True)
class Counts:
    """Of one call.

    Attributes:
        flops: of matrix products and convolutions, one for a product and one for a sum.
        moved: bytes that operations read and write: every tensor that one takes or gives, each time, whether it
            comes from memory or from a cache. Views move nothing.
        peak: bytes of tensors that live at once, at their most, with those that were there before. What a kernel
            allocates inside is not seen, and what it could free while it runs is counted.
    """

    flops: int
    moved: int
    peak: int


def count(call: Callable[[], Any]) -> Counts:
    """Calls it twice."""
    with FlopCounterMode(display=False, custom_mapping=_FLOPS) as products:
        call()
    with _Bytes() as seen:
        call()
    return Counts(products.get_total_flops(), seen.moved, seen.there + seen.most)


def _convolution_backward(
    d: Any, x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int, which: list[bool], **_: Any,
) -> int:  # fmt: skip
    positions = x if transposed else d
    return sum(which[:2]) * 2 * positions[0] * math.prod(positions[2:]) * math.prod(w)


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


def _attention_backward(d: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(d, q, k, v))


# Torch counts the weight gradients of grouped convolutions as if each group had the channels of all; attention on a
# CPU it doesn't count.
_FLOPS = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _Bytes(TorchDispatchMode):
    __module__ = "torch.utils"  # exact m-SAM takes the loop under modes that aren't torch's: they may change results

    def __init__(self) -> None:
        super().__init__()
        self.moved = self.there = self.live = self.most = 0
        self.known = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        for tensor in given:
            self._meet(tensor, made=False)
        out = func(*args, **kwargs)
        made = [tensor for tensor in _tensors(out) if self._meet(tensor, made=True)]
        self.most = max(self.most, self.live)
        written = [value for argument, value in _arguments(func, args, kwargs) if _is_written(argument)]
        name = func.overloadpacket.__name__
        if (made or written or not _tensors(out)) and "empty" not in name:
            only = _tensors(written) if name in _WRITE_ONLY else []
            self.moved += _bytes(given) - _bytes(only) + _bytes(made) + _bytes(_tensors(written))
        return out

    def _meet(self, tensor: Tensor, *, made: bool) -> bool:
        """Whether its storage is new."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return False
        self.known.add(key)
        if made:
            self.live += size
        else:
            self.there += size
        weakref.finalize(storage, self._forget, key, size if made else 0)
        return True

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensors: list[Tensor]) -> int:
    """Of entries that lie in different places: expanded ones are read once."""
    return sum(
        t.element_size() * math.prod(n for n, step in zip(t.shape, t.stride(), strict=True) if step) * bool(t.numel())
        for t in tensors
    )


def _arguments(func: Any, args: Any, kwargs: Any) -> list[tuple[Any, Any]]:
    known = func._schema.arguments
    named = {argument.name: argument for argument in known}
    return [*zip(known, args, strict=False), *((named[name], value) for name, value in kwargs.items())]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def peak_flops(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, str]:
    """FLOP/s of a large product of two matrices by ``clock``, the best of ten, and its name."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = min(in_turns({"product": lambda: a @ b}, range(10), 1, device, clock)["product"])
    return 2 * size**3 / best, f"measured: a product of two {size:,} × {size:,} matrices"


def peak_bandwidth(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> tuple[float, str]:
    """Bytes/s, read and written together, of the copy of a large tensor by ``clock``, the best of ten; its name."""
    size = 2**30 if device.type == "cuda" else 2**27
    a, b = (torch.ones(size // 4, device=device) for _ in range(2))
    best = min(in_turns({"copy": lambda: b.copy_(a)}, range(10), 1, device, clock)["copy"])
    return 2 * size / best, f"measured: a copy of {size // 2**20} MiB"
