"""Five digits of MNIST above five classes of Fashion-MNIST (Springer et al. 2024)."""

import torch

from lowland.papers.springer2024.stacked import StackedSettings, stacked_experiment, stacked_task
from lowland.training import Task, ours, paper


def prepare(settings: StackedSettings, device: torch.device) -> Task:
    """One run."""
    return stacked_task("fmnist-mnist", settings, device)


EXPERIMENT = stacked_experiment(
    "fmnist-mnist",
    "MNIST above Fashion-MNIST: does SAM learn the harder feature better than SGD?",
    prepare,
    paper_values={
        "examples": paper(27_000, "all but the tenth that is held out; digits that run out are dealt again (ours)"),
        "validation_examples": paper(3_000),
        "test_examples": paper(5_000, "all of the five classes; there are 980 zeros, some of which come twice (ours)"),
        "probe_examples": ours(3_000, "all of the images held out: the network knows those it was trained on"),
        "probe_train_examples": ours(9_000),
    },
    desk={"examples": ours(9_000, "a third, so that five seeds of all arms fit; SGD fits them all the same")},
    smoke={
        "probe_train_examples": ours(100),
        "examples": ours(40),
        "validation_examples": ours(20),
        "test_examples": ours(50),
        "probe_examples": ours(100),
    },
    cost={
        "paper": "about eight hours, 2 cores (from steps of cifar-mnist measured on one core)",
        "desk": "about 80 minutes, 2 cores (from steps of cifar-mnist measured on one core)",
        "laptop": "two minutes, 2 cores (from cifar-mnist's)",
        "smoke": "seconds",
    },
)
