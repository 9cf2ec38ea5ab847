"""Which command decides a claim that a run leaves undecided."""

import json
import shlex
from collections.abc import Mapping, Sequence

from lowland.training.claims import Claim
from lowland.training.experiment import SCALES, Experiment
from lowland.training.registry import address
from lowland.training.settings import SettingValue, checked, values_of
from lowland.values import Json, JsonObject, Read


def decided_by(experiment: Experiment, claim: Claim, config: JsonObject) -> dict[str, str | bool] | None:
    """The scale that decides ``claim``, and the command: for a run or sweep with this ``config`` that doesn't.

    ``changed`` says that this one was of the same scale, but with other settings.

    The command keeps what the user said is studied: words (a data set, a measure) that no scale changes.

    None where nothing is known that decides it better: the run has that scale's settings, or a larger scale's.
    """
    scale = deciding(experiment, claim)[0]
    swept, kept = bool(config.get("sweep")), _kept(experiment, config)
    if swept or not claim.grid:
        reaches = SCALES.index(config["scale"]) >= SCALES.index(scale)
        if reaches and not _changed(experiment, config, kept):
            return None
        if not swept and _has_settings_of(experiment, scale, config, kept):
            return None
    verb = "sweep" if swept or claim.grid else "run"
    grid = f" --grid {claim.grid}" if claim.grid else ""
    sets = "".join(f" --set {shlex.quote(f'{name}={_text(value)}')}" for name, value in kept.items())
    command = f"lowland {verb} {shlex.quote(address(experiment))}{grid} --scale {scale}{sets}"
    same = config["scale"] == scale and swept == (verb == "sweep")
    return {"scale": scale, "command": command, **({"changed": True} if same else {})}


def deciding(experiment: Experiment, claim: Claim) -> list[str]:
    """The scales that decide ``claim``, the smallest first: that which it names, and those with the same settings."""
    return experiment.like(claim.decided_by if claim.decided_by in experiment.scales else "paper")


def _kept(experiment: Experiment, config: JsonObject) -> dict[str, str | bool]:
    """The user's settings that are words and that no scale changes, by name."""
    usual, there = _alike(_usual(experiment, config)), _alike(_arms(config))
    scales = [{name: value.value for name, value in experiment.values(scale).items()} for scale in experiment.scales]
    return {
        name: value
        for name, value in there.items()
        if isinstance(value, str | bool)
        and name in usual
        and usual[name] != value
        and len({values[name] for values in scales}) == 1
    }


def _arms(config: JsonObject) -> list[Mapping[str, SettingValue]]:
    """The settings of a run's arms, or those that a sweep's grid leaves open."""
    return [config["settings"]] if config.get("sweep") else list(config["arms"].values())


def _usual(
    experiment: Experiment, config: JsonObject, changes: Mapping[str, SettingValue] | None = None
) -> list[Mapping[str, SettingValue]]:
    """The same of the run's scale, with ``changes`` alone."""
    if not config.get("sweep"):
        return [values_of(arm) for arm in experiment.configure(config["scale"], changes or {}).values()]
    values = {name: value.value for name, value in experiment.values(config["scale"]).items()}
    return [values_of(checked(experiment.settings, {**values, **(changes or {})}))]


def _alike(several: Sequence[Mapping[str, SettingValue]]) -> dict[str, SettingValue]:
    """The settings that all of several have, and alike."""
    first, *others = several
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _text(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def _changed(experiment: Experiment, config: JsonObject, kept: Mapping[str, SettingValue]) -> bool:
    """Whether the user changed a setting of the run's scale, other than those that are kept."""
    if config.get("sweep"):
        (usual,) = _usual(experiment, config, kept)
        grids = [part for parts in experiment.grids.values() for part in parts]
        open_names = [name for name in usual if name not in ("seed", "seeds") and not any(name in g for g in grids)]
        return any(config["settings"].get(name) != _plain(usual[name]) for name in open_names)
    return not _has_settings_of(experiment, config["scale"], config, kept)


def _has_settings_of(experiment: Experiment, scale: str, config: JsonObject, kept: Mapping[str, SettingValue]) -> bool:
    """Whether a run has the settings of a ``scale`` but for those that are kept, whatever its seed."""
    asked = _plain({name: values_of(arm) for name, arm in experiment.configure(scale, kept).items()})
    return bool(_without_seed(asked) == _without_seed(config["arms"]))


def _without_seed(arms: Mapping[str, Mapping[str, SettingValue]]) -> dict[str, dict[str, SettingValue]]:
    return {name: {key: value for key, value in arm.items() if key != "seed"} for name, arm in arms.items()}


def _plain(value: Json) -> Read:
    """``value`` as it reads back from JSON: tuples as lists."""
    return json.loads(json.dumps(value))
