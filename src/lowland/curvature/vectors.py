"""Parameters of any floating or complex type as flat real vectors, in single precision at least."""

import warnings
from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor

_LOST = 0.1  # share of an offset's length
_PIECE = 4096  # entries that are added up at a time


def real_type(tensors: Iterable[Tensor]) -> torch.dtype:
    """The type of their flat vectors and of all sums: the widest of theirs and float32.

    A complex number counts as two real ones of its width. float16 and bfloat16 are too coarse to add up in.
    """
    return reduce(torch.promote_types, (tensor.dtype.to_real() for tensor in tensors), torch.float32)


def euclidean_norm(vectors: Tensor) -> Tensor:
    """The Euclidean norm over the last dimension, of vectors ``(n,)`` or ``(..., n)``, in their type.

    Squares are added up in pieces. In one go, as torch adds them on a CPU, a sum in float32 leaves out what is small
    beside the part before: a norm is 4e-4 too small for ten million entries, and 1 % for a hundred million.

    The optimizers' norms are of longer parts (`lowland.torch_tools.in_parts`): up to a million entries they have the
    bits of torch's own, and are off by up to 1e-5, which is too much for a certificate.
    """
    whole = vectors.shape[-1] // _PIECE * _PIECE
    pieces = vectors[..., :whole].reshape(*vectors.shape[:-1], whole // _PIECE, _PIECE)
    norms = torch.linalg.vector_norm(pieces, dim=-1)
    rest = torch.linalg.vector_norm(vectors[..., whole:], dim=-1, keepdim=True)
    return torch.linalg.vector_norm(torch.cat([norms, rest], dim=-1), dim=-1)


def entries(tensor: Tensor) -> int:
    """How many real numbers it holds: a complex one counts twice."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def as_real(tensor: Tensor) -> Tensor:
    """``tensor``, or a complex one as real and imaginary parts in one more dimension at the end."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def like(piece: Tensor, tensor: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """A part of flat vectors in the place and type of ``tensor``, and in its shape unless another is given."""
    shape = tensor.shape if shape is None else shape
    if not tensor.is_complex():
        piece = piece.reshape(tuple(shape)).to(tensor.device, tensor.dtype)
        # A model may view it as complex, which takes an even place in memory.
        return piece.clone() if piece.storage_offset() % 2 else piece
    pairs = piece.reshape(*shape, 2).to(tensor.device, tensor.dtype.to_real())
    return torch.complex(pairs[..., 0], pairs[..., 1])


class Offsets:
    """Parameters plus offsets, in the type of the parameters: it warns once where that is too coarse for an offset."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, params: Sequence[Tensor], offset: Sequence[Tensor]) -> list[Tensor]:
        """``params`` + ``offset``.

        Warns:
            UserWarning: once, where rounding of float16 or bfloat16 takes more than a tenth of an offset's length.
        """
        places = [p + e for p, e in zip(params, offset, strict=True)]
        if not self._told and any(map(_coarse, params)):
            self._tell(params, offset, places)
        return places

    def _tell(self, params: Sequence[Tensor], offset: Sequence[Tensor], places: Sequence[Tensor]) -> None:
        trios = [trio for trio in zip(params, offset, places, strict=True) if _coarse(trio[0])]
        lost = _length(_wide(place) - _wide(p) - _wide(e) for p, e, place in trios)
        length = _length(e for _, e, _ in trios)
        if not lost > _LOST * length:
            return
        self._told = True
        names = " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p, _, _ in trios}))
        warnings.warn(
            f"parameters of {names} are too coarse for a displacement of {length:.2g}: rounding changes it by "
            f"{lost / length:.0%}, and what is measured is at the rounded place. Measure a copy in single precision, "
            "copy.deepcopy(model).float()",
            stacklevel=2,
        )


def coarsest(tensors: Iterable[Tensor]) -> float:
    """The largest rounding unit among their types."""
    return max(torch.finfo(tensor.dtype).eps for tensor in tensors)


def _coarse(tensor: Tensor) -> bool:
    return torch.finfo(tensor.dtype).eps > torch.finfo(torch.float32).eps


def _length(tensors: Iterable[Tensor]) -> float:
    return sum(torch.linalg.vector_norm(as_real(t), dtype=torch.float32).item() ** 2 for t in tensors) ** 0.5


def _wide(tensor: Tensor) -> Tensor:
    return as_real(tensor).float()
