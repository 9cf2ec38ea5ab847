"""CIFAR-10 with a ResNet-18, CIFAR-100 with a ResNet-34: SAM against plain SGD, by ρ and by m (figure 1)."""

from collections.abc import Mapping, Sequence
from typing import Any

from lowland.papers.andriushchenko2022.claims import figure_1_claims
from lowland.papers.andriushchenko2022.experiment import image_experiment
from lowland.papers.andriushchenko2022.figures import against_m, figure_1, read, read_between
from lowland.papers.andriushchenko2022.methods import FIGURE_1_ARMS, METHODS
from lowland.papers.andriushchenko2022.settings import scales
from lowland.papers.andriushchenko2022.task import image_task
from lowland.training import Level, ours

#: Parts of a grid, each by setting.
Grid = Sequence[Mapping[str, tuple[Any, ...]]]


def figure_1_grids(seeds: int, desk_m: Mapping[str, tuple[Any, ...]] | None = None) -> dict[str, Grid]:
    """The further grids by name: test error against ρ for every method, and error against m.

    ``figure-1`` and ``m`` are for the paper's scale; ``figure-1-desk`` has fewer ρ, and, where ``desk_m`` is given,
    ``m-desk`` its settings beside.

    Args:
        seeds: of every point.
        desk_m: what the desk's error against m changes, one value a setting.
    """
    every: dict[str, tuple[Any, ...]] = {"seed": tuple(range(seeds))}
    group = {**every, "norm": ("group",)}  # as in the authors' code
    grids = {
        "figure-1": _against_rho(
            every,
            batch=(0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
            training=(0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
            random=(0.025, 0.1, 0.4, 1.6, 6.4, 12.0, 25.0, 33.0, 50.0, 100.0),
        ),
        "figure-1-desk": _against_rho(
            every, batch=(0.0, 0.05, 0.1, 0.2, 0.4, 0.8), training=(0.1, 0.4), random=(0.1, 1.6, 25.0)
        ),
        "m": _against_m(group),
    }
    return grids | ({"m-desk": _against_m({**group, **desk_m})} if desk_m else {})


def _against_rho(every: Mapping[str, tuple[Any, ...]], **rhos: tuple[float, ...]) -> Grid:
    return [{**every, "ascent": (ascent,), "rho": values} for ascent, values in rhos.items()]


def _against_m(every: Mapping[str, tuple[Any, ...]]) -> Grid:
    return [
        {**every, "rho": (0.0,), "m": (128,)},
        {**every, "rho": (0.1,), "m": (1, 2, 4, 8, 16, 32, 64, 128)},
    ]


# The lines and levels of the figures are the paper's, in %, read by eye off figure 1.
CIFAR10 = image_experiment(
    "cifar10",
    "CIFAR-10, ResNet-18: SAM and SGD",
    lambda settings, device: image_task("cifar-10", settings, device),
    scales=scales(),
    arms=FIGURE_1_ARMS,
    claims=figure_1_claims(5.15, 4.3, "5.1 to 5.3 % (ERM 5.15)", "5.1 to 5.3 % up to ρ = 33 (ERM 5.15)", desk_m=True),
    cost={
        "paper": "days, one H100 (estimated)",
        "desk": "an hour and a half to 3 hours, 1 core (from its first steps)",
        "laptop": "3 to 7 minutes, 1 core",
    },
    # With group norm 4,000 images take longer than desk scale has: 1,000 images, 100 epochs end at 0 (validation 0.76).
    more_grids=figure_1_grids(5, {"examples": (1000,), "epochs": (100,), "check_epochs": (100,)}),
    sweep_figures=(
        figure_1(
            "CIFAR-10",
            5.15,
            [
                read("sam", {0.025: 4.7, 0.05: 4.6, 0.1: 4.4, 0.2: 4.3, 0.4: 4.6}),
                read_between("random", 5.1, 5.3, until=33),
            ],
            [Level(value, "n-SAM: 5.1 to 5.3", METHODS["n-sam"]) for value in (5.1, 5.3)],
            "beyond ρ = 0.4 128-SAM collapses",
        ),
        against_m("CIFAR-10"),
    ),
)

CIFAR100 = image_experiment(
    "cifar100",
    "CIFAR-100, ResNet-34: SAM and SGD",
    lambda settings, device: image_task("cifar-100", settings, device),
    datasets=("cifar-100",),
    scales=scales(
        # Found with ERM alone, seed 0: the training error ends at 0, the validation error at 0.885.
        desk={
            "seeds": ours(3),
            "epochs": ours(50),
            "check_epochs": ours(50),
            "examples": ours(2000),
            "ascent_examples": ours(512, "of 1,800: a step costs five times ERM's"),
        },
        laptop={"epochs": ours(3), "check_epochs": ours(3)},
    ),
    arms=FIGURE_1_ARMS,
    claims=figure_1_claims(
        22.8, 20.2, "22.8 to 23.2 % up to ρ = 0.4 (ERM 22.8)", "at best 22.2 % (ERM 22.8)", desk_m=False
    ),
    cost={
        "paper": "days, one H100 (estimated)",
        "desk": "an hour and a half to 3 hours, 1 core (from its first steps)",
        "laptop": "3 to 7 minutes, 1 core",
    },
    more_grids=figure_1_grids(3),
    sweep_figures=(
        figure_1(
            "CIFAR-100",
            22.8,
            [
                read("sam", {0.025: 22.0, 0.05: 21.5, 0.1: 20.9, 0.2: 20.4, 0.4: 20.2}),
                read_between("n-sam", 22.8, 23.2, until=0.4),
            ],
            [Level(22.2, "random at its best", METHODS["random"])],
            "beyond ρ = 0.4 n-SAM gets worse",
        ),
        against_m("CIFAR-100"),
    ),
)
