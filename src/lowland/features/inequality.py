"""How unevenly weights are spread over examples."""

from typing import Any

import torch
from torch import Tensor


def lorenz(weights: Any) -> tuple[Tensor, Tensor]:
    """The Lorenz curve: the share of the total weight that the lightest examples have together.

    Lorenz 1905, *Methods of measuring the concentration of wealth*. With the weights in ascending order, x₁ ≤ … ≤ xₙ,
    its points are (i/n, (x₁ + … + xᵢ) / (x₁ + … + xₙ)) for i = 0, …, n. Equal weights give the diagonal; the further
    below it, the more unequal they are.

    Args:
        weights: ``(n,)``, at least 0; a tensor, an array or a list. They needn't sum to 1.

    Returns:
        Fractions of the examples and cumulative shares of the weight, both ``(n + 1,)`` from 0 to 1, float64, CPU.

    Raises:
        ValueError: for weights that are negative, not finite, all zero, empty, or not in one dimension.

    Example:
        >>> fractions, shares = lorenz([3.0, 1.0])
        >>> fractions.tolist(), shares.tolist()
        ([0.0, 0.5, 1.0], [0.0, 0.25, 1.0])
    """
    x = torch.as_tensor(weights, dtype=torch.float64, device="cpu").detach()
    if x.dim() != 1 or len(x) == 0:
        raise ValueError(f"weights must be (n,) with at least one example, not {tuple(x.shape)}")
    if not torch.isfinite(x).all() or (x < 0).any():
        raise ValueError(f"weights must be finite and at least 0: of {len(x)}, {_count(x)} are not")
    if not (x > 0).any():
        raise ValueError("weights are all zero: there is nothing to share")
    cumulative = torch.cat([x.new_zeros(1), (x / x.max()).sort().values.cumsum(0)])
    return torch.linspace(0, 1, len(x) + 1, dtype=torch.float64, device="cpu"), cumulative / cumulative[-1]


def gini(weights: Any) -> float:
    """The Gini coefficient: twice the area between the diagonal and the Lorenz curve.

    Gini 1912, *Variabilità e mutabilità*: Σᵢⱼ |xᵢ − xⱼ| / (2n Σᵢ xᵢ), half the mean difference over the mean. From the
    area under the piecewise linear `lorenz` curve it is the same: (2/n) Σᵢ (i/n − Lᵢ). It is 0 for equal weights and
    (n − 1)/n, not 1, if only one weight is above zero.

    Args:
        weights: as for `lorenz`.

    Raises:
        ValueError: as for `lorenz`.

    Example:
        >>> gini([1.0, 1.0, 1.0, 1.0]), gini([0.0, 0.0, 0.0, 1.0])
        (0.0, 0.75)
    """
    fractions, shares = lorenz(weights)
    return 2 * (fractions - shares)[1:].mean().item()


def _count(x: Tensor) -> int:
    return int((~(x >= 0) | x.isinf()).sum())
