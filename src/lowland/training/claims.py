"""A claim of a paper, the paper's own value, and the verdict on a run of ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lowland.training.outcome import Outcome
from lowland.values import Json


class Undecidable(Exception):
    """Raised out of a judge where what it asks for isn't there; whoever asked it knows what that means."""


@dataclass(frozen=True)
class Verdict:
    """What a claim came to.

    Attributes:
        measured: the value, None where there is none.
        passed: whether the claim holds; None where the run can't say.
        reason: why it can't, or what else is to be said.
        interval: the 95 % confidence interval of ``measured``, where that is a mean over seeds.
    """

    measured: float | None
    passed: bool | None
    reason: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Reference:
    """The paper's own value, to stand beside ours.

    Attributes:
        value: a number, or several in words (``"ERM 5.15, SAM 4.3"``).
        where: its figure or table, and whether it was read by eye (``"figure 9, read by eye"``).
    """

    value: float | str
    where: str

    def entry(self) -> dict[str, Json]:
        """The reference as an entry of a summary."""
        return {"value": self.value, "where": self.where}


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and how a run decides it.

    Attributes:
        id: short name.
        text: the statement.
        source: where it is made.
        threshold: the condition on the measured value, as text (``"<= 0.1"``), or None where it is only reported.
        judge: outcomes by arm → verdict.
        over_seeds: whether it compares arms over several seeds, NAME-0, NAME-1, ...: in a sweep those of the grid.
        whole_grid: whether, in a sweep, it is a claim about all its runs together, by label, and not about the arms
            around each point.
        reference: the paper's own value, where one is known.
        regime: outcomes by arm → why these runs don't get to where the claim speaks, in one sentence with the number
            (``"ERM's training error is 0.67, and the claim is about networks that get to 0.02"``); empty if they
            do. Where they don't the claim is undecided, whatever was measured.
        decided_by: the scale that gets there, and has the seeds that it takes.
        grid: the experiment's grid whose sweep decides it, where a single run can't.
    """

    id: str
    text: str
    source: str
    threshold: str | None
    judge: Callable[[Mapping[str, Outcome]], Verdict]
    over_seeds: bool = False
    whole_grid: bool = False
    reference: Reference | None = None
    regime: Callable[[Mapping[str, Outcome]], str] | None = None
    decided_by: str = "desk"
    grid: str | None = None

    def decide(self, outcomes: Mapping[str, Outcome]) -> Verdict:
        """``judge`` of these outcomes, but null with the reason where they don't get to the regime."""
        short = self.regime(outcomes) if self.regime is not None else ""
        verdict = self.judge(outcomes)
        return replace(verdict, passed=None, reason=short) if short else verdict
