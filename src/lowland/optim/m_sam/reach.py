"""Which rows of layers the losses of some groups reach."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowland.optim.m_sam.closure import Closure
from lowland.optim.m_sam.evaluate import Losses, gradients_aside
from lowland.optim.m_sam.first_pass import FirstPass
from lowland.optim.m_sam.gradients import Built, Piece
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.guesses import Guess
from lowland.optim.m_sam.handler import Handler
from lowland.optim.m_sam.host import Parameters
from lowland.optim.m_sam.layers.batch_norm import by_group
from lowland.optim.m_sam.rule import Use
from lowland.optim.m_sam.watch import watching


@dataclass
class Reach:
    """How far losses of some groups reach.

    Attributes:
        beyond: the parameter of a layer where they reach rows of other groups; "" if there is none.
        everywhere: for each parameter of layers, whether they reach the rows of all examples in one of its uses.
    """

    beyond: str = ""
    everywhere: dict[str, bool] = field(default_factory=dict)


def reach_of(
    examples: Tensor, groups: Groups, model: nn.Module, who: Parameters, losses: Losses, guess: Guess
) -> Reach:
    """How far the losses of some examples reach, in one evaluation.

    Args:
        examples: of each, whether it is one of them.
        groups: of all.
        model: has the parameters.
        who: takes part.
        losses: the closure.
        guess: of what has rows.
    """
    side = _Reached(groups, who.names, set(who.trainable), examples)
    closure = Closure(groups.whole, who.names, parted=False)  # what can't be followed is looked at, too
    closure.dependence.guess = guess
    closure.dependence.generators = True  # the pass before has seen to them
    watched = watching(who.trainable, model, Handler(side, closure))
    with by_group(model, groups), watched, gradients_aside(who.trainable), torch.enable_grad():
        value = losses()
        side.recording = bool(value.isfinite().all())
        value[examples.to(value.device)].sum().backward()
    return side.reach


class _Reached(FirstPass):
    """Looks where gradients of some examples' losses are zero: in all rows of the others, in whatever precision."""

    def __init__(self, groups: Groups, names: dict[Tensor, str], members: set[Tensor], examples: Tensor):
        super().__init__(groups, names, members, False, lambda _: None)
        self.examples = examples
        self.reach = Reach()

    def record(self, use: Use, activations: Tensor, output_gradients: Tensor) -> None:
        """Look at the rows of a layer."""
        d = output_gradients if use.leading is None else output_gradients.unflatten(0, use.leading)
        where = self.names[next(iter(use.owners.values()))]
        size, k = self.groups.size, len(d) // self.groups.size
        if k * size != len(d):
            return
        self._look(d.flatten(1), self.examples.repeat_interleave(k).to(d.device), where)
        # Examples may be along any dimension.
        whole = [d.movedim(dim, 0).flatten(1) for dim, n in enumerate(d.shape) if n % size == 0]
        reached = k == 1 and all(bool((rows != 0).any(1).all()) for rows in whole)
        self.reach.everywhere[where] = self.reach.everywhere.get(where, False) or reached

    def add(self, param: Tensor, piece: Piece) -> None:
        """Look at a parameter's gradients of groups."""
        assert isinstance(piece, Built)
        chosen = self.examples[:: self.groups.m].to(piece.stack.device)
        self._look(piece.stack.reshape(len(chosen), -1), chosen, self.names[param])

    def _look(self, rows: Tensor, chosen: Tensor, where: str) -> None:
        if self.recording and bool((rows[~chosen] != 0).any()):
            self.reach.beyond = self.reach.beyond or where

    def expect(self) -> None:
        """Losses that aren't finite say nothing, and nothing is looked at."""
