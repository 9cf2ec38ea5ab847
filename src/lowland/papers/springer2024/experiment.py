"""What the paper's experiments are made of."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lowland.papers.springer2024 import PAPER
from lowland.papers.springer2024.claims import CLAIMS
from lowland.papers.springer2024.figures import feature_figures
from lowland.papers.springer2024.methods import ARMS, METHODS, table
from lowland.papers.springer2024.settings import FeatureSettings
from lowland.training import Curve, Experiment, Selection, Task
from lowland.training.settings import Value

SEEDS = (0, 1, 2, 3, 4)


def feature_experiment(
    name: str,
    title: str,
    prepare: Callable[[Any, torch.device], Task],
    *,
    datasets: tuple[str, ...],
    settings: type[FeatureSettings],
    scales: Mapping[str, Mapping[str, Value]],
    lrs: tuple[float, ...],
    rhos: tuple[float, ...],
    cost: str,
    **more: Any,
) -> Experiment:
    """An experiment on a network that is trained on images with two features.

    Args:
        name: after the paper's.
        title: one line.
        prepare: of the experiment's module.
        datasets: in `lowland.data`.
        settings: its settings.
        scales: its values.
        lrs: η of the paper's grid.
        rhos: ρ of it, 0 first.
        cost: of a run at paper scale.
        more: of `Experiment`.
    """
    climbing = {"method": METHODS, "lr": lrs, "rho": rhos[1:], "seed": SEEDS}
    made: dict[str, Any] = {
        "arms": ARMS,
        "grid": {"lr": lrs, "rho": rhos, "seed": SEEDS},
        "more_grids": {"mechanism": ({"method": ("sam",), "lr": lrs, "rho": (0.0,), "seed": SEEDS}, climbing)},
        "claims": CLAIMS,
        "figures": feature_figures(list(ARMS)),
        "cost": {"paper": cost, "laptop": "two to three minutes, 2 cores", "smoke": "seconds"},
        "table": table,
        "selection": Selection("validation_error", "validation", ties="validation_loss", test="test_error"),
        "outcomes": (
            Curve("hard_error", "probing error, hard feature"),
            Curve("easy_error", "probing error, easy feature"),
            Curve("worst_group_error", "error of the worst group"),
            Curve("test_error", "test error"),
        ),
    }
    return Experiment(
        name=f"springer2024/{name}",
        title=title,
        paper=PAPER,
        datasets=datasets,
        settings=settings,
        scales=scales,
        prepare=prepare,
        **(made | more),
    )
