"""Which command decides a claim that a run leaves undecided."""

import json
from collections.abc import Mapping
from typing import Any

from lowland.training.experiment import SCALES, Claim, Experiment
from lowland.training.settings import values_of


def decided_by(experiment: Experiment, claim: Claim, config: Mapping[str, Any]) -> dict[str, str] | None:
    """The scale that decides ``claim``, and the command: for a run or sweep with this ``config`` that doesn't.

    None where nothing is known that decides it better: the run has that scale's settings, or a larger scale's.
    """
    scale = claim.decided_by if claim.decided_by in experiment.scales else "paper"
    swept = bool(config.get("sweep"))
    if swept or not claim.grid:
        reaches = SCALES.index(config["scale"]) >= SCALES.index(scale)
        if reaches and not _changed(experiment, config):
            return None
        if not swept and _has_settings_of(experiment, scale, config):
            return None
    verb = "sweep" if swept or claim.grid else "run"
    grid = f" --grid {claim.grid}" if claim.grid else ""
    return {"scale": scale, "command": f"lowland {verb} {experiment.name}{grid} --scale {scale}"}


def _changed(experiment: Experiment, config: Mapping[str, Any]) -> bool:
    """Whether the user changed a setting of the run's scale."""
    if config.get("sweep"):
        values = {name: value.value for name, value in experiment.values(config["scale"]).items()}
        grids = [part for parts in experiment.grids.values() for part in parts]
        open_names = [name for name in values if name not in ("seed", "seeds") and not any(name in g for g in grids)]
        return any(config["settings"].get(name) != _plain(values[name]) for name in open_names)
    return not _has_settings_of(experiment, config["scale"], config)


def _has_settings_of(experiment: Experiment, scale: str, config: Mapping[str, Any]) -> bool:
    """Whether a run has the settings of a ``scale``, whatever its seed."""
    asked = _plain({name: values_of(arm) for name, arm in experiment.configure(scale, {}).items()})
    return bool(_without_seed(asked) == _without_seed(config["arms"]))


def _without_seed(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {key: value for key, value in arm.items() if key != "seed"} for name, arm in arms.items()}


def _plain(value: Any) -> Any:
    """As a file holds it."""
    return json.loads(json.dumps(value))
