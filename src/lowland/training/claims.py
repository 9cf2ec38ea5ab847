"""A claim of a paper, the paper's own value, and the verdict on a run of ours."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from lowland.errors import SettingError, suggestion
from lowland.training.outcome import Outcome
from lowland.values import Json


class Undecidable(Exception):
    """Raised out of a judge where what it asks for isn't there; whoever asked it knows what that means."""


class NoArmError(KeyError):
    """Raised by a judge that is asked to compare an arm that isn't there; its argument is the name."""


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
        judge: outcomes by arm → verdict. One that goes by a threshold of its own says it, as ``judge.threshold``.
        over_seeds: whether it compares arms over several seeds, NAME-0, NAME-1, ...: in a sweep those of the grid.
        whole_grid: whether, in a sweep, it is a claim about all its runs together, by label, and not about the arms
            around each point.
        reference: the paper's own value, where one is known.
        regime: outcomes by arm → why these runs don't get to where the claim speaks, in one sentence with the number
            (``"ERM's training error is 0.67, and the claim is about networks that get to 0.02"``); empty if they
            do. Where they don't the claim is undecided, whatever was measured.
        decided_by: the scale that gets there, and has the seeds that it takes.
        grid: the experiment's grid whose sweep decides it, where a single run can't.
        why: why the threshold is that one, in a sentence, where it isn't the paper's.
        figure: the name of the experiment's figure that shows it; empty where none does.

    Raises:
        TypeError: for a judge or a regime that is no function.
        ValueError: for another threshold than that of the judge, where it has one.
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
    why: str = ""
    figure: str = ""

    def __post_init__(self) -> None:
        """Refuse what can't be called, and a threshold by which the judge doesn't go."""
        given = {"judge": self.judge} | ({} if self.regime is None else {"regime": self.regime})
        for name, function in given.items():
            if not callable(function):
                raise TypeError(f"the claim {self.id}: {name} is a function of the outcomes by arm, not {function!r}")
        threshold = getattr(self.judge, "threshold", self.threshold)
        if threshold != self.threshold:
            raise ValueError(
                f"the claim {self.id}: its judge goes by {threshold!r}, so say that and not {self.threshold!r}"
            )

    def decide(self, outcomes: Mapping[str, Outcome]) -> Verdict:
        """``judge`` of these outcomes, but null with the reason where they don't get to the regime, or it measured NaN.

        Raises:
            SettingError: if ``judge`` gives no `Verdict`.
        """
        short = self.regime(outcomes) if self.regime is not None else ""
        verdict = self.judge(outcomes)
        if not isinstance(verdict, Verdict):
            raise SettingError(f"the judge of the claim {self.id} gives a {type(verdict).__name__} and not a Verdict")
        verdict = _as_told(verdict, self)
        return replace(verdict, passed=None, reason=short) if short else verdict


def _as_told(verdict: Verdict, claim: Claim) -> Verdict:
    """``verdict`` in Python's own types, of finite numbers: NaN decides nothing, and infinity stands in the reason.

    Raises:
        SettingError: for a value that is no number, or a verdict that is neither true nor false.
    """
    try:
        measured = None if verdict.measured is None else float(verdict.measured)  # a tensor, or a number of numpy's
        ends = None if verdict.interval is None else (float(verdict.interval[0]), float(verdict.interval[1]))
        passed = None if verdict.passed is None else bool(verdict.passed)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingError(f"the judge of the claim {claim.id} gives a Verdict that can't be read: {error}") from None
    interval = ends if ends is not None and all(map(math.isfinite, ends)) else None
    if measured is None or math.isfinite(measured):
        return Verdict(measured, passed, verdict.reason, interval)
    said = f"{measured} was measured" + (f"; {verdict.reason}" if verdict.reason else "")
    return Verdict(None, None if math.isnan(measured) else passed, said)


def asked_in_vain(claim: Claim, name: str, columns: Iterable[str], arms: Iterable[str]) -> SettingError:
    """The error for a ``claim`` that asks for ``name``, which is none of these ``columns`` and ``arms``.

    Args:
        claim: whose judge asked.
        name: of a column or an arm.
        columns: of the records; none where it is known to be an arm.
        arms: of the experiment; none where it is known to be a column.
    """
    sorts = [
        (wanted, verb, list(there))
        for wanted, verb, there in (("column", "the records have", columns), ("arm", "the arms are", arms))
        if there
    ]
    known = [each for _, _, there in sorts for each in there]
    lists = "; ".join(f"{verb} {', '.join(there)}" for _, verb, there in sorts)
    near = suggestion(name, known) if get_close_matches(name, known, n=1, cutoff=0.5) else ""
    what = " or ".join(wanted for wanted, _, _ in sorts)
    return SettingError(
        f"the claim {claim.id} asks for the {what} {name}, which there isn't.{near} {lists[:1].upper()}{lists[1:]}"
    )
