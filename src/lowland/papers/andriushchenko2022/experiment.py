"""What all experiments on images are made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lowland.papers.andriushchenko2022 import PAPER
from lowland.papers.andriushchenko2022.figures import network_figures
from lowland.papers.andriushchenko2022.methods import ARMS, over_seeds
from lowland.papers.andriushchenko2022.settings import RHOS, ImageSettings
from lowland.training import Curve, Experiment, Plot, Selection, Task
from lowland.training.settings import Value


def image_experiment(
    name: str,
    title: str,
    prepare: Callable[[Any, torch.device], Task],
    *,
    scales: Mapping[str, Mapping[str, Value]],
    cost: Mapping[str, str],
    arms: Mapping[str, Mapping[str, Any]] = ARMS,
    figures: Sequence[Plot] = (),
    **more: Any,
) -> Experiment:
    """An experiment on the paper's networks.

    Args:
        name: after the paper's.
        title: one line.
        prepare: builds the task of one arm.
        scales: its values.
        cost: of a run at paper, desk and laptop scale.
        arms: it compares.
        figures: drawn before those of every network run.
        more: of `Experiment`: ``claims``, and what takes the place of what is given here.
    """
    made: dict[str, Any] = {
        "datasets": ("cifar-10",),
        "settings": ImageSettings,
        "grid": {"rho": RHOS},
        "digest": over_seeds(list(arms)),
        "selection": Selection("validation_error", "validation", ties="validation_loss", test="test_error"),
        "outcomes": (
            Curve("test_error", "test error"),
            Curve("averaged_test_error", "test error, averaged weights"),
            Curve("train_loss", "training loss"),
            Curve("sharpness_20", "sharpness, 20 steps"),
        ),
    }
    return Experiment(
        name=f"andriushchenko2022/{name}",
        title=title,
        paper=PAPER,
        scales=scales,
        arms=arms,
        figures=(*figures, *network_figures(list(arms))),
        cost={**cost, "smoke": "seconds"},
        prepare=prepare,
        **(made | more),
    )
