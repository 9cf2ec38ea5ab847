"""Parameters of any floating or complex type as flat real vectors, in single precision at least."""

import warnings
from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor

_LOST = 0.1  # share of an offset that rounding may take before it is said


def real_type(tensors: Iterable[Tensor]) -> torch.dtype:
    """The type of their flat vectors and of all sums: the widest of theirs and float32.

    A complex number counts as two real ones of its width. float16 and bfloat16 are too coarse to add up in.
    """
    return reduce(torch.promote_types, (tensor.dtype.to_real() for tensor in tensors), torch.float32)


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
        return piece.reshape(tuple(shape)).to(tensor.device, tensor.dtype)
    pairs = piece.reshape(*shape, 2).to(tensor.device, tensor.dtype.to_real())
    return torch.view_as_complex(pairs.contiguous())


def moved(params: Sequence[Tensor], offset: Sequence[Tensor]) -> list[Tensor]:
    """``params`` + ``offset``, in the type of the parameters.

    Warns:
        UserWarning: where float16 or bfloat16 parameters are too coarse for the offset.
    """
    places = [p + e for p, e in zip(params, offset, strict=True)]
    coarse = [(q - p, e) for q, p, e in zip(places, params, offset, strict=True) if _coarse(p)]
    if coarse:
        lost = _length([made.float() - wanted.float() for made, wanted in coarse])
        length = _length([wanted for _, wanted in coarse])
        if lost > _LOST * length:
            warnings.warn(
                f"parameters of {_names(params)} are too coarse for this displacement: rounding changes it by "
                f"{lost / length:.0%} of its length, and the figure is that of the rounded one. Measure a copy in "
                "single precision, copy.deepcopy(model).float()",
                stacklevel=2,
            )
    return places


def coarsest(tensors: Iterable[Tensor]) -> float:
    """The largest rounding unit among their types."""
    return max(torch.finfo(tensor.dtype).eps for tensor in tensors)


def _coarse(tensor: Tensor) -> bool:
    return torch.finfo(tensor.dtype).eps > torch.finfo(torch.float32).eps


def _length(tensors: Iterable[Tensor]) -> float:
    return sum(torch.linalg.vector_norm(as_real(t), dtype=torch.float32).item() ** 2 for t in tensors) ** 0.5


def _names(tensors: Iterable[Tensor]) -> str:
    return " and ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors if _coarse(t)}))
