"""The points of a grid at which a claim is asked, with the runs that it reads there and what it says of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lowland.training.claims import Claim, Undecidable, Verdict
from lowland.training.experiment import Experiment
from lowland.training.outcome import Outcome
from lowland.training.settings import Settings, SettingValue, values_of
from lowland.training.sweep.cells import SEED, Cell
from lowland.values import Json
from lowland.wording import describe

_ITSELF = Verdict(None, None, "it compares runs with themselves")


@dataclass(frozen=True)
class Point:
    """A claim's verdict on the runs around one point of the grid.

    Attributes:
        settings: of the point, those that vary; without the seed where the claim is over seeds.
        runs: arm → label, None where the grid has no such run.
        verdict: on these runs.
        cells: the settings, but for the seed, of every point at which the claim reads these runs.
    """

    settings: Mapping[str, SettingValue]
    runs: Mapping[str, str | None]
    verdict: Verdict
    cells: list[Mapping[str, SettingValue]]

    def lies_in(self, cell: Cell) -> bool:
        """Whether it is one of the points with the settings of ``cell``."""
        return dict(cell.settings) in self.cells

    def entry(self) -> dict[str, Json]:
        """For a summary."""
        verdict = self.verdict
        return {
            "settings": dict(self.settings),
            "runs": dict(self.runs),
            "measured": verdict.measured,
            "interval_95": None if verdict.interval is None else list(verdict.interval),
            "passed": verdict.passed,
            "reason": verdict.reason,
        }


def points_of(
    claim: Claim, experiment: Experiment, outcomes: Mapping[str, Outcome], varied: Sequence[str]
) -> list[Point]:
    """The points at which ``claim`` is asked, in the order of the grid.

    A claim compares arms by name. At each run of the grid it is asked with that run in place of the experiment's own
    settings: the arm of a name is then the run whose settings are that run's, but for what makes the arm. What looks
    at the same runs from different points is one point. One that compares over seeds is asked for all seeds at once.

    Points whose run is two of the arms, as ρ = 0 is SAM and SGD, compare a run with itself. They are left out, unless
    there are no others.

    Args:
        claim: of the ``experiment``, and not about the whole grid.
        experiment: whose arms are compared.
        outcomes: label → run, in the order of the grid.
        varied: the settings that vary over it.
    """
    labels = {outcome.settings: label for label, outcome in outcomes.items()}
    points, known, with_themselves = list[Point](), dict[_Read, Point](), list[Point]()
    bases, made = list(labels), dict(experiment.arms)
    named = list(varied)
    if claim.over_seeds:
        seeds = list(dict.fromkeys(settings.seed for settings in labels))
        bases = list(dict.fromkeys(replace(settings, seed=seeds[0]) for settings in labels))
        made = {f"{name}-{k}": {**fixed, "seed": seed} for name, fixed in made.items() for k, seed in enumerate(seeds)}
        named = [name for name in varied if name != SEED]
    for base in bases:
        cell = {name: getattr(base, name) for name in varied if name != SEED}
        seen = _Reader(made, base, labels, outcomes, varied, known)
        try:
            verdict = experiment.judge(claim, seen)
        except _KnownError:
            known[tuple(seen.read)].cells.append(cell)
            continue
        except _UnfitError as error:
            verdict = Verdict(None, None, str(error))
        runs = {name: labels.get(settings) for name, settings in seen.read}
        at = {name: getattr(base, name) for name in named}
        if seen.is_with_itself(verdict):
            reason = verdict if verdict.passed is None else _ITSELF
            with_themselves.append(Point(at, runs, reason, [cell]))
            continue
        points.append(Point(at, runs, verdict, [cell]))
        known[tuple(seen.read)] = points[-1]
    return points or with_themselves


_Read = tuple[tuple[str, Settings], ...]


class _UnfitError(Undecidable):
    """A run that a claim asks for isn't there, or wasn't trained as far as claims look."""


class _KnownError(Undecidable):
    """A claim looks at the same runs again."""


@dataclass
class _Reader(Mapping[str, Outcome]):
    """Arms by name around one run of the grid, which remembers which of them were read.

    Attributes:
        made: arm → the settings that make it.
        base: the run's settings.
        labels: settings → run.
        outcomes: the grid's runs.
        varied: the settings that vary over it.
        known: what was read in full at earlier points. Judges are functions of what they read, so that one that
            has read just this ends as it did there.
        read: arm and settings, in the order in which they were asked for.
    """

    made: Mapping[str, Mapping[str, SettingValue]]
    base: Settings
    labels: Mapping[Settings, str]
    outcomes: Mapping[str, Outcome]
    varied: Sequence[str]
    known: Mapping[_Read, Point]
    read: list[tuple[str, Settings]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Outcome:
        settings = self._of(name)
        self.read.append((name, settings))
        if tuple(self.read) in self.known:
            raise _KnownError
        label = self.labels.get(settings)
        if label is None:
            shown = values_of(settings)
            names = dict.fromkeys((*self.made[name], *self.varied))
            raise _UnfitError(f"the grid has no run with {describe({key: shown[key] for key in names})}")
        outcome = self.outcomes[label]
        if outcome.status in ("failed", "stopped"):
            end = f"failed: {outcome.error}" if outcome.error else f"was stopped at step {outcome.stopped_at}"
            raise _UnfitError(f"run {label} {end}")
        if not outcome.records:
            raise _UnfitError(f"run {label} has no records")
        return outcome

    def __iter__(self) -> Iterator[str]:
        return iter(self.made)

    def __len__(self) -> int:
        return len(self.made)

    def _of(self, name: str) -> Settings:
        return replace(self.base, **self.made[name])  # type: ignore[arg-type]

    def is_with_itself(self, verdict: Verdict) -> bool:
        """Whether two arms that were read are one run; or one that was read, and an undecided verdict's other arm."""
        read = dict(self.read)
        if len(set(read.values())) < len(read):
            return True
        others = [name for name in self.made if name not in read]
        at_base = self.base in read.values()
        return verdict.passed is None and at_base and any(self._of(name) == self.base for name in others)
