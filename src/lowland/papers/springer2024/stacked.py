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
from lowland.papers.springer2024.check import FeatureSets
from lowland.papers.springer2024.experiment import feature_experiment
from lowland.papers.springer2024.settings import SHARED_VALUES, FeatureSettings
from lowland.papers.springer2024.task import feature_task
from lowland.training import Experiment, Task, ours, paper, setting
from lowland.training.settings import Value

LRS = (0.01, 0.05, 0.1)
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

    @property
    def trained_on(self) -> int:
        """How many training images there are."""
        return self.examples


def stacked_task(name: str, settings: StackedSettings, device: torch.device) -> Task:
    """One run on the stacked images ``name``. The pairs, and which images are held out, are drawn with the seed."""
    sets = stacked_sets(
        data_root(), name, settings.seed, device, settings.correlation, settings.examples,
        settings.validation_examples, settings.test_examples, settings.probe_examples,
    )  # fmt: skip
    _, _, height, width = sets.train.inputs.shape
    model = strided_cnn(height, width, len(STACKS[name].images)).to(device)
    return feature_task(model, sets, settings)


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
        name, digits, images, correlation=0.0, seed=seed, examples=len(stack.images),
        validation_examples=probe_examples, test_examples=test_examples,
    ).to(device)  # fmt: skip
    mean = made.train.inputs.double().mean((0, 2, 3), keepdim=True).div(255).float()

    def prepare(pairs: Tensor) -> Tensor:
        return scale(pairs, 255) - mean

    return FeatureSets(made.train, made.validation, made.test, apart.validation, apart.test, prepare)


@lru_cache(maxsize=2)
def _load(root: Path, dataset: str) -> Dataset:
    return load(dataset, root)


def stacked_experiment(
    name: str,
    title: str,
    prepare: Callable[[Any, torch.device], Task],
    paper_values: Mapping[str, Value],
    smoke: Mapping[str, Value],
    cost: str,
) -> Experiment:
    """An experiment on stacked images.

    Args:
        name: in `lowland.data.stacked.STACKS`.
        title: one line.
        prepare: of the experiment's module.
        paper_values: how many pairs there are at paper scale.
        smoke: how many there are at smoke scale.
        cost: of a run at paper scale.
    """
    return feature_experiment(
        name,
        title,
        prepare,
        datasets=("mnist", STACKS[name].below),
        settings=StackedSettings,
        scales={
            "paper": {**PAPER_VALUES, **paper_values},
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
}
# What two cores get through in two minutes, and nothing else, decided these.
LAPTOP: Mapping[str, Value] = {
    "epochs": ours(6),
    "check_epochs": ours(3),
    "examples": ours(500),
    "batch_size": ours(50, "runs are short"),
    "validation_examples": ours(300),
    "test_examples": ours(1000),
    "probe_examples": ours(400),
    "phantom_examples": ours(300),
}
SMOKE: Mapping[str, Value] = {
    "seeds": ours(1),
    "epochs": ours(2),
    "check_epochs": ours(2),
    "batch_size": ours(20),
    "phantom_examples": ours(20),
}
