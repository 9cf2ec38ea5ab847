"""A pass, for functions of parameters that have no rule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lowland.optim.m_sam.closure import Closure
from lowland.optim.m_sam.rule import EitherPass, Use
from lowland.optim.m_sam.watched import Derived, Watched


class Side(EitherPass, Protocol):
    """What a pass does with parameters: at w, or at each group's own w + e."""

    @property
    def divided_by(self) -> int:
        """What the sum of a group's losses is divided by before backward."""

    @property
    def warn(self) -> Callable[[str], None]:
        """The function to call with a warning of what is slow."""

    def covered(self, use: Use) -> Tensor:
        """The result of a call that has a rule."""

    def without_rows(self, use: Use) -> Tensor:
        """The result of a call on no rows, which has zero gradients."""


@dataclass
class Pass:
    """The closure with the parameters of one side.

    Attributes:
        side: has the parameters.
        closure: runs.
    """

    side: Side
    closure: Closure

    def stack_of(self, leaf: object) -> Tensor | None:
        """``(groups, *shape)`` of a parameter, or of what parameters alone give; None for anything else."""
        if type(leaf) is Watched:
            return self.side.stack(leaf)
        return leaf.stack if type(leaf) is Derived else None

    def uses(self, name: str, owners: list[str]) -> None:
        """Take note of a function of parameters with these names."""
        self.closure.seen.where = owners[0] if owners else self.closure.seen.where
        self.closure.seen.uses |= {(name, owner) for owner in owners}
