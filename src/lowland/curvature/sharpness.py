"""m-sharpness: how much the loss rises when every group of m examples climbs for itself."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lowland.curvature.objective import LossFn, Objective, Weight
from lowland.optim.functional import EPS, check_rho, perturbation

_STRIDE = 0.1  # length of each of several ascent steps over ρ, as Andriushchenko & Flammarion (2022) have it


def m_sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    rho: float,
    m: int | None = None,
    *,
    steps: int = 1,
    weight: Weight | None = None,
    eps: float = EPS,
) -> float:
    """The mean over groups of m examples of L(w + ε) − L(w), L and ε being the group's own.

    Andriushchenko & Flammarion 2022, *Towards Understanding Sharpness-Aware Minimization*, equation 3, where ε is the
    worst of length ρ. Here it is what ascent along the group's gradient g finds, so the value is a lower bound: in one
    step ε = ρ g/(‖g‖ + eps), as SAM climbs; in several (that paper takes 20), each of length 0.1 ρ along the gradient
    at w + ε, and back onto the ball of radius ρ if outside. What counts is where the last step ends.

    Args:
        model: see `lowland.curvature.Hessian`, as for ``loss_fn`` and ``batches``.
        loss_fn: mean loss over a batch.
        batches: ``(x, y)`` pairs.
        rho: radius ρ ≥ 0, in the units of the parameters.
        m: examples in a group. Groups are consecutive within a batch; the last one of a batch may be smaller, and
            each weighs by its size. By default all examples of all batches are one group.
        steps: of the ascent.
        weight: what a batch counts, or a group of it.
        eps: added to ‖g‖.

    Returns:
        The sharpness, in units of the loss. 0 for a zero gradient; not finite if a loss isn't.

    Raises:
        TypeError: with ``m``, if a batch isn't two tensors that can be cut.
        ValueError: for arguments out of range; with ``m``, if a layer couples the examples of a batch.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 2.0)
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> batch = x, torch.zeros(2, 1)
        >>> round(m_sharpness(model, torch.nn.functional.mse_loss, [batch], rho=0.1), 4)  # 2.1² − 2²
        0.41
    """
    objective = Objective(model, loss_fn, batches, weight=weight)
    return mean_sharpness(objective, rho, m, steps, eps)


def check(rho: float, m: int | None, steps: int) -> None:
    """Raise ValueError for arguments out of range."""
    check_rho(rho)
    for name, value in (("m", m), ("steps", steps)):
        if value is None and name == "m":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")


def mean_sharpness(
    objective: Objective, rho: float, m: int | None, steps: int, eps: float, at_w: tuple[Tensor, Tensor] | None = None
) -> float:
    """`m_sharpness` of an objective, whose loss and gradient ``at_w`` may be known already."""
    check(rho, m, steps)
    if m is None:
        return _rise(objective, rho, steps, eps, at_w or objective.loss_and_gradient())
    total = rises = 0.0
    for weight, group in _groups(objective, m):
        rises += weight * _rise(group, rho, steps, eps, group.loss_and_gradient())
        total += weight
    if objective.processes is None:
        return rises / total
    together = torch.tensor(rises, dtype=torch.float64, device=objective.device)
    return objective.mean(total, together)[0].item()


def _rise(objective: Objective, rho: float, steps: int, eps: float, at_w: tuple[Tensor, Tensor]) -> float:
    """L(w + ε) − L(w)."""
    loss, gradient = at_w
    if steps == 1:
        offset = perturbation(gradient, rho, eps)
    else:
        offset = torch.zeros_like(gradient)
        for step in range(steps):
            if step > 0:
                _, gradient = objective.loss_and_gradient(offset)
            offset = offset + perturbation(gradient, _STRIDE * rho, eps)
            offset *= (rho / torch.linalg.vector_norm(offset)).clamp(max=1).nan_to_num(1.0)  # 0/0: ρ or g is 0
    return objective.loss(offset).item() - loss.item()


def _groups(objective: Objective, m: int) -> Iterator[tuple[float, Objective]]:
    """Each group of m examples with what it counts. Measured by this process alone."""
    for _, x, y in objective.weighted_batches():
        if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() and y.dim() and len(x) == len(y)):
            raise TypeError(
                "m cuts batches into groups: it needs two tensors (x, y) of the same length. For other batches leave "
                "m out, or measure each group by itself"
            )
        if len(x) > m:
            _refuse_coupling(objective.model)
        for part in zip(x.split(m), y.split(m), strict=True):
            weight = float(objective.weight(*part))
            if weight != 0:
                yield weight, objective.on([part])


def _refuse_coupling(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"batch norm ({name}) mixes the examples of a batch, so that a group of m has no loss of its own: "
                "measure in evaluation mode, or leave m out"
            )
