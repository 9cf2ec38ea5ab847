"""What m-SAM needs of its optimizer, and nothing else of it."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from lowland.optim.ascent import Ascent
from lowland.optim.buffers import Buffers


@dataclass(frozen=True)
class Settings:
    """What the optimizer was asked for; arguments of `lowland.SAM`, which says what they are."""

    m: int
    ascent_rule: Ascent
    l2: float
    eps: float
    audit: bool
    memory_limit: float | None
    perturbed_norms: bool


@dataclass(frozen=True)
class Parameters:
    """Who takes part in a step.

    Attributes:
        everyone: all parameters of the base optimizer, frozen ones, too.
        trainable: those of them that require gradients.
        rhos: the radius of each trainable parameter.
        climbing: the trainable parameters in scope.
        outside: the model's parameters that another optimizer has: they stay at w, and get the gradient at w + e.
        names: what the model calls its parameters.
    """

    everyone: list[Tensor]
    trainable: list[Tensor]
    rhos: dict[Tensor, float]
    climbing: set[Tensor]
    outside: list[Tensor]
    names: dict[Tensor, str]


class Host(Protocol):
    """The optimizer, as `m_sam.Engine` and the loop over groups see it."""

    @property
    def model(self) -> nn.Module:
        """The network, whose parameters the optimizer updates."""

    @property
    def settings(self) -> Settings:
        """Those of now: they may change from step to step."""

    def parameters(self) -> Parameters:
        """Those of now: parameters may be frozen, thawed and added."""

    def buffers(self, carried: Iterable[Tensor] = ()) -> Buffers:
        """The buffers of the model, before the first evaluation of a step; ``carried`` as `Buffers` takes it."""

    def batch(self) -> AbstractContextManager[None]:
        """Inside, the passes over one batch are made without the two below; afterwards the batch counts."""

    def under_way(self, name: str, apart: Sequence[Tensor] = ()) -> AbstractContextManager[None]:
        """Inside, the pass of this name is under way. Gradients of ``apart`` begin with None and are put back."""

    def at_w(self, scaler: GradScaler | None, sync: bool, onward: bool) -> AbstractContextManager[None]:
        """A pass for the gradient to climb along, as `SAM.ascent`; ``onward``: from where the climb so far has led."""

    def at_perturbed(self, share: float) -> AbstractContextManager[None]:
        """A pass at w + e, whose gradients are added to ``p.grad`` times ``share``."""

    def perturbations(self, gradients: list[Tensor | None]) -> list[Tensor | None]:
        """Where a climb along the gradients of the trainable parameters leads: e for each, None for 0."""

    def out_of_reach(self) -> str | None:
        """What to say of losses that depend on no parameter that climbs, if the optimizer has a scope."""
