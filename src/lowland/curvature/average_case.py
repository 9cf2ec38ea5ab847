"""Average-case sharpness: how much the loss rises under noise on the weights."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lowland.checks import count, radius
from lowland.curvature.arguments import whole_seed
from lowland.curvature.groups import Sharpness, unchanging_groups, warn_of_rounding
from lowland.curvature.nondeterminism import DeterminismCheck
from lowland.curvature.objective import LossFn, Objective, Weight
from lowland.patience import doing


def average_sharpness(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any],
    rho: float,
    *,
    draws: int = 20,
    adaptive: bool = False,
    weight: Weight | None = None,
    seed: int = 0,
) -> Sharpness:
    """E L(w + ξ) − L(w), every entry of ξ normal with mean 0 and **standard deviation ρ**.

    As in Andriushchenko et al. 2023, *A Modern Look at the Relationship between Sharpness and Generalization*, section
    3; adaptive, the standard deviation is ρ |w|, entry by entry. ξ is then about ρ √n long, n the number of parameters:
    for noise as long as the radius r of a ball in `sharpness`, take ρ = r/√n. For small ρ it is ½ ρ² tr H.

    The mean is over ``draws`` pairs ξ, −ξ: in each the gradient's part, which has mean 0 but much variance, cancels.
    All batches see the same draws. It takes 2 ``draws`` + 2 losses and no gradient; one of these shows whether the loss
    at w is the same twice.

    Args:
        model: see `lowland.curvature.Hessian`, as for ``loss_fn`` and ``batches``.
        loss_fn: mean loss over a batch.
        batches: ``(x, y)`` pairs.
        rho: standard deviation ρ ≥ 0, in the units of the parameters; adaptive, relative to them.
        draws: pairs of draws.
        adaptive: scale the noise by |w|.
        weight: what a batch counts.
        seed: of the draws.

    Returns:
        One value for each batch, and their mean with its standard error over the draws (None for a single one): not
        finite if a loss isn't.

    Raises:
        ValueError: for arguments out of range; where two evaluations of the loss at w differ.

    Warns:
        UserWarning: where parameters of float16 or bfloat16 are too coarse for the noise, or the rise is lost in the
            rounding of the losses, or in what they differ by at the same weights.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batch = torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1)
        >>> found = average_sharpness(model, torch.nn.functional.mse_loss, [batch], rho=0.1, draws=100)
        >>> abs(found.value - 0.1**2) < 3 * found.standard_error  # E (w + ξ)² − w²
        True
    """
    rho = radius(rho)
    count("draws", draws)
    seed = whole_seed(seed)
    objective = Objective(model, loss_fn, batches, weight=weight)
    scale = rho * objective.flat(p.detach() for p in objective.params).abs() if adaptive else rho
    weights, losses, rises = [], [], []
    seen = DeterminismCheck(objective.params, objective.dtype)
    with doing("average sharpness"):
        for counted, group, again in unchanging_groups(objective, None, seen):
            generator = torch.Generator().manual_seed(seed)
            loss = group.loss()
            again(loss)
            at_w, of_group = loss.item(), []
            for _ in range(draws):
                noise = torch.randn(objective.size, generator=generator, dtype=objective.dtype, device="cpu")
                noise = scale * noise.to(objective.device)
                of_group.append((group.loss(noise).item() + group.loss(-noise).item()) / 2 - at_w)
            weights.append(counted)
            losses.append(at_w)
            rises.append(of_group)
    by_batch = torch.tensor(rises, dtype=torch.float64, device="cpu")
    shares = torch.tensor(weights, dtype=torch.float64, device="cpu") / sum(weights)
    by_draw = shares @ by_batch
    if rho:
        mean = (shares @ torch.tensor(losses).to(shares)).item()
        warn_of_rounding(objective, by_draw.mean().item(), mean)
        seen.warn_beside(by_draw.mean().item())
    error = by_draw.std().item() / math.sqrt(draws) if draws > 1 else None
    return Sharpness(by_draw.mean().item(), tuple(by_batch.mean(1).tolist()), tuple(weights), error)
