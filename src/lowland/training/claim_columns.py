"""Whether claims ask for columns that the records have: seen at an arm's first record, not at the end of training."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from lowland.errors import SettingError
from lowland.training.claims import Claim
from lowland.training.experiment import Experiment
from lowland.training.outcome import Outcome, Record
from lowland.training.settings import Settings, checked, repeats

_ANY = 1.0  # stands for what an arm without records will have


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


def column_check(experiment: Experiment, arms: Mapping[str, Settings]) -> Callable[[str, Record], None] | None:
    """What to call with the first record of each of ``arms``: SettingError if a claim asks that for a column it lacks.

    None where nothing needs to be looked at: for experiments of ours, and those without claims.

    Args:
        experiment: whose claims.
        arms: those of a run, or points of a sweep, by name.
    """
    if not experiment.is_own or not experiment.claims:
        return None

    def look(arm: str, record: Record) -> None:
        kind = _kind(experiment, arm, arms[arm])
        for claim in experiment.claims:
            _look(claim, _outcomes(experiment, arms[arm], kind, record), arm, record)

    return look


def _look(claim: Claim, outcomes: Mapping[str, Outcome], arm: str, record: Record) -> None:
    try:
        claim.decide(outcomes)
    except _NoColumnError as error:
        name = str(error)
        there = [column for column in record if column not in ("arm", "step")]
        near = get_close_matches(name, there, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SettingError(
            f"the claim {claim.id} asks for the column {name}, which the records of arm {arm} don't have.{hint} "
            f"They have {', '.join(there)}"
        ) from None
    except Exception:  # of one record many judges can't say anything: what they raise at the end counts
        return


def _kind(experiment: Experiment, arm: str, settings: Settings) -> str:
    """Which of the experiment's arms a run is: by its name, in a sweep by the settings that make an arm."""
    named = [name for name in experiment.arms if repeats(arm, name)]
    fitting = [
        name
        for name, fixed in experiment.arms.items()
        if all(getattr(settings, key, None) == value for key, value in fixed.items())
    ]
    return max(named or fitting or [""], key=lambda name: len(experiment.arms.get(name, {})))


def _outcomes(experiment: Experiment, settings: Settings, kind: str, record: Record) -> dict[str, Outcome]:
    """All arms, alone and as the first of several seeds: that of the ``kind`` with this record, others with any."""
    usual = {name: value.value for name, value in experiment.values("paper").items()}
    found = {}
    for name, fixed in experiment.arms.items():
        mine = name == kind
        made = settings if mine else checked(experiment.settings, {**usual, **fixed, "seed": settings.seed})
        found[name] = found[f"{name}-0"] = Outcome(made, [_Columns(record) if mine else _Open(record)])
    return found
