"""What all experiments on images are made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lowland.papers.andriushchenko2022 import PAPER
from lowland.papers.andriushchenko2022.image_figures import network_figures
from lowland.papers.andriushchenko2022.image_settings import ImageSettings
from lowland.papers.andriushchenko2022.over_seeds import over_seeds
from lowland.training import Claim, Curve, Experiment, Plot, Selection, Task
from lowland.training.settings import Value

RHOS = (0.0, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4)
_M = {"norm": ("group",)}
ARMS: Mapping[str, Mapping[str, Any]] = {"erm": {"rho": 0.0}, "sam": {"ascent": "batch"}}
FIGURE_1_ARMS: Mapping[str, Mapping[str, Any]] = {
    **ARMS,
    "n-sam": {"ascent": "training"},
    "random": {"ascent": "random"},
}


def figure_1_grids(seeds: int, desk_m: Mapping[str, tuple[Any, ...]] | None = None) -> dict[str, Any]:
    """The further grids by name: test error against ρ for every method, and error against m.

    ``figure-1`` and ``m`` are for the paper's scale; ``figure-1-desk`` has fewer ρ, and, where ``desk_m`` is given,
    ``m-desk`` its settings beside.

    Args:
        seeds: of every point.
        desk_m: what the desk's error against m changes, one value a setting.
    """
    all_ = {"seed": tuple(range(seeds))}
    grids: dict[str, Any] = {
        "figure-1": _figure_1(
            all_,
            (0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
            (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
            (0.025, 0.1, 0.4, 1.6, 6.4, 12.0, 25.0, 33.0, 50.0, 100.0),
        ),
        "figure-1-desk": _figure_1(all_, (0.0, 0.05, 0.1, 0.2, 0.4, 0.8), (0.1, 0.4), (0.1, 1.6, 25.0)),
        "m": _error_against_m({**all_, **_M}),
    }
    return grids | ({"m-desk": _error_against_m({**all_, **_M, **desk_m})} if desk_m else {})


def _figure_1(
    all_: Mapping[str, Any], sam: tuple[float, ...], n_sam: tuple[float, ...], random: tuple[float, ...]
) -> Any:
    return (
        {**all_, "ascent": ("batch",), "rho": sam},
        {**all_, "ascent": ("training",), "rho": n_sam},
        {**all_, "ascent": ("random",), "rho": random},
    )


def _error_against_m(all_: Mapping[str, Any]) -> Any:
    """With group norm, as in the authors' code."""
    return (
        {**all_, "rho": (0.0,), "m": (128,)},
        {**all_, "rho": (0.1,), "m": (1, 2, 4, 8, 16, 32, 64, 128)},
    )


def image_experiment(
    name: str,
    title: str,
    prepare: Callable[[Any, torch.device], Task],
    *,
    scales: Mapping[str, Mapping[str, Value]],
    claims: Sequence[Claim],
    cost: Mapping[str, str],
    datasets: tuple[str, ...] = ("cifar-10",),
    settings: type[ImageSettings] = ImageSettings,
    arms: Mapping[str, Mapping[str, Any]] = ARMS,
    figures: Sequence[Plot] = (),
    **more: Any,
) -> Experiment:
    """An experiment on the paper's networks.

    Args:
        name: after the paper's.
        title: one line.
        prepare: of the experiment's module.
        scales: its values.
        claims: it judges.
        cost: of a run at paper, desk and laptop scale.
        datasets: in `lowland.data`.
        settings: with those that it adds.
        arms: it compares.
        figures: drawn before those of every network run.
        more: of `Experiment`.
    """
    return Experiment(
        name=f"andriushchenko2022/{name}",
        title=title,
        paper=PAPER,
        datasets=datasets,
        settings=settings,
        scales=scales,
        arms=arms,
        claims=tuple(claims),
        figures=(*figures, *network_figures(list(arms))),
        cost={**cost, "smoke": "seconds"},
        prepare=prepare,
        digest=over_seeds(list(arms)),
        selection=Selection("validation_error", "validation", ties="validation_loss", test="test_error"),
        outcomes=(
            Curve("test_error", "test error"),
            Curve("averaged_test_error", "test error, averaged weights"),
            Curve("train_loss", "training loss"),
            Curve("sharpness_20", "sharpness, 20 steps"),
        ),
        **{"grid": {"rho": RHOS}, **more},
    )
