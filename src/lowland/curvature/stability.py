"""Where training stands with respect to its edge of stability: one check, everything the paper plots."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.checks import radius
from lowland.curvature.alignment import alignment
from lowland.curvature.arguments import check_eps, check_start, check_tolerance, step_size
from lowland.curvature.hessian import Hessian
from lowland.curvature.lanczos import Eigenpairs
from lowland.curvature.objective import LossFn, Weight
from lowland.curvature.vectors import euclidean_norm
from lowland.curvature.wanted import Wanted
from lowland.edges import sam_edge
from lowland.optim.functional import EPS, perturbation
from lowland.patience import doing
from lowland.torch_tools import level_of_caller


@dataclass(frozen=True)
class Stability:
    """One check. Norms and the loss are those at w, as Long & Bartlett (2024) plot them.

    Attributes:
        loss: mean loss at w.
        gradient_norm: ‖g‖.
        hessian_norm: |λ₁|, the Hessian's largest eigenvalue in magnitude.
        residual: ‖Hv − λ₁v‖: an eigenvalue lies within it of λ₁.
        products: Hessian products it took.
        converged: whether the residual is within the tolerance; of several eigenpairs, all of theirs.
        edge: the SAM edge at ‖g‖, 2/η for ρ = 0.
        gd_edge: 2/η.
        gradient_alignment: |cos(g, v)| with the principal eigenvector v.
        sam_gradient_alignment: |cos(∇L(w + ε), v)|.
        vector: v, shape ``(n,)``: the warm start of the next check.
        reason: why ``converged`` is False, else empty.
        eigenvalues: the k largest in magnitude, λ₁ first, with their signs; only λ₁ where no more were asked for.
    """

    loss: float
    gradient_norm: float
    hessian_norm: float
    residual: float
    products: int
    converged: bool
    edge: float
    gd_edge: float
    gradient_alignment: float
    sam_gradient_alignment: float
    vector: Tensor
    reason: str = ""
    eigenvalues: tuple[float, ...] = ()

    def __repr__(self) -> str:
        """Norm, edges and loss, without the vector."""
        how = "" if self.converged else f", not converged: {self.reason}"
        return (
            f"Stability(‖H‖ {self.hessian_norm:.4g} ± {self.residual:.1g}, edge {self.edge:.4g}, "
            f"2/η {self.gd_edge:.4g}, loss {self.loss:.4g}, ‖g‖ {self.gradient_norm:.4g}{how})"
        )


def stability(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any],
    *,
    lr: float,
    rho: float,
    eps: float = EPS,
    tol: float = 1e-3,
    start: Tensor | None = None,
    weight: Weight | None = None,
    k: int = 1,
) -> Stability:
    """Measure the Hessian norm and the SAM edge at the model's weights.

    Args:
        model: see `lowland.curvature.Hessian`, as for ``loss_fn``, ``batches`` and ``weight``.
        loss_fn: mean loss over a batch.
        batches: ``(x, y)`` pairs.
        lr: step size η.
        rho: ascent radius ρ.
        eps: added to the gradient norm in the ascent.
        tol: relative residual of the eigenpair.
        start: ``vector`` of the last check.
        weight: what a batch counts.
        k: how many of the Hessian's largest eigenvalues to find.

    The eigenpair is checked as that of `lowland.curvature.Hessian.eigenpairs`, at the same price.

    Raises:
        TypeError: for arguments of another kind.
        FloatingPointError: if the loss or a product is not finite.
        ValueError: for arguments out of range, a ``start`` of another size; where two evaluations at the same weights
            differ; for a loss without a gradient.
        RuntimeError: where an operation has no second derivative.

    Warns:
        UserWarning: with the reason, where ``converged`` is False.
    """
    return stability_of(
        Hessian(model, loss_fn, batches, weight=weight), lr=lr, rho=rho, eps=eps, tol=tol, start=start, k=k
    )


@torch.inference_mode(False)
def stability_of(
    hessian: Hessian, *, lr: float, rho: float, eps: float = EPS, tol: float = 1e-3, start: Tensor | None = None,
    k: int = 1,
) -> Stability:  # fmt: skip
    """`stability` by a Hessian at the model's weights, for callers that know its `Hessian.cut_off`, or ask for it."""
    lr, rho = step_size(lr), radius(rho)
    check_eps(eps)
    check_tolerance(tol)
    if start is not None:
        check_start(start, hessian.shape[0])
    with doing("gradient"):
        loss, gradient = hessian.objective.loss_and_gradient()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()}")
    measured, pairs = at_w(hessian, (loss, gradient), Wanted(k, tol, start=start), rho=rho, eps=eps)
    if not pairs.converged:
        warnings.warn(f"the Hessian norm is not certified: {pairs.reason}", stacklevel=level_of_caller())
    return Stability(
        **measured,
        edge=sam_edge(measured["gradient_norm"], lr, rho),
        gd_edge=2 / lr,
        vector=pairs.vectors[0],
        reason=pairs.reason,
        eigenvalues=tuple(pairs.values.tolist()),
    )


def at_w(
    hessian: Hessian,
    there: tuple[Tensor, Tensor],
    wanted: Wanted,
    *,
    rho: float | Tensor,
    eps: float,
) -> tuple[dict[str, Any], Eigenpairs]:
    """The numbers of a `Stability` but for the edges and further eigenvalues, by name; and the eigenpairs.

    Args:
        hessian: at w.
        there: L and its gradient at w.
        wanted: which eigenpairs.
        rho: ascent radius, or that of each entry of w, shape ``(n,)``.
        eps: added to the gradient norm in the ascent.

    Raises:
        FloatingPointError: if a product is not finite.
    """
    loss, gradient = there
    sam = gradient
    if isinstance(rho, Tensor) or rho > 0:
        _, sam = hessian.objective.loss_and_gradient(perturbation(gradient, rho, eps))
    pairs = hessian.certified(wanted, at_w=there)
    vector = pairs.vectors[0]
    measured = {
        "loss": loss.item(),
        "gradient_norm": euclidean_norm(gradient).item(),
        "hessian_norm": abs(pairs.values[0].item()),
        "residual": pairs.residuals[0].item(),
        "products": pairs.products,
        "converged": pairs.converged,
        "gradient_alignment": alignment(gradient, vector).item(),
        "sam_gradient_alignment": alignment(sam, vector).item(),
    }
    return measured, pairs
