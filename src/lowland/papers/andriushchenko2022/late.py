"""SAM in a part of the epochs only: early, late, in the last tenth (the authors' code has the switches)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lowland.errors import SettingError
from lowland.papers.andriushchenko2022.claims import FITS, GAIN, MOST, TEST_ERROR, share_of_gain
from lowland.papers.andriushchenko2022.experiment import image_experiment
from lowland.papers.andriushchenko2022.settings import ImageSettings, scales
from lowland.papers.andriushchenko2022.task import image_task
from lowland.papers.claims import NOT_IN_PAPER, smaller
from lowland.papers.figures import over_epochs
from lowland.training import Claim, Reference, Task, ours, setting

_SOURCE = "the switches of the authors' code; its text not seen"
_MOST = Reference("late SAM brings most of the gain", _SOURCE)


@dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """The settings of `cifar10`, with the part of training in which ρ isn't 0."""

    sam_from: float = setting("share of training after which SAM begins", low=0, high=1)
    sam_until: float = setting("share of training after which SAM ends", low=0, high=1)

    def __post_init__(self) -> None:
        """Refuse a part that ends before it begins."""
        super().__post_init__()
        if self.sam_until <= self.sam_from:
            raise SettingError(
                f"SAM would end after {self.sam_until:g} of training and begin after {self.sam_from:g}: "
                "set sam_until above sam_from, or rho=0"
            )

    @property
    def ascends(self) -> range:
        """The steps in which ρ isn't 0: both ends are rounded to steps."""
        return range(round(self.sam_from * self.steps), round(self.sam_until * self.steps))

    @property
    def gradients_a_step(self) -> float:
        """As of the other networks in the steps that ascend, one in the rest."""
        return 1 + (super().gradients_a_step - 1) * len(self.ascends) / self.steps


def radius(settings: Settings) -> Callable[[int], float]:
    """Step → ρ: that of the settings in the part where SAM is on, else 0."""
    return lambda step: settings.rho if step in settings.ascends else 0.0


def prepare(settings: Settings, device: torch.device) -> Task:
    """The task of one arm: SAM whose ρ is 0 outside its part of training."""
    return image_task("cifar-10", settings, device, rho=radius(settings))


ARMS: Mapping[str, Mapping[str, float]] = {
    "erm": {"rho": 0.0},
    "sam": {"sam_from": 0.0, "sam_until": 1.0},
    "first-half": {"sam_from": 0.0, "sam_until": 0.5},
    "second-half": {"sam_from": 0.5, "sam_until": 1.0},
    "last-tenth": {"sam_from": 0.9, "sam_until": 1.0},
}
EXPERIMENT = image_experiment(
    "late",
    "CIFAR-10: SAM in a part of the epochs",
    prepare,
    settings=Settings,
    scales=scales(
        paper={
            "sam_from": ours(0.0, "what makes the arms"),
            "sam_until": ours(1.0, "what makes the arms"),
            "epochs": ours(200, "as many as figure 1's; the paper's for late SAM not known"),
        },
        desk={"check_epochs": ours(5), "test_examples": ours(5000)},
    ),
    arms=ARMS,
    claims=(
        Claim(
            "second-half",
            f"SAM in the second half of the epochs alone brings more than half of what SAM in all of them does. {GAIN} "
            "Measured: half of the gain of SAM in all epochs, minus this gain; mean over seeds (threshold ours)",
            _SOURCE, "interval < 0", share_of_gain("second-half", "sam", "erm", TEST_ERROR),
            over_seeds=True, regime=FITS, reference=_MOST, why=MOST, figure="late",
        ),
        Claim(
            "last-tenth",
            f"SAM in the last tenth of the epochs alone brings more than half of what SAM in all of them does. {GAIN} "
            "Measured: half of the gain of SAM in all epochs, minus this gain; mean over seeds (threshold ours)",
            _SOURCE, "interval < 0", share_of_gain("last-tenth", "sam", "erm", TEST_ERROR),
            over_seeds=True, regime=FITS, reference=_MOST, why=MOST, figure="late",
        ),
        Claim(
            "late-beats-early",
            "SAM in the second half of the epochs is better than in the first: mean difference of the test error, "
            "paired by seed",
            _SOURCE, "interval < 0", smaller("second-half", "first-half", TEST_ERROR), over_seeds=True, regime=FITS,
            reference=NOT_IN_PAPER, figure="late",
        ),
    ),
    figures=(
        over_epochs(
            "late", "SAM in a part of the epochs", list(ARMS),
            (("test_error", "test", "error", False), ("train_error", "training", "error", False)),
        ),
    ),
    cost={
        "paper": "two hours, one H100 (estimated)",
        "desk": "an hour, 1 core (measured)",
        "laptop": "2 to 4 minutes, 1 core",
    },
    grid={},
)  # fmt: skip
