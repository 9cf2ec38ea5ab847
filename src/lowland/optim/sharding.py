"""Parameters in pieces: what this process holds of each, and the norm over what all of them hold.

Tensor-parallel and FSDP2 parameters are DTensors. What SAM does to them is done to their local pieces; only the
norm, one number, crosses between processes.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def is_distributed(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor."""
    # Without the module nothing can be one, and loading it takes longer than all of lowland.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_pair(param: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What this process holds of a parameter and of its gradient, as real tensors that share their memory."""
    if type(param) is not nn.Parameter and is_distributed(param):
        if gradient.placements != param.placements:  # type: ignore[attr-defined]  # a partial sum, say
            gradient = gradient.redistribute(placements=param.placements)  # type: ignore[attr-defined]
        param, gradient = param.to_local(), gradient.to_local()  # type: ignore[attr-defined]
    if param.is_complex():
        param, gradient = torch.view_as_real(param), torch.view_as_real(gradient)
    if gradient.is_sparse:
        gradient = gradient.coalesce()  # entries of the same row are one before they count in a norm
    return param, gradient


def global_norm(params: Sequence[Tensor], owners: Sequence[Tensor], gradients: Sequence[Tensor]) -> float | Tensor:
    """Euclidean norm over all gradients, wherever their pieces are: every process gets the same.

    Args:
        params: all parameters that may have one, the same in every process: they say who must talk to whom.
        owners: the parameters that have one here.
        gradients: what this process holds of theirs, from `local_pair`.

    Returns:
        A float if everything here is on the CPU, else a 0-d tensor on the device of the first gradient.
    """
    squares: dict[Any, list[Tensor]] = defaultdict(list)
    groups: dict[Any, None] = {}
    if "torch.distributed.tensor" in sys.modules:
        for param in params:
            groups.setdefault(_shards(param))
    for (key, kind), members in _by(owners, gradients).items():
        half = kind[1].itemsize < 4
        squares[key].extend(torch._foreach_norm(members, 2, torch.float32) if half else torch._foreach_norm(members))
    if not any(groups):
        norms = [norm for members in squares.values() for norm in members]
        if all(norm.device.type == "cpu" for norm in norms):
            return math.hypot(*(norm.item() for norm in norms))
        return torch.linalg.vector_norm(_together(norms, norms[0].device))
    device = gradients[0].device if gradients else params[0].device
    total = torch.zeros((), dtype=_wide(device), device=device)
    for key in groups:
        part = torch.zeros_like(total)
        if squares[key]:
            part = _together(squares[key], device).square().sum()
        for mesh, dimension in key:
            torch.distributed.all_reduce(part, group=mesh.get_group(dimension))
        total = total + part
    norm = total.sqrt()
    return norm.item() if device.type == "cpu" else norm


def _shards(param: Tensor) -> tuple[Any, ...]:
    """The (mesh, dimension) pairs over which the pieces of ``param`` differ."""
    if type(param) is nn.Parameter or not is_distributed(param):
        return ()
    mesh, placements = param.device_mesh, param.placements  # type: ignore[attr-defined]
    return tuple((mesh, dimension) for dimension, placement in enumerate(placements) if not placement.is_replicate())


def _by(owners: Sequence[Tensor], gradients: Sequence[Tensor]) -> dict[Any, list[Tensor]]:
    """The gradients by where their pieces are, device and dtype."""
    kinds = defaultdict(list)
    sharded = "torch.distributed.tensor" in sys.modules
    for owner, gradient in zip(owners, gradients, strict=True):
        gradient = gradient._values() if gradient.is_sparse else gradient
        kinds[_shards(owner) if sharded else (), (gradient.device, gradient.dtype)].append(gradient)
    return kinds


def _wide(device: torch.device) -> torch.dtype:
    # The squares of float32 norms overflow float32 long before the norms do.
    return torch.float32 if device.type == "mps" else torch.float64


def _together(norms: Iterable[Tensor], device: torch.device) -> Tensor:
    return torch.stack([norm.to(device, _wide(device), non_blocking=True) for norm in norms])
