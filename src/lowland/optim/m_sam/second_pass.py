"""The pass at each group's own w + e."""

from collections.abc import Callable, Set
from functools import partial

import torch
from torch import Tensor

from lowland.optim.m_sam.gradients import Built, Piece, add
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.perturbation import Perturbation
from lowland.optim.m_sam.rule import Rule, Use
from lowland.values import Context


class SecondPass:
    """Gives each group its own weights.

    Args:
        groups: of the batch.
        names: of all parameters that are watched.
        perturbations: of those that are perturbed.
        warn: of what is slow.
    """

    def __init__(
        self,
        groups: Groups,
        names: dict[Tensor, str],
        perturbations: dict[Tensor, Perturbation],
        warn: Callable[[str], None],
    ):
        self.groups, self.names, self.perturbations, self.warn = groups, names, perturbations, warn
        #: Parameters whose gradients are recorded in `pieces`.
        self.members: Set[Tensor] = frozenset()
        #: Of the groups' summed losses over `divided_by`, at their own w + e.
        self.pieces: dict[Tensor, Piece] = {}
        self._tapped = False

    @property
    def divided_by(self) -> int:
        """What the sum of a group's losses is divided by before backward."""
        return self.groups.whole

    def covered(self, use: Use) -> Tensor:
        """The function, with what is added to the weights."""
        if use.rule.composite or not torch.is_grad_enabled() or self.members.isdisjoint(use.owners.values()):
            return self._perturbed(use)
        self._tapped = type(use.rule).pieces is not Rule.pieces
        try:
            out = self._perturbed(use)
            if self._tapped and out.requires_grad:
                out.register_hook(partial(self._record, use, use.rule.prepared(use).detach()))
        finally:
            self._tapped = False
        return out

    def without_rows(self, use: Use) -> Tensor:
        """The function at w, whose gradients are zero."""
        return use.run()

    def _perturbed(self, use: Use) -> Tensor:
        if not any(p in self.perturbations for p in use.owners.values()):
            return use.rule.unmoved(use, self)
        return use.rule.perturbed(use, self)

    def _record(self, use: Use, activations: Tensor, output_gradients: Tensor) -> None:
        for name, piece in use.rule.pieces(use, activations, output_gradients, self.groups).items():
            if name in use.owners:
                self._add(use.owners[name], piece)

    def _add(self, param: Tensor, piece: Piece) -> None:
        if param in self.members:
            self.pieces[param] = add(self.pieces.get(param), piece, self.groups, param.shape)

    def factors(self, param: Tensor) -> Perturbation | None:
        """What is added to ``param``, if it is unbuilt."""
        found = self.perturbations.get(param)
        return found if found is not None and found.factors is not None and found.stack is None else None

    def constant(self, param: Tensor) -> Tensor:
        """``(groups, *shape)``: the weights of each group, through which no gradient goes."""
        found = self.perturbations.get(param)
        if found is None:
            return param.detach().expand(self.groups.count, *param.shape)
        return found.weights(param, self.groups)

    def moved(self, param: Tensor, dtype: torch.dtype) -> Tensor:
        """``(groups, *shape)``: what is added to the weights, for types in which w + e would be w again."""
        return (self.constant(param) - param.detach()).to(dtype)

    def stack(self, param: Tensor) -> Tensor:
        """``(groups, *shape)``: the weights of each group, differentiable."""
        record = None
        if not self._tapped and param in self.members:

            def record(gradient: Tensor) -> None:
                self._add(param, Built(gradient))

        if param not in self.perturbations and record is None:
            return param.expand(self.groups.count, *param.shape)
        return _Moved.apply(param, self.constant(param), record)

    def rows(self, param: Tensor, rows: int) -> Tensor:
        """``(rows, *shape)``: for each row the weights of its group, differentiable."""
        return self.groups.spread(self.stack(param), rows)


class _Moved(torch.autograd.Function):
    """A parameter, moved to where each group has it."""

    @staticmethod
    def forward(ctx: Context, param: Tensor, stack: Tensor, record: Callable[[Tensor], None] | None) -> Tensor:
        ctx.record = record
        return stack.view_as(stack)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        if ctx.record is not None:
            ctx.record(gradient.detach())
        return gradient.sum(0), None, None
