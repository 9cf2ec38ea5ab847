"""The pass at w: the gradients at outputs of layers are taken up, and with them the groups' gradients."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lowland.optim.m_sam.gradients import Built, Factors, Piece, add
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.refusals import NotCovered, TooLarge
from lowland.optim.m_sam.rows import rows_of
from lowland.optim.m_sam.rule import Use
from lowland.values import Context


class FirstPass:
    """Takes up the gradients at outputs of layers; weights get none.

    Args:
        groups: of the batch. Until the losses are there, a guess, which is then checked.
        names: of all parameters that are watched.
        members: those whose gradients count.
        factors: whether products may stay unbuilt.
        warn: of what is slow.
        limit: bytes that pieces may take.

    Raises:
        TooLarge: from backward, if they take more and there are several groups.
    """

    def __init__(
        self,
        groups: Groups,
        names: dict[Tensor, str],
        members: set[Tensor],
        factors: bool,
        warn: Callable[[str], None],
        limit: float | None = None,
    ):
        self.groups, self.names, self.members, self.factors = groups, names, members, factors
        self.warn, self.limit = warn, limit
        #: Of each group's summed loss over `divided_by`, by parameter.
        self.pieces: dict[Tensor, Piece] = {}
        #: What was kept of inputs: (activations, their version, the parameter that they met, in words).
        self.inputs: list[tuple[Tensor, int, str]] = []
        #: Whether the losses are there, and their gradients are taken.
        self.recording = False
        self._anchor = torch.zeros((), requires_grad=True)

    @property
    def divided_by(self) -> int:
        """What the sum of a group's losses is divided by before backward."""
        return self.groups.m

    def covered(self, use: Use) -> Tensor:
        """The function of detached parameters; the gradient at its output is taken up."""
        return use.rule.first(use, self)

    def without_rows(self, use: Use) -> Tensor:
        """The function of detached parameters: there is no gradient to take up."""
        return use.run(**use.at_w())

    def tap(self, use: Use, output: Tensor, activations: Tensor) -> Tensor:
        """``output``, whose gradient goes to the rule's `Rule.pieces` together with ``activations``."""
        members = {name: p for name, p in use.owners.items() if p in self.members}
        if not members or not torch.is_grad_enabled():
            return output
        # Without the input, which autograd keeps, or activation checkpointing makes again.
        kept = Use(use.rule, use.func, use.arguments | {use.rule.arguments[0]: None}, members, use.leading)
        return _Tap.apply(self._anchor, output, activations, self, partial(self.record, kept))

    def record(self, use: Use, activations: Tensor, output_gradients: Tensor) -> None:
        """Take up the gradient at the output of a use."""
        where = self.names[next(iter(use.owners.values()))]
        rows_of(activations, self.groups.size, where)
        rows_of(output_gradients, self.groups.size, where)
        for name, piece in use.rule.pieces(use, activations, output_gradients, self.groups).items():
            if name in use.owners:  # others are frozen, or don't climb
                self.add(use.owners[name], piece)
        if any(isinstance(self.pieces.get(p), Factors) for p in use.owners.values()):
            self.inputs.append((activations, activations._version, where))

    def rows(self, param: Tensor, rows: int) -> Tensor:
        """``param`` once for each row, ``(rows, *shape)``; the gradient there is taken up."""

        def record(gradient: Tensor) -> None:
            rows_of(gradient, self.groups.size, self.names[param])
            self.add(param, Built(self.groups.sums(gradient)))

        return self._copies(param, rows, record)

    def stack(self, param: Tensor) -> Tensor:
        """``(groups, *shape)``: ``param`` once for each group, whose gradients are taken up."""
        return self._copies(param, self.groups.count, lambda gradient: self.add(param, Built(gradient)))

    def _copies(self, param: Tensor, count: int, record: Callable[[Tensor], None]) -> Tensor:
        if param not in self.members or not torch.is_grad_enabled():
            return param.detach().expand(count, *param.shape)
        return _Copies.apply(self._anchor, param.detach(), count, self, record)

    def add(self, param: Tensor, piece: Piece) -> None:
        """Take up what a use adds to the groups' gradients of a parameter."""
        if param in self.members:
            if not self.factors and isinstance(piece, Factors):
                piece = piece.build(self.groups, param.shape)
            if isinstance(piece, Built) and piece.owned and param not in self.pieces and param.numel() >= 10_000:
                piece.squares(self.groups)  # while it is in the cache
            self.pieces[param] = add(self.pieces.get(param), piece, self.groups, param.shape)
            if self.limit is not None:
                self._keep_to(self.limit)

    def _keep_to(self, limit: float) -> None:
        held = sum(piece.held for piece in self.pieces.values())
        if held <= limit:
            return
        if self.groups.count > 1:
            raise TooLarge
        self.warn(f"m-SAM: one group takes {held / 1e6:.1f} MB, above memory_limit: it can't be split any further")

    def expect(self) -> None:
        """Raise NotCovered for gradients that the closure takes for itself."""
        if not self.recording:
            raise NotCovered("the closure takes gradients of its own (to penalize them, say)")

    def check_inputs(self) -> None:
        """Raise NotCovered if what was kept for the second pass was written to."""
        for activations, version, where in self.inputs:
            if activations._version != version:
                raise NotCovered(f"the input of {where} was changed in place after the first pass")


class _Tap(torch.autograd.Function):
    """Hands activations and the gradient at the output over; else the identity."""

    @staticmethod
    def forward(
        ctx: Context,
        anchor: Tensor,
        output: Tensor,
        activations: Tensor,
        watch: FirstPass,
        record: Callable[[Tensor, Tensor], None],
    ) -> Tensor:
        ctx.save_for_backward(activations)
        ctx.watch, ctx.record = watch, record
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (activations,) = ctx.saved_tensors
        ctx.watch.expect()
        ctx.record(activations.detach(), gradient.detach())
        return None, gradient, None, None, None


class _Copies(torch.autograd.Function):
    """Copies of a parameter, whose gradients are handed over."""

    @staticmethod
    def forward(
        ctx: Context, anchor: Tensor, param: Tensor, count: int, watch: FirstPass, record: Callable[[Tensor], None]
    ) -> Tensor:
        ctx.watch, ctx.record = watch, record
        return param.expand(count, *param.shape)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        ctx.watch.expect()
        ctx.record(gradient.detach())
        return None, None, None, None, None
