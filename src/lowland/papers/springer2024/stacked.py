"""Stacked images: a digit above another image, each of which says the class (Springer et al. 2024)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.data import Dataset, data_root, load, scale, stacked_images
from lowland.data.stacked import STACKS
from lowland.models import strided_cnn
from lowland.papers.springer2024.check import FeatureCheck, FeatureSets
from lowland.papers.springer2024.experiment import feature_experiment
from lowland.papers.springer2024.settings import SHARED_VALUES, FeatureSettings
from lowland.papers.springer2024.task import feature_task
from lowland.training import Experiment, Task, ours, paper, setting
from lowland.training.settings import Value

LRS = (0.01, 0.05, 0.1)
PROBE_ON = "training"
RHOS = (0.0, 0.01, 0.03, 0.05, 0.07, 0.1, 0.2)


@dataclass(frozen=True, kw_only=True)
class StackedSettings(FeatureSettings):
    """Those, and what is stacked."""

    correlation: float = setting("of the two features in training, validation and test: 1 is redundant", low=0, high=1)
    examples: int = setting("training pairs", low=2, high=10**6)
    validation_examples: int = setting("validation pairs, of images held out", low=2, high=10**6)
    test_examples: int = setting("test pairs; and as many in which the features are independent", low=2, high=10**6)
    probe_examples: int = setting(
        "pairs that probes are fitted on: of the images held out, the features independent", low=20, high=10**6
    )

    probe_train_examples: int = setting(
        "pairs that probes are fitted on: of the training images, paired anew, the features independent",
        low=20, high=10**6,
    )  # fmt: skip
    probe_on: str = setting(
        "which of the two carries the claims, easy_error and hard_error", choices=("held-out", "training")
    )
    precision: str = setting(
        "of the passes of training; checks are in float32, weights too", choices=("float32", "bfloat16")
    )

    def __post_init__(self) -> None:
        """There is a record at the end of every epoch; what it holds `measures_at` says."""
        super().__post_init__()
        object.__setattr__(self, "check_every", self.trained_on // self.batch_size)

    def measures_at(self, epoch: int) -> bool:
        """Every ``check_epochs``, at the last, and at 1, 2, 4, 8, ...: losses fall quickly at first."""
        return super().measures_at(epoch) or (epoch > 0 and epoch & (epoch - 1) == 0)

    @property
    def trained_on(self) -> int:
        """How many training images there are."""
        return self.examples


def stacked_task(name: str, settings: StackedSettings, device: torch.device) -> Task:
    """One run on the stacked images ``name``. The pairs, and which images are held out, are drawn with the seed."""
    sets = stacked_sets(
        data_root(), name, settings.seed, device, settings.correlation, settings.examples,
        settings.validation_examples, settings.test_examples, settings.probe_examples, settings.probe_train_examples,
    )  # fmt: skip
    _, _, height, width = sets.train.inputs.shape
    model = strided_cnn(height, width, len(STACKS[name].images)).to(device)
    autocast = torch.bfloat16 if settings.precision == "bfloat16" else None
    check = FeatureCheck(model, sets, settings, settings.probe_on)
    return feature_task(model, sets, settings, autocast=autocast, check=check)


@lru_cache(maxsize=8)
def stacked_sets(
    root: Path,
    name: str,
    seed: int,
    device: torch.device,
    correlation: float,
    examples: int,
    validation_examples: int,
    test_examples: int,
    probe_examples: int,
    probe_train_examples: int,
) -> FeatureSets:
    """The pairs of a seed; ``correlation`` is that of all but the probes' pairs, where it is 0.

    The network's inputs are pixels/255 minus the mean pixel of the training pairs: one number for each channel.
    """
    stack = STACKS[name]
    digits, images = _load(root, "mnist"), _load(root, stack.below)
    made = stacked_images(
        name, digits, images, correlation=correlation, seed=seed, examples=examples,
        validation_examples=validation_examples, test_examples=test_examples,
    ).to(device)  # fmt: skip
    apart = stacked_images(
        name, digits, images, correlation=0.0, seed=seed, examples=probe_train_examples,
        validation_examples=probe_examples, test_examples=test_examples,
    ).to(device)  # fmt: skip
    mean = made.train.inputs.double().mean((0, 2, 3), keepdim=True).div(255).float()

    def prepare(pairs: Tensor) -> Tensor:
        return scale(pairs, 255) - mean

    return FeatureSets(
        made.train, made.validation, made.test, apart.validation, apart.test, prepare, probe_seen=apart.train
    )


@lru_cache(maxsize=2)
def _load(root: Path, dataset: str) -> Dataset:
    return load(dataset, root)


def stacked_experiment(
    name: str,
    title: str,
    prepare: Callable[[Any, torch.device], Task],
    paper_values: Mapping[str, Value],
    desk: Mapping[str, Value],
    smoke: Mapping[str, Value],
    cost: Mapping[str, str],
) -> Experiment:
    """An experiment on stacked images.

    Args:
        name: in `lowland.data.stacked.STACKS`.
        title: one line.
        prepare: of the experiment's module.
        paper_values: how many pairs there are at paper scale.
        desk: what differs at desk scale.
        smoke: how many there are at smoke scale.
        cost: of a run at each scale.
    """
    return feature_experiment(
        name,
        title,
        prepare,
        datasets=("mnist", STACKS[name].below),
        settings=StackedSettings,
        scales={
            "paper": {**PAPER_VALUES, **paper_values},
            "desk": {**DESK, **desk},
            "laptop": LAPTOP,
            "smoke": {**SMOKE, **smoke},
        },
        lrs=LRS,
        rhos=RHOS,
        cost=cost,
    )


PAPER_VALUES: Mapping[str, Value] = {
    **SHARED_VALUES,
    "lr": paper(0.05, "of the grid"),
    "rho": paper(0.1, "of the grid"),
    "epochs": ours(50),
    "check_epochs": ours(25),
    "batch_size": paper(100),
    "weight_decay": paper(0.0),
    "correlation": paper(1.0),
    "probe_on": ours(PROBE_ON, "lower test error than the other on SGD's networks and on those as drawn"),
    "precision": ours("float32", "the perturbation of a small ρ is below bfloat16's rounding of the weights"),
}
DESK: Mapping[str, Value] = {"precision": ours("bfloat16", "half of the time; SGD's errors and losses are the same")}
# What two cores get through in two minutes, and nothing else, decided these.
LAPTOP: Mapping[str, Value] = {
    "seeds": ours(3, "to see the figures; claims take five"),
    "epochs": ours(6),
    "check_epochs": ours(3),
    "examples": ours(500),
    "batch_size": ours(50, "runs are short"),
    "validation_examples": ours(300),
    "test_examples": ours(1000),
    "probe_examples": ours(400),
    "probe_train_examples": ours(500),
    "phantom_examples": ours(300),
}
SMOKE: Mapping[str, Value] = {
    "seeds": ours(1),
    "epochs": ours(2),
    "check_epochs": ours(2),
    "batch_size": ours(20),
    "phantom_examples": ours(20),
}
