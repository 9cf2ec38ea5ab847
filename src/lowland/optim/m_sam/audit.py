"""Compares groups with their definition, through the same closure: what no rule can know about itself."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowland.optim import penalty
from lowland.optim.m_sam.evaluate import gradients_aside
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.guesses import GUESSES, Guess
from lowland.optim.m_sam.handler import Handler
from lowland.optim.m_sam.host import Host, Parameters
from lowland.optim.m_sam.layers.batch_norm import by_group
from lowland.optim.m_sam.perturbation import Perturbation
from lowland.optim.m_sam.reach import Reach, reach_of
from lowland.optim.m_sam.refusals import NotCovered, Refused
from lowland.optim.m_sam.watch import watching

COUPLED = (
    "the loss of a group of examples depends on other examples of the batch, so that no group has a gradient of its "
    "own: with m each loss must be that of one example alone (no contrastive losses, no balancing over the batch); or "
    "leave m out. (A table from outside that has as many rows as the batch is taken for examples: make it a buffer of "
    "the model.)"
)


#: Batches whose number is a power of this are audited again.
AGAIN = 10


@dataclass
class Audits:
    """When there is an audit, and what the last one took.

    Attributes:
        audited: uses of parameters that were audited.
        batches: so far.
        next: the number of the batch that is audited whatever it uses.
        cost: what the last audit took, in words; "" before the first.
    """

    audited: set[tuple[str, str]] = field(default_factory=set)
    batches: int = 0
    next: int = AGAIN
    cost: str = ""

    def due(self, uses: set[tuple[str, str]]) -> bool:
        """Whether a batch that makes these uses of parameters is to be audited."""
        return self.batches >= self.next or not uses <= self.audited

    def made(self, uses: set[tuple[str, str]], evaluations: int, seconds: float) -> None:
        """Take note of an audit, and of what it took."""
        self.audited |= uses
        while self.next <= self.batches:
            self.next *= AGAIN
        self.cost = (
            f"check of two groups by their definition, at batch {self.batches}: {evaluations} evaluations of it, "
            f"{seconds:.2g} s; again where parameters are used in a new way, and at batch {self.next}; "
            "SAM(..., audit=False) leaves it out"
        )


@dataclass
class Audit:
    """Compares what the two passes make of a group with what autograd makes of it, evaluated at its own w and w + e.

    Attributes:
        host: the optimizer.
        who: takes part.
        losses: the closure, on the same random numbers each time, from the same buffers.
        rewind: puts the buffers there; before watching, which looks for them.
        autocast: whether autocast was on.
        seed: of the choice of groups.
        guess: of what has rows.
        evaluations: how many evaluations of the batch it has taken.
    """

    host: Host
    who: Parameters
    losses: Callable[[], Tensor]
    rewind: Callable[[], None]
    autocast: bool = False
    seed: int = 0
    guess: Guess = GUESSES[0]
    evaluations: int = 0

    @property
    def params(self) -> list[Tensor]:
        """The parameters that are trained."""
        return self.who.trainable

    def run(self, groups: Groups, found: dict[Tensor, Perturbation], second: Handler) -> bool:
        """Compare the last group and the first; where numbers are rounded, others if one is off: a ReLU may flip.

        Args:
            groups: of the batch.
            found: the perturbations.
            second: a handler for the second pass.

        Returns:
            Whether there was something to compare: several groups, with gradients that are finite.

        Raises:
            Refused: if the losses couple examples.
            NotCovered: if else something is wrong.
        """
        whole = Groups(groups.whole, self.host.settings.m)
        if whole.count == 1:
            return False
        verdicts = [self._wrong(j, groups, found, second) for j in dict.fromkeys((groups.count - 1, 0))]
        if None in verdicts:
            return False
        wrong = [verdict for verdict in verdicts if verdict]
        if len(wrong) == 1 and self._tolerance() > 1e-6:
            others = {groups.count // 2, groups.count // 3, groups.count // 4} - {0, groups.count - 1}
            wrong += [verdict for j in others if (verdict := self._wrong(j, groups, found, second))]
            wrong = wrong if len(wrong) > 1 or not others else []
        beyond = self._reach(whole, whole.count // 2).beyond
        if not wrong and not beyond:
            return True
        if self.couples(groups.whole):
            raise Refused(COUPLED)
        if not wrong:
            raise NotCovered(f"some losses reach rows of other groups at {beyond}: maybe they depend on their examples")
        raise NotCovered(
            f"one group was computed by its definition, too, and {wrong[0]}: maybe the examples are not along the "
            "first dimension of everything in the model, or depend on each other"
        )

    def couples(self, size: int) -> bool:
        """Whether the losses of one group reach the rows of all examples, at each parameter."""
        reached = self._reach(Groups(size, self.host.settings.m), 1)
        return bool(reached.everywhere) and all(reached.everywhere.values())

    def _wrong(self, j: int, groups: Groups, found: dict[Tensor, Perturbation], second: Handler) -> str | None:
        """What is wrong, "" if nothing; None where gradients aren't finite."""
        at_w = self._gradients(j, groups)
        if not all(g is None or bool(g.isfinite().all()) for g in at_w):
            return None
        with torch.no_grad():
            moved = {p: perturbation.of_group(p, j, groups) - p for p, perturbation in found.items()}
            expected = self.host.perturbations(at_w)
        if (name := self._apart([moved.get(p) for p in self.params], expected)) is not None:
            return f"its perturbation of {name} differs"
        kept = [p.detach().clone() for p in self.params]
        try:
            with torch.no_grad():
                for p, e in moved.items():
                    p += e
            by_hand = self._gradients(j, groups, penalize=False)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.params, kept)
        self.rewind()
        with watching(self.params, self.host.model, second):
            ours = self._gradients(j, groups, penalize=False, watched=True)
        name = self._apart(ours, by_hand)
        return "" if name is None else f"its gradient of {name} at w + e differs"

    def _apart(self, ours: list[Tensor | None], theirs: list[Tensor | None]) -> str | None:
        """The name of the parameter where they are farthest apart, if that is too far."""
        tolerance = self._tolerance()
        zero = torch.zeros(())
        pairs = [(zero if a is None else a, zero if b is None else b) for a, b in zip(ours, theirs, strict=True)]
        apart = torch.tensor([float((a - b).norm()) for a, b in pairs])
        whole = torch.tensor([float(b.norm()) for _, b in pairs]).norm()
        # Twelve digits below the weights themselves nothing can be told.
        floor = 1e-12 * float(torch.stack([p.detach().norm().cpu() for p in self.params]).norm())
        if bool(apart.norm() <= tolerance * whole + floor):
            return None
        return self.who.names[self.params[int(apart.argmax())]]

    def _tolerance(self) -> float:
        if self.autocast or any(p.dtype.itemsize < 4 for p in self.params):
            return 0.5  # the definition itself isn't right to more: what is grossly wrong is found
        return 1e-6 if all(p.dtype == torch.float64 for p in self.params) else 1e-2

    def _gradients(self, j: int, groups: Groups, penalize: bool = True, watched: bool = False) -> list[Tensor | None]:
        """The gradient of one group's mean loss, for each parameter; ``watched`` if this is a pass."""
        self.evaluations += 1
        start = groups.start + j * groups.m
        chosen = slice(start, min(start + groups.m, groups.chosen.stop))
        whole = Groups(groups.whole, self.host.settings.m)
        normalized = by_group(self.host.model, *((groups,) if watched else (whole, start // whole.m)))
        with gradients_aside(self.params), torch.enable_grad(), normalized:
            self.losses()[chosen].mean().backward()
            if penalize and (l2 := self.host.settings.l2):
                penalty.add(self.params, l2)
            return [p.grad for p in self.params]

    def _reach(self, groups: Groups, count: int) -> Reach:
        """Where the losses of ``count`` of all groups, drawn at random, reach in layers."""
        chosen = torch.randperm(groups.count, generator=torch.Generator().manual_seed(self.seed))[:count]
        examples = torch.isin(torch.arange(groups.size) // groups.m, chosen)
        self.evaluations += 1
        self.rewind()
        return reach_of(examples, groups, self.host.model, self.who, self.losses, self.guess)
