"""Whether claims ask for arms and columns that there are: seen at a first record, not at the end of training."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import ModuleType

import torch

from lowland.errors import LowlandError, SettingError
from lowland.training.claims import Claim, NoArmError, asked_in_vain
from lowland.training.experiment import Experiment
from lowland.training.outcome import Outcome, Record
from lowland.training.randomness import seed_everything
from lowland.training.settings import Settings, repeats

_ANY = 1.0  # stands for what an arm without records will have
_OURS = (Outcome, Settings, Claim, ModuleType)  # what an attribute is asked of that they don't have


class _NoColumnError(Exception):
    """A judge asks a record for what it doesn't have."""


class _Columns(dict[str, object]):
    """A record that tells a column it lacks from any other key."""

    def __missing__(self, name: str) -> object:
        raise _NoColumnError(name)


class _Open(dict[str, object]):
    """A record that has every column."""

    def __missing__(self, name: str) -> object:
        return _ANY


class _Arms(dict[str, Outcome]):
    """Outcomes that tell an arm they lack from any other key."""

    def __missing__(self, name: str) -> Outcome:
        raise NoArmError(name)


def claim_check(experiment: Experiment, arms: Mapping[str, Settings]) -> Callable[[str, Record], None] | None:
    """What to call with the first record of each of ``arms``: SettingError if a claim asks for what isn't there.

    None where nothing needs to be looked at: for experiments of ours, and those without claims.

    Args:
        experiment: whose claims.
        arms: those of a run by name; of a sweep its points by label.
    """
    if not experiment.is_own or not experiment.claims:
        return None

    def look(arm: str, record: Record) -> None:
        kind = kind_of(experiment, arm, arms[arm])
        for claim in experiment.claims:
            asked = _asked(experiment, claim, arms)
            alike = {name for name, settings in asked.items() if kind_of(experiment, name, settings) == kind}
            outcomes = {
                name: Outcome(settings, [_Columns(record) if name in alike else _Open(record)])
                for name, settings in asked.items()
            }
            _look(experiment, claim, _Arms(outcomes), record)

    return look


def check_claims_first(experiment: Experiment, points: Mapping[str, Settings], device: torch.device) -> None:
    """Look at the claims before a sweep's ``points`` are trained, where each run would fail for the same reason.

    Records are made for that, before the first step: one of each kind of arm. A point that can't be built is left to
    its run, which fails by itself.

    Raises:
        SettingError: if a claim asks for what isn't there.
    """
    look = claim_check(experiment, points)
    if look is None or experiment.prepare is None:
        return
    for kind in dict.fromkeys(kind_of(experiment, *point) for point in points.items()):
        label = next(label for label, settings in points.items() if kind_of(experiment, label, settings) == kind)
        try:
            seed_everything(points[label].seed)
            task = experiment.task(points[label], device)
            with experiment.calling("training"):
                record = task.check(0, task.batch(0))
        except (LowlandError, FloatingPointError):
            continue
        look(label, record)


def _asked(experiment: Experiment, claim: Claim, arms: Mapping[str, Settings]) -> dict[str, Settings]:
    """The arms among which ``claim`` chooses: of a run its own, of a sweep those that are made around one point.

    That is a point at which no two arms are the same, as ρ = 0 is SAM and SGD, if there is one.
    """
    of_run = any(repeats(label, name) for label in arms for name in experiment.arms)
    if of_run or claim.whole_grid:
        return dict(arms)

    def around(base: Settings) -> dict[str, Settings]:
        return {name: replace(base, **fixed) for name, fixed in experiment.arms.items()}  # type: ignore[arg-type]

    made = max(map(around, arms.values()), key=lambda each: len(set(each.values())))
    if not claim.over_seeds:
        return made
    seeds = list(dict.fromkeys(settings.seed for settings in arms.values()))
    return {f"{name}-{k}": replace(one, seed=seed) for name, one in made.items() for k, seed in enumerate(seeds)}


def _look(experiment: Experiment, claim: Claim, outcomes: Mapping[str, Outcome], record: Record) -> None:
    try:
        claim.decide(outcomes)
    except _NoColumnError as error:
        columns = [column for column in record if column not in ("arm", "step")]
        raise asked_in_vain(claim, str(error), columns, ()) from None
    except NoArmError as error:
        raise asked_in_vain(claim, error.args[0], (), _names(experiment, outcomes)) from None
    except (NameError, AttributeError) as error:
        # Of one record many judges can't say anything: what else they raise counts at the end.
        if isinstance(error, UnboundLocalError) or (isinstance(error, AttributeError) and not _is_ours(error.obj)):
            return
        with experiment.calling(f"the claim {claim.id}"):
            raise
    except SettingError:
        raise
    except Exception:
        return


def _is_ours(thing: object) -> bool:
    return isinstance(thing, _OURS)


def _names(experiment: Experiment, outcomes: Iterable[str]) -> list[str]:
    """The arms by name, each once though there are several seeds of it; of a whole grid the labels."""
    found = [next((name for name in experiment.arms if repeats(label, name)), label) for label in outcomes]
    return list(dict.fromkeys(found))


def kind_of(experiment: Experiment, arm: str, settings: Settings) -> str:
    """Which of the experiment's arms a run is: by its name, in a sweep by the settings that make an arm."""
    named = [name for name in experiment.arms if repeats(arm, name)]
    fitting = [
        name
        for name, fixed in experiment.arms.items()
        if all(getattr(settings, key, None) == value for key, value in fixed.items())
    ]
    return max(named or fitting or [""], key=lambda name: len(experiment.arms.get(name, {})))
