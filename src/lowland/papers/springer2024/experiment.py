"""What the paper's experiments are made of."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lowland.papers.springer2024 import PAPER
from lowland.papers.springer2024.claims import CLAIMS, GRID_CLAIMS
from lowland.papers.springer2024.figures import feature_figures, probe_curves
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
    cost: Mapping[str, str],
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
        cost: of a run at each scale.
        more: of `Experiment`.
    """
    # Seed by seed, so that what is there early is a whole grid of few seeds.
    climbing = {"seed": SEEDS, "method": METHODS, "lr": lrs, "rho": rhos[1:]}
    made: dict[str, Any] = {
        "arms": ARMS,
        "grid": {"seed": SEEDS, "lr": lrs, "rho": rhos},
        "more_grids": {"mechanism": ({"seed": SEEDS, "method": ("sam",), "lr": lrs, "rho": (0.0,)}, climbing)},
        "claims": (*CLAIMS, *GRID_CLAIMS),
        "figures": (*feature_figures(list(ARMS)), probe_curves()),
        "sweep_figures": (probe_curves(),),
        "cost": dict(cost),
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
