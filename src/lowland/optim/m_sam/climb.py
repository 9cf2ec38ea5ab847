"""From the groups' gradients to what is added to each parameter: the ascent rules that have a form for all at once."""

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from lowland.optim import amp
from lowland.optim.ascent import Adaptive, Ascent, LossBudget, Unnormalized
from lowland.optim.m_sam.gradients import Built, Factors, Piece, squared_norms
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.host import Parameters, Settings
from lowland.optim.m_sam.perturbation import Perturbation, along
from lowland.optim.m_sam.second_pass import SecondPass
from lowland.torch_tools import in_parts


def unsupported(rule: Ascent) -> str | None:
    """Why an ascent rule has no such form, if it hasn't."""
    if type(rule) not in (Ascent, Unnormalized, LossBudget, Adaptive):
        return f"the ascent rule {type(rule).__name__} has no form for all groups at once"
    return None


def climb(
    settings: Settings, who: Parameters, found: dict[Tensor, Piece], groups: Groups, scaler: GradScaler | None
) -> tuple[dict[Tensor, Perturbation], Tensor]:
    """Where each group climbs, and the norms of its gradient.

    Args:
        settings: of the optimizer.
        who: takes part.
        found: of the parameters that climb, gradients of each group's summed loss over ``groups.m``, scaled by
            ``scaler``.
        groups: of the examples.
        scaler: a ``GradScaler``, or None.

    Returns:
        What to add to each parameter; norms, shape (groups,), float64.
    """
    l2, rhos = settings.l2, who.rhos
    pieces = dict(found)
    per = of_means(groups, next(iter(rhos)), scaler)
    if l2:
        for p in who.climbing - pieces.keys():
            pieces[p] = Built(p.new_zeros(()).expand(groups.count, *p.shape))
    if isinstance(settings.ascent_rule, Adaptive):
        return _adapt(settings, settings.ascent_rule, who, pieces, groups, per)
    squares = squared_norms(pieces.values(), groups) * per.square()
    if l2:
        for p, piece in pieces.items():
            w = p.detach()
            squares += 2 * l2 * piece.dot(w, groups) * per
            squares += sum(l2**2 * torch.linalg.vector_norm(part).double().square() for part in in_parts(w))
    norms = squares.clamp_(min=0).sqrt_()
    s = settings.ascent_rule.reach(norms, settings.eps, max((rhos[p] for p in who.climbing), default=0.0))
    reach = {rho: rho * s * per for rho in set(rhos.values()) if rho}
    keeps = {rho: 1 + rho * s * l2 if l2 else None for rho in reach}
    return {p: _perturbation(piece, reach[rhos[p]], keeps[rhos[p]]) for p, piece in pieces.items() if rhos[p]}, norms


def of_means(groups: Groups, param: Tensor, scaler: GradScaler | None, divided_by: int | None = None) -> Tensor:
    """What makes gradients of summed losses over ``divided_by``, ``groups.m`` by default, those of means; (groups,)."""
    scale = amp.loss_scale(scaler, param)
    scale = scale.double() if isinstance(scale, Tensor) else scale
    return (divided_by or groups.m) / (groups.sizes.to(param.device) * scale)


def _adapt(
    settings: Settings, rule: Adaptive, who: Parameters, pieces: dict[Tensor, Piece], groups: Groups, per: Tensor
) -> tuple[dict[Tensor, Perturbation], Tensor]:
    l2, rhos = settings.l2, who.rhos
    squares, own, directions = torch.zeros_like(per), torch.zeros_like(per), {}
    for p, piece in pieces.items():
        assert isinstance(piece, Built)
        g = piece.stack * along(per, piece.stack[0]) + l2 * p.detach()
        own += Built(g).squares(groups)
        t = rule.metric(p.detach()) if rule.adapts(p, who.names.__getitem__) else torch.ones_like(p)
        g *= t
        squares += Built(g).squares(groups)
        directions[p] = g.mul_(t)
    s = rule.reach(squares.sqrt(), settings.eps, max(rhos[p] for p in directions))
    found = {
        p: Perturbation(stack=direction.mul_(along(rhos[p] * s, p)).add_(p.detach()))
        for p, direction in directions.items()
        if rhos[p]
    }
    return found, own.sqrt_()


def norms_at(second: SecondPass, params: list[Tensor], per: Tensor, l2: float) -> Tensor:
    """Of each group's gradient at its own w + e, shape (groups,), float64; ``second`` has recorded it."""
    groups, squares = second.groups, []
    if not l2:
        return squared_norms(second.pieces.values(), groups).mul_(per.square()).sqrt_()
    for p in params:
        piece = second.pieces.get(p)
        stack = second.constant(p) * l2
        if piece is not None:
            built = piece.build(groups, p.shape) if isinstance(piece, Factors) else piece
            stack = stack + built.stack * along(per, built.stack[0])
        squares.append(Built(stack).squares(groups))
    return torch.stack(squares).sum(0).sqrt_()


def _perturbation(piece: Piece, coefficients: Tensor, keeps: Tensor | None) -> Perturbation:
    if isinstance(piece, Factors):
        return Perturbation(piece, coefficients, keeps)
    return Perturbation(coefficients=coefficients, keeps=keeps, raw=piece.stack, owned=piece.owned, terms=piece.terms)
