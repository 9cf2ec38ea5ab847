"""Products with the mean over batches of a matrix that each batch has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lowland.curvature.nondeterminism import DeterminismCheck
from lowland.curvature.objective import Objective
from lowland.curvature.processes import Product

#: Of a batch ``(x, y)`` its loss, its gradient, and the product with its matrix, for ``(n,)`` and ``(n, k)``.
Differentiated = Callable[[Any, Any], tuple[Tensor, Callable[[], Tensor], Product]]


class Batchwise:
    """The products with a matrix that is a mean over the examples, batch by batch.

    Args:
        objective: whose batches.
        differentiated: what one batch gives.
    """

    def __init__(self, objective: Objective, differentiated: Differentiated):
        self.objective, self.differentiated = objective, differentiated

    def unchanging(self) -> DeterminismCheck:
        """What compares all evaluations at these weights."""
        return DeterminismCheck(self.objective.params, self.objective.dtype)

    def product(self, vectors: Tensor, seen: DeterminismCheck | None) -> Tensor:
        """The product, every batch differentiated anew; ``seen`` sees the loss and gradient on the way."""
        objective = self.objective
        total, result = 0.0, torch.zeros_like(vectors)
        loss = torch.zeros((), device=objective.device, dtype=objective.dtype)
        gradient = torch.zeros(objective.size if seen else 0, device=objective.device, dtype=objective.dtype)
        for weight, x, y in objective.weighted_batches():
            value, slope, product = self.differentiated(x, y)
            result.add_(product(vectors), alpha=weight)
            if seen is not None:
                loss += weight * value
                gradient.add_(slope(), alpha=weight)
            total += weight
        if seen is None:
            return objective.mean(total, result)[0]
        result, loss, gradient = objective.mean(total, result, loss, gradient)
        seen(loss, gradient, self._loss_and_gradient)
        return result

    def _loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """As `product` computes them."""
        objective = self.objective
        total, loss = 0.0, torch.zeros((), device=objective.device, dtype=objective.dtype)
        gradient = torch.zeros(objective.size, device=objective.device, dtype=objective.dtype)
        for weight, x, y in objective.weighted_batches():
            value, slope, _ = self.differentiated(x, y)
            loss += weight * value
            gradient.add_(slope(), alpha=weight)
            total += weight
        loss, gradient = objective.mean(total, loss, gradient)
        return loss, gradient

    @contextmanager
    def linearized(self, seen: DeterminismCheck | None) -> Iterator[Product]:
        """Products at fixed weights. A single batch is differentiated once and its graph kept for all of them."""
        batches = iter(self.objective.weighted_batches())
        first = next(batches, None)
        if first is None or next(batches, None) is not None:
            yield lambda vector: self.product(vector, seen)
            return
        weight, x, y = first
        value, slope, product = self.differentiated(x, y)
        if seen is not None:
            seen(value, slope(), self._of_one)
        if self.objective.processes is None:
            yield product
        else:
            yield lambda vector: self.objective.mean(weight, weight * product(vector))[0]

    def _of_one(self) -> tuple[Tensor, Tensor]:
        """As `linearized` computes them."""
        ((_, x, y),) = self.objective.weighted_batches()
        value, slope, _ = self.differentiated(x, y)
        return value, slope()
