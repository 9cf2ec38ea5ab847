"""The Hessian of a network's mean loss, as an operator."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lowland.assigning import Absent, unassignable
from lowland.curvature.arguments import check_vectors
from lowland.curvature.batchwise import Batchwise
from lowland.curvature.certify import UNCHECKED, certified, contradiction
from lowland.curvature.first_order import cut_off
from lowland.curvature.lanczos import Eigenpairs, Operator, eigenpairs
from lowland.curvature.nondeterminism import DeterminismCheck
from lowland.curvature.objective import LossFn, Objective, Weight
from lowland.curvature.operator import Curvature, Search
from lowland.curvature.processes import Product
from lowland.curvature.second_order import differentiable_twice
from lowland.curvature.wanted import Wanted
from lowland.patience import Doing, doing

_FIXED = "a Hessian is that of one loss. Make another"


@unassignable(**dict.fromkeys(("objective", "shape", "dtype", "device"), _FIXED))
class Hessian(Curvature):
    """∇²L of the mean loss over the examples of ``batches``: products ``H @ v``, eigenpairs, trace, diagonal, spectrum.

    Four things are checked of `eigenpairs` and `extremes`. The gradient must be that of the loss, which it isn't where
    a part is hidden from differentiation (``detach()``, straight-through estimators, stop-gradients). Differences of
    the loss are compared with it, once for each `Hessian`, on the first batch, in float64: one gradient and two losses
    (`lowland.curvature.first_order.cut_off`). The products must be those of a symmetric operator: no product more.
    Differences of gradients must give the same residual to within tol · |λ₁| and their rounding
    (`lowland.curvature.certify.objections` has the bound): two gradients, in float64 where the network has a ReLU, and
    more only where these disagree. And the loss must be the same at every evaluation, but for rounding: all are
    compared, and one gradient more is taken where differences disagree. What doesn't stand the first three comes back
    with ``converged`` False, its ``reason``, a warning, and the residual that differences of gradients give where that
    is known. So does a gradient that is rounding, of which two kernels for the same attention give different ones.

    Args:
        model: its parameters that require gradients, in the order of ``model.parameters()``, make up the flat
            vectors; it runs in its current mode, and its buffers, gradients and the random state stay untouched.
        loss_fn: ``loss_fn(model(x), y)`` gives the mean loss over a batch, a 0-d tensor. None: the model computes it,
            and gives it as ``loss`` (Hugging Face's do, from labels).
        batches: ``(x, y)`` pairs, on the model's device, iterable many times over. Unequal batches weigh by
            size. Or dictionaries: the loss is ``loss_fn(model(**batch), batch)``.
        weight: what a batch counts instead of ``len(x)``, as a function of ``(x, y)``: tokens, unmasked entries. Of
            dictionaries it gets the same one twice.

    Attributes:
        shape: ``(n, n)``, n the number of parameters.
        dtype: of the vectors.
        device: of the vectors.

    Raises:
        TypeError: for a model, ``loss_fn``, ``weight`` or ``batches`` that is none, or a generator.
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

    model = Absent(_FIXED)
    loss_fn = Absent(_FIXED)
    batches = Absent(_FIXED)
    weight = Absent(_FIXED)

    def __init__(
        self, model: nn.Module, loss_fn: LossFn | None, batches: Iterable[Any], *, weight: Weight | None = None
    ):
        self._of(Objective(model, loss_fn, batches, weight=weight))

    @classmethod
    def of(cls, objective: Objective, cut_off: str | None = None) -> "Hessian":
        """The Hessian of ``objective``, of which `cut_off` may be known."""
        hessian = cls.__new__(cls)
        hessian._of(objective, cut_off)
        return hessian

    def _of(self, objective: Objective, cut_off: str | None = None) -> None:
        super().__init__(objective)
        self._cut_off = cut_off
        self._batchwise = Batchwise(self.objective, self._differentiated)
        self._unseen = True  # whether the loss has been seen to be the same twice

    @torch.inference_mode(False)
    def cut_off(self) -> str:
        """How the gradient differs from that of the loss, in words, empty where it doesn't: looked at once.

        See `lowland.curvature.first_order.cut_off`, also for the price.
        """
        if self._cut_off is None:
            with differentiable_twice(self.objective.model):
                self._cut_off = cut_off(self.objective)
        return self._cut_off

    @torch.inference_mode(False)
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Hv for ``vectors`` of shape ``(n,)``, or ``(n, k)`` for k products at once.

        The first product of a `Hessian` takes two gradients more, for differences of gradients (see `eigenpairs`),
        which must give the same within 1 %: products that are wrong beyond that come with a warning. And where they
        don't, one more, by which a loss that differs from one evaluation to the next is found. It also compares the
        gradient with differences of the loss (see `eigenpairs`).

        Raises:
            TypeError: for what is no tensor.
            ValueError: for another shape; where two evaluations at the same weights differ; for a loss without a
                gradient.
            RuntimeError: where an operation has no second derivative.
            FloatingPointError: if the loss is not finite.

        Warns:
            UserWarning: where differences of gradients contradict the first product, or differences of the loss the
                gradient.
        """
        check_vectors(vectors, self.shape[0])
        vectors = vectors.to(self.device, self.dtype)
        objective = self.objective
        with differentiable_twice(objective.model) as region:
            if not self._unseen:
                return self._batchwise.product(vectors, None)
            seen = self._batchwise.unchanging()
            result = self._batchwise.product(vectors, seen)
            of_one = (vectors, result) if vectors.dim() == 1 else (vectors[:, 0], result[:, 0])
            objection = self._objection(*of_one, seen, region.kinks)
        if objection:
            warnings.warn(f"H @ v is wrong: {objection}", stacklevel=2)
        return result

    @contextmanager
    def products(self) -> Iterator[Product]:
        """A context that gives v ↦ Hv for v of shape ``(n,)``: as ``H @ v``, but a single batch is differentiated once.

        The first product is checked as that of ``H @ v``, with the same errors and warning.
        """
        if self.objective.processes is not None:
            yield self.__matmul__
            return
        with differentiable_twice(self.objective.model) as region:
            seen = self._batchwise.unchanging()
            with self._batchwise.linearized(seen) as product:

                def checked(vector: Tensor) -> Tensor:
                    image = product(vector)
                    objection = self._objection(vector, image, seen, region.kinks) if self._unseen else ""
                    if objection:
                        warnings.warn(f"the products are wrong: {objection}", stacklevel=5)
                    return image

                yield checked

    def _objection(self, vector: Tensor, image: Tensor, seen: DeterminismCheck, kinks: bool) -> str:
        """What speaks against the first product Hv = ``image``, in words, empty where nothing does."""
        seen.finite()
        objection = contradiction(self.objective, vector, image, seen.gradient, kinks)
        cut_off = self.cut_off()
        if objection or cut_off:
            seen(*self.objective.loss_and_gradient(), self.objective.loss_and_gradient)
        self._unseen = False
        return seen.unsure or cut_off or ("" if objection.startswith(UNCHECKED) else objection)

    @torch.inference_mode(False)
    def certified(
        self, wanted: Wanted, search: Search = eigenpairs, at_w: tuple[Tensor, Tensor] | None = None
    ) -> Eigenpairs:
        """`eigenpairs` without the warning, for callers that report the reason themselves.

        Args:
            wanted: which.
            search: how they are found by products.
            at_w: loss and gradient, where they are known: to be compared with.
        """
        objective = self.objective
        seen = self._batchwise.unchanging()
        with differentiable_twice(objective.model) as region, doing("eigenpairs") as now:
            if at_w is None and objective.processes is not None:  # whose own gradients are not that of all
                at_w = objective.loss_and_gradient()
            if at_w is not None:
                seen(*at_w)
            pairs = self._solved(lambda operator: search(operator, wanted), seen, now)
            seen.finite()
            pairs = certified(objective, pairs, seen.gradient, wanted.tol, region.kinks)
            if self.cut_off():
                pairs = replace(pairs, converged=False, reason=self.cut_off())
            if not pairs.converged:
                seen(*objective.loss_and_gradient(), objective.loss_and_gradient)
            return replace(pairs, converged=False, reason=seen.unsure) if seen.unsure else pairs

    def _solved(self, solve: Callable[[Operator], Eigenpairs], seen: DeterminismCheck, now: Doing) -> Eigenpairs:
        def of(product: Product) -> Eigenpairs:
            made = itertools.count(1)

            def counted(vector: Tensor) -> Tensor:
                now.what = f"eigenpairs, product {next(made)}"
                return product(vector)

            return solve(Operator(counted, self.shape[0], self.dtype, self.device))

        processes = self.objective.processes
        if processes is None:
            with self._batchwise.linearized(seen) as product:
                return of(product)
        with self._batchwise.linearized(None) as product:
            return processes.iterate(product, torch.empty(self.shape[0], dtype=self.dtype, device=self.device), of)

    def _differentiated(self, x: Any, y: Any) -> tuple[Tensor, Callable[[], Tensor], Callable[[Tensor], Tensor]]:
        """One batch's loss, its gradient, and the product with its Hessian: the gradient differentiated once more."""
        objective = self.objective
        params = objective.leaves()
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

        def slope() -> Tensor:
            return objective.flat(piece.detach() for piece in gradient)

        return loss.detach().to(self.dtype), slope, product
