"""Products with tensors as SciPy has them. The only place here that imports SciPy, when it is called."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy import ndarray
    from scipy.sparse.linalg import LinearOperator


def linear_operator(
    product: Callable[[Tensor], Tensor], n: int, dtype: torch.dtype, device: torch.device
) -> "LinearOperator":
    """A symmetric ``LinearOperator`` of NumPy vectors ``(n,)`` and ``(n, k)``, from products with tensors of these."""
    from scipy.sparse.linalg import LinearOperator

    def of_arrays(vectors: "ndarray") -> "ndarray":
        if vectors.dtype.kind == "c":
            return of_arrays(vectors.real) + 1j * of_arrays(vectors.imag)
        return product(torch.as_tensor(vectors, dtype=dtype, device=device)).cpu().numpy()

    kind = torch.empty(0, dtype=dtype, device="cpu").numpy().dtype
    return LinearOperator((n, n), of_arrays, rmatvec=of_arrays, matmat=of_arrays, rmatmat=of_arrays, dtype=kind)
