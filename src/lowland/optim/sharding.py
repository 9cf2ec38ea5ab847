"""Parameters in pieces: what this process holds of each, and the norm over what all of them hold.

Tensor-parallel and FSDP2 parameters are DTensors. What SAM does to them is done to their local pieces; only the
norm, one number, crosses between processes.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lowland.torch_tools import in_parts

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_distributed(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor."""
    if type(tensor) is nn.Parameter or type(tensor) is Tensor:
        return False
    # Without the module nothing can be one, and loading it takes longer than all of lowland.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_pair(param: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What this process holds of a parameter and of its gradient, as real tensors that share their memory."""
    if type(param) is nn.Parameter and gradient.layout is torch.strided and not param.is_complex():
        return param, gradient
    param, gradient = local(param), local(_in_the_same_pieces(param, gradient))
    if gradient.is_sparse:
        gradient = gradient.coalesce()  # entries of the same row are one before they count in a norm
    return param, gradient


def settled(param: Tensor, gradient: Tensor | None) -> Tensor:
    """``gradient`` laid out as ``param`` is: dense, in the same pieces, zeros for None."""
    if gradient is None:
        return torch.zeros_like(param)
    if gradient.is_sparse:
        return gradient.to_dense()
    return _in_the_same_pieces(param, gradient)


def _in_the_same_pieces(param: Tensor, gradient: Tensor) -> Tensor:
    if is_distributed(param) and gradient.placements != param.placements:  # type: ignore[attr-defined]  # a partial sum
        return gradient.redistribute(placements=param.placements)  # type: ignore[attr-defined]
    return gradient


def local(tensor: Tensor) -> Tensor:
    """What this process holds of ``tensor``, as a real tensor that shares its memory."""
    if is_distributed(tensor):
        tensor = tensor.to_local()  # type: ignore[attr-defined]
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def shard_number(param: Tensor) -> int:
    """A number that tells pieces of ``param`` apart, the same for copies of a piece; 0 for the whole."""
    number = 0
    for mesh, dimension in _shards(param):
        number = number * mesh.size(dimension) + mesh.get_local_rank(dimension)
    return number


def global_norm(params: Sequence[Tensor], owners: Sequence[Tensor], gradients: Sequence[Tensor]) -> float | Tensor:
    """Euclidean norm over all gradients, wherever their pieces are: every process gets the same.

    Args:
        params: all parameters that may have one, the same in every process: they say who must talk to whom.
        owners: the parameters that have one here.
        gradients: what this process holds of theirs, from `local_pair`.

    Returns:
        A float if everything here is on the CPU, else a 0-d tensor on the device of the first gradient.
    """
    if not any(map(is_distributed, params)):
        norms = _norms(gradients)
        if not any(norm.device.type != "cpu" for norm in norms):
            return math.hypot(*[norm.item() for norm in norms])
        return torch.linalg.vector_norm(_together(norms, norms[0].device))
    device = (gradients or params)[0].device
    norm = _total(params, owners, gradients, lambda mine: _together(_norms(mine), device).square().sum(), device).sqrt()
    return norm.item() if device.type == "cpu" else norm


def global_dot(
    params: Sequence[Tensor], owners: Sequence[Tensor], a: Sequence[Tensor], b: Sequence[Tensor]
) -> float | Tensor:
    """Inner product ⟨a, b⟩ over all entries, wherever their pieces are; arguments and result as for `global_norm`."""
    device = (a or params)[0].device
    other = dict(zip(map(id, a), b, strict=True))

    def dot(mine: Sequence[Tensor]) -> Tensor:
        return _together([_dot(x, other[id(x)]) for x in mine], device).sum()

    product = _total(params, owners, a, dot, device)
    return product.item() if device.type == "cpu" else product


def _total(
    params: Sequence[Tensor],
    owners: Sequence[Tensor],
    pieces: Sequence[Tensor],
    of: Callable[[Sequence[Tensor]], Tensor],
    device: torch.device,
) -> Tensor:
    """The sum of ``of(pieces)``, itself a sum over pieces, over all processes."""
    parts = defaultdict(list)
    for owner, piece in zip(owners, pieces, strict=True):
        parts[_shards(owner)].append(piece)
    total = torch.zeros((), dtype=_wide(device), device=device)
    for key in dict.fromkeys(map(_shards, params)):
        part = of(parts[key]) if parts[key] else torch.zeros_like(total)
        for mesh, dimension in key:
            torch.distributed.all_reduce(part, group=mesh.get_group(dimension))
        total = total + part
    return total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The dot product of all entries, computed in float32 or wider."""
    if a.dtype.itemsize < 4:
        a, b = a.float(), b.float()
    parts = [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(in_parts(a), in_parts(b), strict=True)]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def _norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of each tensor, or of each part of a long one, in float32 at least; not always in their order."""
    kinds = defaultdict[tuple[torch.device, torch.dtype], list[Tensor]](list)
    for tensor in tensors:
        values = tensor if tensor.layout is torch.strided else tensor._values()
        kinds[values.device, values.dtype].extend(in_parts(values))
    norms: list[Tensor] = []
    for (_, dtype), members in kinds.items():
        options = (2, torch.float32) if dtype.itemsize < 4 else ()
        norms.extend(torch._foreach_norm(members, *options))
    return norms


def _shards(param: Tensor) -> tuple[tuple["DeviceMesh", int], ...]:
    """The (mesh, dimension) pairs over which the pieces of ``param`` differ."""
    if not is_distributed(param):
        return ()
    mesh, placements = param.device_mesh, param.placements  # type: ignore[attr-defined]
    return tuple((mesh, dimension) for dimension, placement in enumerate(placements) if not placement.is_replicate())


def _wide(device: torch.device) -> torch.dtype:
    # The squares of float32 norms overflow float32 long before the norms do.
    return torch.float32 if device.type == "mps" else torch.float64


def _together(norms: Iterable[Tensor], device: torch.device) -> Tensor:
    """In one tensor; first those of one kind, so that few are converted."""
    kinds = defaultdict(list)
    for norm in norms:
        kinds[norm.device, norm.dtype].append(norm)
    return torch.cat([torch.stack(members).to(device, _wide(device)) for members in kinds.values()])
