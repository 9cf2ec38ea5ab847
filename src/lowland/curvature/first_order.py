"""Whether the gradient that torch gives is that of the loss.

``detach()``, ``.data``, ``torch.no_grad()``, ``item()``, straight-through estimators and stop-gradients give the loss a
dependence on parameters that differentiation doesn't see. Then what is differentiated twice is another function, or
none, and products and differences of gradients can agree about it. Differences of the loss itself don't.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.curvature.modes import Rounded
from lowland.curvature.objective import Objective
from lowland.curvature.vectors import as_real, coarsest, entries

_AWAY = 1e-2  # of each tensor's norm. At w itself, in a minimum say, both slopes may be zero by chance
_FINE, _LONG = (1e-6, 1e-5), (2e-3, 1e-3)  # steps, of each tensor's norm: the first, and a second opinion
_SAME, _ROUGHLY = 1e-4, 0.1  # times the size of slopes along random directions
_ROUNDING = {_FINE: 1e3, _LONG: 16.0}  # rounding units of the loss that its difference may be off by
_TRIED, _NAMED = 8, 3  # parameters


def cut_off(objective: Objective) -> str:
    """How the gradient differs from that of the loss, in words; empty if it doesn't.

    Compared are two slopes of the loss of the first batch along a random direction, in which each tensor has a share by
    its norm: by the gradient, and by a difference of losses. They are taken in float64, at a random point near w, away
    from it by 1 % of each tensor's norm. That takes one gradient, and two losses without gradients. Where the slopes
    disagree, two losses more are a second opinion, which is uncertain by four times what it differs from the first:
    kinks are no objection. To name the parameters at fault, at most 8 that have no gradient take two losses each. A
    difference of 1e-4 of the usual size of such slopes is found.

    A model that doesn't run in float64, or computes in a coarser type inside, has too much rounding for that. Then
    steps are 1e-3 of each tensor's norm, and a difference of a tenth is found, if the rounding of the loss lets it.
    """
    _, x, y = next(iter(objective.weighted_batches()))
    one = objective.on([(x, y)])
    try:
        found = _Slopes(one.in_double(same_masks=False)).verdict()
    except Exception:  # it doesn't run in float64
        try:
            found = _Slopes(one).verdict()
        except Exception:  # nothing can be told
            found = ""
    if objective.processes is not None and not objective.processes.agree(bool(found)):
        return ""
    return found or ("" if objective.processes is None else _words("", ""))


class _Slopes:
    """Of a loss along random directions near w: by differences, and by its gradient."""

    def __init__(self, objective: Objective):
        self.objective = objective
        self.generator = torch.Generator().manual_seed(1)
        norms = [torch.linalg.vector_norm(as_real(p.detach()), dtype=torch.float64).item() for p in objective.params]
        usual = math.sqrt(sum(norm**2 for norm in norms) / len(norms)) or 1.0
        self.lengths = [norm or usual for norm in norms]
        self.sizes = [entries(p) for p in objective.params]
        self.away = _AWAY * self._random()
        self.at = torch.zeros(())
        self.coarse = Rounded()
        self.unit = torch.finfo(torch.float64).eps
        self.steps = _FINE
        if objective.dtype != torch.float64 or coarsest(objective.leaves()) > self.unit:
            self._roughly(max(coarsest(objective.params), torch.finfo(torch.float32).eps))

    def _roughly(self, unit: float) -> None:
        self.steps, self.unit = _LONG, unit

    def _random(self, only: int | None = None) -> Tensor:
        """A direction with as much of each tensor, in units of their norms; or one of a single tensor."""
        pieces = []
        for number, (size, length) in enumerate(zip(self.sizes, self.lengths, strict=True)):
            piece = torch.randn(size, generator=self.generator, dtype=torch.float64, device="cpu")
            norm = torch.linalg.vector_norm(piece).item()
            pieces.append(piece * (length / norm if norm and only in (None, number) else 0.0))
        return torch.cat(pieces).to(self.objective.device, self.objective.dtype)

    def verdict(self) -> str:
        """Why the graph is cut off, as `cut_off` says it; empty if it is not."""
        self.at, gradient = self.objective.loss_and_gradient(self.away)
        direction = self._random()
        by_gradient = torch.dot(gradient, direction).item()
        pieces = gradient.split(self.sizes)
        usual = math.hypot(
            *(
                length * torch.linalg.vector_norm(piece).item() / math.sqrt(max(size, 1))
                for piece, length, size in zip(pieces, self.lengths, self.sizes, strict=True)
            )
        )
        with self.coarse:
            slope, noise = self._difference(direction, 0)
        if self.coarse.seen != torch.float64 and self.steps == _FINE:
            self._roughly(torch.finfo(self.coarse.seen).eps)
            slope, noise = self._difference(direction, 0)
        share = _SAME if self.steps == _FINE else _ROUGHLY
        if not abs(slope - by_gradient) > share * usual + noise:  # nor where one isn't finite
            return ""
        again, noise = self._difference(direction, 1)
        noise += 4 * abs(again - slope)  # the step may be too long, or cross a kink
        if not abs(again - by_gradient) > share * usual + noise:
            return ""
        return _words(
            f": {again:.6g} along a random direction, where the gradient says {by_gradient:.6g}", self._unseen(pieces)
        )

    def _difference(self, direction: Tensor, number: int) -> tuple[float, float]:
        """The slope by losses, and how uncertain it is: by the rounding of the loss, and by a second difference."""
        step = self.steps[number]
        ahead, behind = (self._loss(self.away + sign * step * direction).double().item() for sign in (1, -1))
        bent = abs(ahead - 2 * self.at.double().item() + behind)
        rounding = _ROUNDING[self.steps] * self.unit * max(abs(ahead), abs(behind))
        return (ahead - behind) / (2 * step), (rounding + (bent if self.steps == _FINE else 0.0)) / step

    def _loss(self, offset: Tensor) -> Tensor:
        try:
            return self.objective.loss(offset)
        except RuntimeError:  # it differentiates by parameters itself
            return self.objective.loss_and_gradient(offset)[0]

    def _unseen(self, gradients: Sequence[Tensor]) -> str:
        """The parameters without a gradient that the loss depends on."""
        names = []
        for number in [number for number, piece in enumerate(gradients) if not piece.any()][:_TRIED]:
            slope, noise = self._difference(self._random(number), 1)
            if abs(slope) > noise:
                names.append(self.objective.names[number])
        if not names:
            return ""
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f" ({', '.join(names[:_NAMED])}{more}: no gradient at all)"


def _words(slopes: str, names: str) -> str:
    return (
        f"the gradient isn't that of the loss{slopes}{names}. Part of how the loss depends on the parameters is hidden "
        "from differentiation (detach(), .data, torch.no_grad(), item(), a straight-through estimator, an embedding's "
        "padding_idx, a backward of its own), so the products are not with the loss's Hessian. A target that is meant "
        "to stand still (BYOL, SimSiam, VQ) is computed beforehand and handed over as y"
    )
