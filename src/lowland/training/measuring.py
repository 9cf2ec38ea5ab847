"""Weights from anywhere, measured as an experiment measures its own."""

from collections.abc import Mapping
from pathlib import Path

import torch

from lowland.errors import RunError, SettingError, suggestion
from lowland.training import Experiment, Record, Settings, read_json
from lowland.training.files import Each, Maybe, finite
from lowland.training.progress import waiting
from lowland.training.randomness import deterministic, seed_everything
from lowland.training.settings import checked, values_of
from lowland.training.weights import load_weights, read_weights
from lowland.values import JsonObject, Read


def settings_for(
    experiment: Experiment, weights: Path, arm: str | None, scale: str, changes: Mapping[str, Read]
) -> tuple[Settings, str | None]:
    """The settings that go with ``weights``, and the arm to read from a run directory.

    Those of a run directory are what its arm was trained with, by default its first one; those of a file are the
    experiment's at ``scale``, of its first arm or of ``arm``. The user's ``changes`` come last.

    Raises:
        SettingError: for an unknown arm or setting, a bad value, or an experiment that keeps no networks.
        RunError: for the directory of another experiment.
    """
    if experiment.prepare is None:
        raise SettingError(
            f"{experiment.name} trains all its runs as one program and keeps no network to evaluate: what it measures "
            "is in the run directory's summary.json"
        )
    if not weights.is_dir():
        arms = experiment.configure(scale, changes)
        if arm is not None and arm not in arms:
            raise SettingError(f"unknown arm {arm}.{suggestion(arm, arms)}")
        return arms[arm or next(iter(arms))], None
    if not (weights / "config.json").exists():
        raise RunError(f"{weights} is no run directory: it has no config.json")
    config = read_json(weights / "config.json", {"arms": Maybe(Each(Each(object)))})
    if config.get("experiment") != experiment.name:
        raise RunError(f"{weights} holds a run of {config.get('experiment')}, not of {experiment.name}")
    if config.get("sweep"):
        raise RunError(f"{weights} holds a sweep: give the directory of one of its runs, in {weights / 'runs'}")
    trained: Mapping[str, JsonObject] = config.get("arms") or {}
    label = arm or next(iter(trained), "")
    if label not in trained:
        raise SettingError(f"{weights} has no arm {label}.{suggestion(label, trained)}")
    try:
        settings = checked(experiment.settings, trained[label])
    except SettingError as error:
        raise RunError(f"{weights / 'config.json'} is damaged, or of another version of Lowland: {error}") from None
    return checked(experiment.settings, {**values_of(settings), **changes}), label


def measure(
    experiment: Experiment,
    settings: Settings,
    weights: Path,
    arm: str | None,
    key: str | None,
    device: torch.device,
) -> Record:
    """What the experiment's check records of the weights.

    Raises:
        LowlandError: for weights that can't be read, or are another network's.
        RunError: if the loss is not finite.
    """
    with waiting(f"measuring {weights}"), deterministic(device):
        seed_everything(settings.seed)
        read = read_weights(weights, arm=arm, key=key)
        task = experiment.task(settings, device)
        load_weights(task.model, read, str(weights))
        try:
            with experiment.calling("evaluation"):
                record: Record = finite(task.check(0, task.batch(0)))
            record.pop("epoch", None)  # of the weights' training nothing is known
        except FloatingPointError:
            raise RunError(f"the loss of {weights} on {experiment.name} is not finite") from None
    return record
