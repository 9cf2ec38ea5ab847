"""Waterbirds: the bird with the background (Springer et al. 2024)."""

import torch

from lowland.papers.springer2024.grouped import GroupedSettings, grouped_experiment, grouped_task
from lowland.training import Task, ours, paper


def prepare(settings: GroupedSettings, device: torch.device) -> Task:
    """One run."""
    return grouped_task("waterbirds", settings, device)


EXPERIMENT = grouped_experiment(
    "waterbirds",
    "Waterbirds, bird and background: does SAM learn the harder feature better?",
    prepare,
    paper_values={
        "examples": paper(4_795, "all"),
        "epochs": ours(100),
        "check_epochs": ours(25),
    },
    desk={},
    cost="three hours, one H100 (estimated)",
)
