"""CelebA: hair colour, blond or not, with gender (Springer et al. 2024)."""

import torch

from lowland.papers.springer2024.grouped import GroupedSettings, grouped_experiment, grouped_task
from lowland.training import Reference, Task, ours, paper

_TABLE = "Table 1, as the paper's reviewers say"


def prepare(settings: GroupedSettings, device: torch.device) -> Task:
    """One run."""
    return grouped_task("celeba", settings, device)


EXPERIMENT = grouped_experiment(
    "celeba",
    "CelebA, hair colour and gender: does SAM learn the harder feature better?",
    prepare,
    paper_values={
        "examples": paper(162_770, "all"),
        "epochs": ours(20),
        "check_epochs": ours(5),
    },
    desk={"examples": ours(5000)},
    cost="a day, one H100 (estimated)",
    references={claim: Reference("SAM lowers both errors", _TABLE) for claim in ("hard-feature", "easy-feature")},
)
