"""The claims of an experiment over a grid: whether each holds wherever the grid's runs can decide it."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from lowland.training.claims import Claim, Undecidable, Verdict
from lowland.training.experiment import Experiment
from lowland.training.outcome import Outcome
from lowland.training.settings import Settings, SettingValue, values_of
from lowland.training.summary import SMOKE, claim_entry
from lowland.training.sweep.cells import SEED, describe
from lowland.values import Json, JsonObject
from lowland.wording import counted, few

# The condition on the share of points at which a claim holds.
EVERYWHERE = "= 1"


def judge_claims(
    experiment: Experiment, config: JsonObject, outcomes: Mapping[str, Outcome], varied: Sequence[str]
) -> list[dict[str, Json]]:
    """Every claim over the grid, for a summary.

    A claim compares arms by name. At each run of the grid it is asked with that run in place of the experiment's own
    settings: the arm of a name is then the run whose settings are that run's, but for what makes the arm. What looks
    at the same runs from different points is one point. A claim holds if it does at every point that can be judged.
    One that compares over seeds is asked for all seeds of a setting at once, one that is about the whole grid once,
    with all runs by their labels.

    Args:
        experiment: whose claims.
        config: of the sweep; one of smoke scale judges none.
        outcomes: label → run, in the order of the grid.
        varied: the settings that vary over it.
    """
    smoke = config["scale"] == "smoke"
    return [
        _of_all(experiment, config, claim, SMOKE if smoke else experiment.judge(claim, outcomes))
        if claim.whole_grid
        else _over_grid(experiment, config, claim, [] if smoke else _points(claim, experiment, outcomes, varied))
        for claim in experiment.claims
    ]


def _of_all(experiment: Experiment, config: JsonObject, claim: Claim, verdict: Verdict) -> dict[str, Json]:
    judged, holds = verdict.passed is not None, verdict.passed is True
    return {
        **claim_entry(experiment, config, claim, verdict),
        "measured_over_grid": "of all runs together",
        "counts": {"points": 1, "judged": int(judged), "holds": int(holds)},
        "at_each_point": claim.threshold,
        "points": [],
    }


@dataclass(frozen=True)
class _Point:
    """A claim's verdict on certain runs: arm → label, None where the grid has no such run; and where, in words."""

    runs: Mapping[str, str | None]
    verdict: Verdict
    where: str


def _points(
    claim: Claim, experiment: Experiment, outcomes: Mapping[str, Outcome], varied: Sequence[str]
) -> list[_Point]:
    labels = {outcome.settings: label for label, outcome in outcomes.items()}
    points, known = [], set[tuple[object, ...]]()
    bases, made = list(labels), dict(experiment.arms)
    if claim.over_seeds:
        seeds = list(dict.fromkeys(settings.seed for settings in labels))
        bases = list(dict.fromkeys(replace(settings, seed=seeds[0]) for settings in labels))
        made = {f"{name}-{k}": {**fixed, "seed": seed} for name, fixed in made.items() for k, seed in enumerate(seeds)}
    for base in bases:
        seen = _Reader(made, base, labels, outcomes, varied, known)
        try:
            verdict = experiment.judge(claim, seen)
        except _KnownError:
            continue
        except _UnfitError as error:
            verdict = Verdict(None, None, str(error))
        known.add(tuple(seen.read))
        runs = {name: labels.get(settings) for name, settings in seen.read}
        at = few([f"{name} {label}" for name, label in runs.items()])
        if claim.over_seeds:
            at = describe({name: getattr(base, name) for name in varied if name != SEED}) or at
        points.append(_Point(runs, verdict, at))
    return points


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
    known: set[tuple[object, ...]]
    read: list[tuple[str, Settings]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Outcome:
        settings = replace(self.base, **self.made[name])  # type: ignore[arg-type]
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


def _over_grid(experiment: Experiment, config: JsonObject, claim: Claim, points: Sequence[_Point]) -> dict[str, Json]:
    judged = [point for point in points if point.verdict.passed is not None]
    holds = sum(point.verdict.passed is True for point in judged)
    if claim.threshold is None:
        over, verdict, what = claim, _reported(points), "the median of its points"
    else:
        over, verdict = replace(claim, threshold=EVERYWHERE), _everywhere(points, judged, holds)
        what = "the share of the points that can be judged at which it holds"
    return {
        **claim_entry(experiment, config, over, SMOKE if config["scale"] == "smoke" else verdict),
        "measured_over_grid": what,
        "counts": {"points": len(points), "judged": len(judged), "holds": holds},
        "at_each_point": claim.threshold,
        "points": [
            {
                "runs": dict(point.runs),
                "measured": point.verdict.measured,
                "passed": point.verdict.passed,
                "reason": point.verdict.reason,
            }
            for point in points
        ],
    }


def _everywhere(points: Sequence[_Point], judged: Sequence[_Point], holds: int) -> Verdict:
    if not judged:
        return Verdict(None, None, f"it is undecided at {_everyone(points)}: {_commonest(points)}")
    fails = [point for point in judged if not point.verdict.passed]
    open_ = [point for point in points if point.verdict.passed is None]
    if holds == len(points):
        return Verdict(1.0, True)
    reason = (
        f"of {counted(len(points), 'point')} it holds at {holds}, fails at {len(fails)}, is undecided at {len(open_)}"
    )
    if fails:
        reason += f"; it fails first at {fails[0].where}"
    if open_:
        reason += f"; undecided because {_commonest(open_)}"
    return Verdict(holds / len(judged), not fails, reason)


def _reported(points: Sequence[_Point]) -> Verdict:
    measured = [point.verdict.measured for point in points if point.verdict.measured is not None]
    measured = [value for value in measured if math.isfinite(value)]
    if not measured:
        return Verdict(None, None, f"it could be measured nowhere: {_commonest(points)}")
    return Verdict(median(measured), None, f"reported without a threshold, of {len(measured)} points")


def _everyone(points: Sequence[_Point]) -> str:
    return f"all {len(points)} points" if len(points) > 1 else "its only point" if points else "every point"


def _commonest(points: Sequence[_Point]) -> str:
    """Why most of the points say nothing: reasons that differ in their numbers alone are one."""
    reasons = [point.verdict.reason for point in points if point.verdict.reason]
    if not reasons:
        return "the grid has no runs"
    head, count = Counter(reason.partition(": ")[0] for reason in reasons).most_common(1)[0]
    alike = [reason for reason in reasons if reason.partition(": ")[0] == head]
    reason = alike[0] if len(set(alike)) == 1 else head
    return reason if count == len(points) else f"{reason} ({count} of {len(points)})"
