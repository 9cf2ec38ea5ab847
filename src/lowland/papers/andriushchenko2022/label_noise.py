"""CIFAR-10 with wrong labels: early stopping and interpolation (Andriushchenko & Flammarion 2022)."""

from dataclasses import dataclass, replace

import torch

from lowland.data import Split, flip_labels
from lowland.papers.andriushchenko2022 import cifar10 as clean
from lowland.papers.andriushchenko2022.image_experiment import ARMS, image_experiment
from lowland.papers.andriushchenko2022.image_settings import ImageSettings, scales
from lowland.papers.andriushchenko2022.image_task import image_task
from lowland.papers.over_epochs import over_epochs
from lowland.papers.paired import at_most, last, smaller
from lowland.training import Arm, Claim, Task, ours, setting

INTERPOLATED = 0.05  # training error, on the labels as they are given
_NEITHER = "neither does ERM interpolate so early: its error is"


@dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """The settings of `cifar10`, with the noise."""

    noise: float = setting("fraction of the training labels, validation included, that are made wrong", low=0, high=1)
    noise_kind: str = setting(
        "symmetric: any other class; asymmetric: a class that looks alike", choices=("symmetric", "asymmetric")
    )


def prepare(settings: Settings, device: torch.device) -> Task:
    """One run. The wrong labels are drawn before images are held out: validation is as noisy as training."""
    flipped = torch.empty(0)

    def spoil(split: Split) -> Split:
        nonlocal flipped
        noisy, flipped = flip_labels(split, settings.noise, settings.noise_kind, "cifar-10", settings.seed)
        return noisy

    task = image_task("cifar-10", clean.network, settings, device, spoil)
    record = {"noise": settings.noise, "noise_kind": settings.noise_kind, "seed": settings.seed}
    name = f"flipped-{settings.noise_kind}-{settings.noise:g}-seed-{settings.seed}.json"
    files = {name: {**record, "training_images": flipped.tolist()}}
    return replace(task, files=files)


def _early_stopped(arm: Arm) -> float:
    """Test error at the check with the smallest error on the (noisy) validation images; the first of equals."""
    return min(arm.records, key=lambda record: record["validation_error"])["test_error"]


LAPTOP = {
    **clean.LAPTOP,
    "epochs": ours(6),
    "examples": ours(1000),
    "test_examples": ours(500),
    "schedule": ours("constant", "so few epochs fit nothing once η falls"),
}
EXPERIMENT = image_experiment(
    "label-noise",
    "CIFAR-10 with wrong labels: SAM and SGD",
    prepare,
    settings=Settings,
    scales=scales(
        LAPTOP,
        {"noise": ours(0.6), "noise_kind": ours("symmetric"), "check_epochs": ours(2, "early stopping looks at these")},
    ),
    claims=(
        Claim(
            "early-stopping",
            "With early stopping on the noisy validation images SAM's test error is below ERM's: mean difference, "
            "paired by seed",
            "the experiments with noisy labels", "interval < 0", smaller("sam", "erm", _early_stopped),
            over_seeds=True,
        ),
        Claim(
            "interpolates",
            "At convergence SAM fits the wrong labels too: its largest final training error (threshold ours)",
            "the experiments with noisy labels", f"<= {INTERPOLATED:g}",
            at_most(INTERPOLATED, last("train_error"), _NEITHER),
        ),
    ),
    figures=(
        over_epochs(
            "noise", "Wrong labels", list(ARMS),
            (("test_error", "test, right labels", "error", False),
             ("validation_error", "validation, labels as noisy as in training", "error", False),
             ("train_error", "training, wrong labels included", "error", False)),
        ),
    ),
    hours="half an hour",
)  # fmt: skip
