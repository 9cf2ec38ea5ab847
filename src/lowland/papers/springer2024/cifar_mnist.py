"""MNIST's 0 and 1 above CIFAR-10's automobiles and trucks (Springer et al. 2024)."""

import torch

from lowland.papers.springer2024.stacked import StackedSettings, stacked_experiment, stacked_task
from lowland.training import Task, ours, paper


def prepare(settings: StackedSettings, device: torch.device) -> Task:
    """One run."""
    return stacked_task("cifar-mnist", settings, device)


EXPERIMENT = stacked_experiment(
    "cifar-mnist",
    "MNIST above CIFAR-10: does SAM learn the harder feature better than SGD?",
    prepare,
    paper_values={
        "examples": paper(9_000, "all but the tenth that is held out"),
        "validation_examples": paper(1_000),
        "test_examples": paper(1_960, "980 of each class: there are no more zeros"),
        "probe_examples": ours(1_000, "all of the images held out: the network knows those it was trained on"),
        "probe_train_examples": ours(9_000),
    },
    desk={},
    smoke={
        "probe_train_examples": ours(40),
        "examples": ours(40),
        "validation_examples": ours(20),
        "test_examples": ours(50),
        "probe_examples": ours(50),
    },
    cost={
        "paper": "about two and a half hours, 2 cores (from steps measured on one core)",
        "desk": "about 80 minutes, 2 cores (from steps measured on one core)",
        "laptop": "a minute and a half, 2 cores (from one seed's arms, on one core)",
        "smoke": "seconds",
    },
)
