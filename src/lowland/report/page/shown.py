"""A run or sweep directory as the page shows it: plain data."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowland.report.page.rounding import number
from lowland.training import Record
from lowland.training.forecast import passes
from lowland.training.sweep import arms_beyond
from lowland.values import Read
from lowland.wording import worsened_of

# How a run stands, in the order in which the page counts them.
STATUSES = ("done", "diverged", "stopped", "failed", "under way", "waiting")
ENDED = STATUSES[:4]


@dataclass(frozen=True)
class ShownRun:
    """One run of a directory.

    Attributes:
        label: its arm, or its point of a sweep's grid.
        settings: by name.
        records: in the order of steps.
        status: one of `STATUSES`.
        step: how many steps it has made, as far as its directory says.
        steps: how many it is to make; None where nothing says so.
        ended_at: the step at which it diverged or was stopped; None for others.
        error: why it failed; empty for others.
        seconds: that its training took, of a vectorized run its share; None where nothing says so.
        gradients_a_step: of a batch, mean over a run; None where nothing says so, as in earlier directories.
    """

    label: str
    settings: Mapping[str, Read]
    records: Sequence[Record]
    status: str
    step: int
    steps: int | None
    ended_at: int | None = None
    error: str = ""
    seconds: float | None = None
    gradients_a_step: float | None = None

    @property
    def seed(self) -> int:
        """Its seed; 0 where its experiment has none."""
        seed = self.settings.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def gradients(self) -> float:
        """How many it has taken, each of a batch; by the steps that it has made of a run's."""
        made = self.step if self.ended_at is None else self.ended_at
        return made * (self.gradients_a_step or passes(number(self.settings.get("rho"))))

    @property
    def told(self) -> str:
        """Its status in words: ``"diverged at step 12"``, ``"under way, step 30 of 100"``."""
        if self.status == "under way":
            return f"under way, step {self.step:,}" + (f" of {self.steps:,}" if self.steps else "")
        if self.error:
            return f"failed: {self.error}"
        return self.status if self.ended_at is None else f"{self.status} at step {self.ended_at:,}"


@dataclass(frozen=True)
class ShownDirectory:
    """A run or sweep directory.

    Attributes:
        path: of the directory.
        config: what stands in its ``config.json``.
        description: what it says it is about (`lowland.training.description`); None where it says nothing.
        summary: what it came to; None while it is under way.
        varied: the settings that vary over a sweep's grid, with the seed; empty for a run.
        runs: the arms of a run, the points of a sweep.
    """

    path: Path
    config: Mapping[str, Read]
    description: Mapping[str, Read] | None
    summary: Mapping[str, Read] | None
    varied: tuple[str, ...]
    runs: Sequence[ShownRun]

    @property
    def is_sweep(self) -> bool:
        return bool(self.config.get("sweep"))

    @property
    def experiment(self) -> str:
        return str(self.config["experiment"])

    @property
    def title(self) -> str:
        """The experiment's title; its name where the directory doesn't say, and without one its kind."""
        said = str(self.description["title"]) if self.description else ""
        return said or self.experiment or self.kind

    @property
    def kind(self) -> str:
        """What it is, in a word."""
        return "Sweep" if self.is_sweep else "Run"

    @property
    def about(self) -> str:
        """Its kind, experiment and scale: ``"Sweep of long2024/toy, paper scale"``.

        An experiment of no paper that has no name isn't named, and its whole scale needs no word.
        """
        of = f" of {self.experiment}" if self.experiment else ""
        scale = str(self.config["scale"])
        of_paper = self.description is None or bool(self.description["paper"])
        return f"{self.kind}{of}" + (f", {scale} scale" if of_paper or scale != "paper" else "")

    @property
    def arms_beyond(self) -> list[str]:
        """Of a sweep: the arms of its experiment that are no point of its grid."""
        arms = self.description["arms"] if self.description and self.is_sweep else {}
        return arms_beyond(arms, [run.settings for run in self.runs])

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def worsened(self) -> str:
        """Which runs ended with a higher training loss than they began with; empty while it is under way."""
        return worsened_of(self.summary or {})

    @property
    def counts(self) -> dict[str, int]:
        """How many runs stand in which way; those that none does are left out."""
        counts = Counter(run.status for run in self.runs)
        return {status: counts[status] for status in STATUSES if counts[status]}

    @property
    def share(self) -> float | None:
        """The share of all steps that is made, from 0 to 1; None where their number is unknown."""
        if self.finished:
            return 1.0
        total = sum(run.steps or 0 for run in self.runs)
        if not total or any(run.steps is None for run in self.runs):
            return None
        made = sum(run.steps or 0 if run.status in ENDED else min(run.step, run.steps or 0) for run in self.runs)
        return made / total

    @property
    def told(self) -> str:
        """How far it is, in words: ``"finished: 3 done"``, ``"under way, 40 % of the steps: 1 done, 2 waiting"``."""
        counts = ", ".join(f"{count:,} {status}" for status, count in self.counts.items())
        if self.finished:
            return f"finished: {counts}"
        share = "" if self.share is None else f", {self.share:.0%} of the steps"
        return f"under way{share}: {counts}" if counts else "nothing has begun yet"
