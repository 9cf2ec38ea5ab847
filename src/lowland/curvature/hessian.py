"""The Hessian of a network's mean loss, as an operator."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowland.curvature import lanczos
from lowland.curvature.lanczos import Eigenpairs, Which
from lowland.curvature.objective import LossFn, Objective, Weight


class Hessian:
    """∇²L of the mean loss over the examples of ``batches``: products ``H @ v`` and eigenpairs.

    Args:
        model: its parameters that require gradients, in the order of ``model.parameters()``, make up the flat
            vectors; it runs in its current mode, and its buffers, gradients and the random state stay untouched.
        loss_fn: ``loss_fn(model(x), y)`` gives the mean loss over a batch, a 0-d tensor.
        batches: ``(x, y)`` pairs, on the model's device, iterable many times over. Unequal batches weigh by
            size.
        weight: what a batch counts instead of ``len(x)``, as a function of ``(x, y)``: tokens, unmasked entries.

    Attributes:
        shape: ``(n, n)``, n the number of parameters.
        dtype: of the vectors.
        device: of the vectors.

    Raises:
        TypeError: for a generator.
        ValueError: without a trainable parameter, or if parameters are in pieces (FSDP, tensor parallelism).

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> H = Hessian(model, torch.nn.functional.mse_loss, [(x, torch.zeros(2, 1))])
        >>> (H @ torch.tensor([1.0, 1.0])).tolist()
        [1.0, 4.0]
        >>> pairs = H.eigenpairs(k=1, tol=1e-4)
        >>> round(pairs.values.item(), 4), pairs.converged
        (4.0, True)
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, batches: Iterable[Any], *, weight: Weight | None = None):
        self._of(Objective(model, loss_fn, batches, weight=weight))

    @classmethod
    def of(cls, objective: Objective) -> "Hessian":
        """The Hessian of ``objective``."""
        hessian = cls.__new__(cls)
        hessian._of(objective)
        return hessian

    def _of(self, objective: Objective) -> None:
        self.objective = objective
        self.shape = (objective.size, objective.size)
        self.dtype, self.device = objective.dtype, objective.device

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Hv for ``vectors`` of shape ``(n,)``, or ``(n, k)`` for k products at once.

        Raises:
            ValueError: for another shape.
        """
        if vectors.dim() not in (1, 2) or vectors.shape[0] != self.shape[0]:
            raise ValueError(f"H is {self.shape}: H @ v needs v of shape (n,) or (n, k), not {tuple(vectors.shape)}")
        vectors = vectors.to(self.device, self.dtype)
        total, result = 0.0, torch.zeros_like(vectors)
        for weight, x, y in self.objective.weighted_batches():
            result.add_(self._differentiated(x, y)(vectors), alpha=weight)
            total += weight
        return self.objective.mean(total, result)[0]

    def eigenpairs(
        self,
        k: int = 1,
        tol: float = 1e-3,
        *,
        which: Which = "magnitude",
        start: Tensor | None = None,
        max_products: int = 500,
        max_basis: int = 64,
        generator: torch.Generator | None = None,
    ) -> Eigenpairs:
        """The k extreme eigenpairs, each with its residual ‖Hv − λv‖; see `lowland.curvature.lanczos.eigenpairs`.

        A residual bounds the distance from λ to *some* eigenvalue. It does not prove that no larger one exists:
        that rests on the random start, so a warm ``start`` is mixed with a random vector, and there are at least 8
        products. Nor does it see what float32 products themselves got wrong, about 1e-6 of |λ₁|.

        Args:
            k: how many.
            tol: stop when every residual is ≤ tol · |λ₁|.
            which: largest ``"magnitude"``, or the algebraic end ``"largest"`` or ``"smallest"``.
            start: ``(n,)`` or ``(j, n)``, eigenvectors of an earlier call.
            max_products: give up after so many products (``converged`` is then False).
            max_basis: at most 2 · max_basis vectors of n entries are kept in memory.
            generator: of the random start, on the CPU; by default seeded with 0.
        """
        solve = partial(
            lanczos.eigenpairs, n=self.shape[0], k=k, tol=tol, which=which, start=start, max_products=max_products,
            max_basis=max_basis, generator=generator, dtype=self.dtype, device=self.device,
        )  # fmt: skip
        processes = self.objective.processes
        with self._linearized() as product:
            if processes is None:
                return solve(product)
            like = torch.empty(self.shape[0], dtype=self.dtype, device=self.device)
            return processes.iterate(product, like, solve)

    @contextmanager
    def _linearized(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Products at fixed weights. A single batch is differentiated once and its graph kept for all of them."""
        batches = iter(self.objective.weighted_batches())
        first = next(batches, None)
        if first is None or next(batches, None) is not None:
            yield self.__matmul__
            return
        weight, x, y = first
        product = self._differentiated(x, y)
        if self.objective.processes is None:
            yield product
        else:
            yield lambda vector: self.objective.mean(weight, weight * product(vector))[0]

    def _differentiated(self, x: Any, y: Any) -> Callable[[Tensor], Tensor]:
        """The product with the Hessian of one batch's loss, by differentiating its gradient once more."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        objective = self.objective
        params = objective.leaves()
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
            loss = objective.batch_loss(x, y, params)
            gradient = objective.derivatives(loss, params, create_graph=True)
        # A loss linear in some parameter has a gradient that doesn't depend on anything.
        outputs = [position for position, piece in enumerate(gradient) if piece.requires_grad]

        def product(vectors: Tensor) -> Tensor:
            if vectors.dim() == 2:  # one by one: batching them saves a few percent, and not every layer allows it
                return torch.stack([product(v) for v in vectors.T], dim=1)
            if not outputs:
                return torch.zeros_like(vectors)
            directions = objective.shaped(vectors)
            pieces = torch.autograd.grad(
                [gradient[i] for i in outputs],
                params,
                [directions[i] for i in outputs],
                retain_graph=True,
                materialize_grads=True,
            )
            return objective.flat(pieces)

        return product
