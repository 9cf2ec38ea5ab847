"""The Gauss–Newton matrix of a network's mean loss, which is the Fisher information where the loss is a likelihood."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lowland.assigning import Absent, unassignable
from lowland.curvature.arguments import check_vectors
from lowland.curvature.batchwise import Batchwise
from lowland.curvature.first_order import cut_off
from lowland.curvature.lanczos import Eigenpairs, eigenpairs
from lowland.curvature.nondeterminism import DeterminismCheck
from lowland.curvature.objective import LossFn, Objective, Weight
from lowland.curvature.operator import Curvature, Search
from lowland.curvature.processes import Product
from lowland.curvature.second_order import differentiable_twice
from lowland.curvature.wanted import Wanted

_FIXED = "the matrix is that of one loss. Make another"


@unassignable(**dict.fromkeys(("objective", "shape", "dtype", "device"), _FIXED))
class GaussNewton(Curvature):
    """G, the mean of JᵀAJ: J the derivative of the model's outputs by w, A the second derivative of the loss by those.

    The Hessian without the curvature of the model itself; it has no negative eigenvalue where the loss is convex in the
    outputs (Schraudolph 2002, *Fast Curvature Matrix-Vector Products*). Where the loss is the negative logarithm of a
    likelihood whose natural parameters are the outputs, G is the Fisher information, with labels drawn from the model
    and not those of the data: so it is for cross-entropy, and for half the squared error (Martens 2020, *New Insights
    and Perspectives on the Natural Gradient Method*).

    Arguments are those of `lowland.curvature.Hessian`, and so are ``G @ v``, eigenpairs, trace, diagonal and spectrum.
    But differences of gradients, which check the Hessian's eigenpairs, say nothing about those of G. The loss may
    depend on the parameters through the outputs alone. A product takes about as long as one with the Hessian: Jv by
    differentiating Jᵀu by u, then A by automatic differentiation, then Jᵀ.

    Args:
        model: see `lowland.curvature.Hessian`.
        loss_fn: ``loss_fn(model(x), y)`` gives the mean loss over a batch.
        batches: ``(x, y)`` pairs.
        weight: what a batch counts instead of ``len(x)``.

    Raises:
        TypeError: as `lowland.curvature.Hessian`.
        ValueError: as there; at a product for a loss that depends on the parameters beside the outputs, for complex
            parameters or outputs.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> G = GaussNewton(model, torch.nn.functional.mse_loss, [(x, torch.zeros(2, 1))])
        >>> (G @ torch.tensor([1.0, 1.0])).tolist()
        [1.0, 4.0]
    """

    model = Absent(_FIXED)
    loss_fn = Absent(_FIXED)
    batches = Absent(_FIXED)
    weight = Absent(_FIXED)

    def __init__(self, model: nn.Module, loss_fn: LossFn, batches: Iterable[Any], *, weight: Weight | None = None):
        if loss_fn is None:
            raise TypeError(
                "the Gauss–Newton matrix needs the loss as a function of the model's outputs: loss_fn, not None"
            )
        super().__init__(Objective(model, loss_fn, batches, weight=weight))
        self._batchwise = Batchwise(self.objective, self._differentiated)
        self._unseen = True

    @torch.inference_mode(False)
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Gv for ``vectors`` of shape ``(n,)``, or ``(n, k)`` for k products at once.

        The first product takes a gradient more, by which a loss that isn't the same twice is found, and compares the
        gradient with differences of the loss, as `lowland.curvature.Hessian` does.

        Raises:
            TypeError: for what is no tensor.
            ValueError: for another shape; where two evaluations at the same weights differ; for a loss without a
                gradient, or one that depends on the parameters beside the outputs.
            RuntimeError: where the gradient of an operation can't be differentiated.
            FloatingPointError: if the loss is not finite.

        Warns:
            UserWarning: where differences of the loss contradict the gradient.
        """
        check_vectors(vectors, self.shape[0])
        vectors = vectors.to(self.device, self.dtype)
        with differentiable_twice(self.objective.model):
            if not self._unseen:
                return self._batchwise.product(vectors, None)
            seen = self._batchwise.unchanging()
            result = self._batchwise.product(vectors, seen)
            objection = self._objection(seen)
        if objection:
            warnings.warn(f"G @ v is wrong: {objection}", stacklevel=2)
        return result

    @contextmanager
    def products(self) -> Iterator[Product]:
        """A context that gives v ↦ Gv for v of shape ``(n,)``; a single batch is differentiated once for all."""
        with differentiable_twice(self.objective.model):
            seen = self._batchwise.unchanging()
            with self._batchwise.linearized(seen) as product:

                def checked(vector: Tensor) -> Tensor:
                    image = product(vector)
                    objection = self._objection(seen)
                    if objection:
                        warnings.warn(f"the products are wrong: {objection}", stacklevel=5)
                    return image

                yield checked

    def certified(self, wanted: Wanted, search: Search = eigenpairs) -> Eigenpairs:
        """`eigenpairs` without the warning: by their residuals alone, of which differences of gradients say nothing."""
        with self.operator() as operator:
            return search(operator, wanted)

    def _objection(self, seen: DeterminismCheck) -> str:
        """What speaks against the first product, in words, empty where nothing does; later ones aren't looked at."""
        if not self._unseen:
            return ""
        seen.finite()
        seen(*self.objective.loss_and_gradient(), self.objective.loss_and_gradient)
        self._unseen = False
        return seen.unsure or cut_off(self.objective)

    def _differentiated(self, x: Any, y: Any) -> tuple[Tensor, Callable[[], Tensor], Product]:
        objective = self.objective
        params = objective.leaves()

        def run() -> tuple[list[Tensor], list[Tensor], Tensor]:
            with torch.enable_grad():
                leaves, structure = pytree.tree_flatten(objective.output(x))
                outputs = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
                apart = [output.detach().requires_grad_() for output in outputs]
                one = iter(apart)
                cut = [next(one) if isinstance(leaf, Tensor) and leaf.requires_grad else leaf for leaf in leaves]
                return outputs, apart, objective.loss_of(pytree.tree_unflatten(cut, structure), y)

        outputs, apart, loss = objective.inside(run, params)
        if any(tensor.is_complex() for tensor in (*params, *outputs)):
            raise ValueError("the Gauss–Newton matrix is for real parameters and outputs, not complex ones")
        slopes = _slopes(objective, loss, apart, params)
        free = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        back = torch.autograd.grad(outputs, params, free, create_graph=True, materialize_grads=True)  # Jᵀu, u = free
        used = [position for position, piece in enumerate(back) if piece.requires_grad]
        bent = [position for position, slope in enumerate(slopes) if slope.requires_grad]

        def product(vectors: Tensor) -> Tensor:
            if vectors.dim() == 2:
                return torch.stack([product(v) for v in vectors.T], dim=1)
            if not (used and bent):
                return torch.zeros_like(vectors)
            directions = objective.shaped(vectors)
            along = _grad([back[i] for i in used], free, [directions[i] for i in used])  # Jv
            curved = _grad([slopes[i] for i in bent], apart, [along[i] for i in bent])  # AJv
            return objective.flat(_grad(outputs, params, curved))

        def slope() -> Tensor:
            return objective.flat(_grad(outputs, params, [slope.detach() for slope in slopes]))

        return loss.detach().to(self.dtype), slope, product


def _grad(outputs: list[Tensor], inputs: list[Tensor], vectors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(outputs, inputs, vectors, retain_graph=True, materialize_grads=True)


def _slopes(objective: Objective, loss: Tensor, outputs: list[Tensor], params: list[Tensor]) -> tuple[Tensor, ...]:
    """The derivative of the loss by the outputs, which may be differentiated once more."""
    if not outputs or not loss.requires_grad:
        objective.derivatives(loss.detach(), params)  # which says what is wrong
    beside = torch.autograd.grad(loss, [*params, *objective.params], allow_unused=True, retain_graph=True)
    if any(piece is not None for piece in beside):
        raise ValueError(
            "loss_fn depends on the parameters beside the model's outputs (a penalty on them, say): that part has no "
            "Gauss–Newton matrix. Leave it out; ½λ‖w‖² adds λ to every eigenvalue"
        )
    slopes = torch.autograd.grad(loss, outputs, create_graph=True, materialize_grads=True)
    if any(output.dim() == 0 and slope.any() for output, slope in zip(outputs, slopes, strict=True)):
        raise ValueError(
            "loss_fn takes a loss that the model has computed (output.loss): the Gauss–Newton matrix needs it as a "
            "function of the outputs, F.cross_entropy(output.logits, batch['labels']) for example"
        )
    return slopes
