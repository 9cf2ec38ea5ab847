"""The settings of the paper's experiments on images, and where each value comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

import lowland.training as training
from lowland.errors import SettingError
from lowland.papers.images import SWITCH
from lowland.training import derived, ours, paper, setting
from lowland.training.settings import Value

DATASETS = ("cifar-10", "cifar-100")
HELD_OUT = 0.1  # of the training images, for validation


@dataclass(frozen=True, kw_only=True)
class ImageSettings(training.Settings):
    """Settings of the networks trained on images; ``steps`` and ``check_every`` follow from the epochs."""

    steps: int = derived()
    check_every: int = derived()
    seeds: int = setting("runs of each arm, with seed, seed + 1, ...", low=1, high=1000)
    epochs: int = setting("passes over the training images", low=1, high=10**6)
    check_epochs: int = setting("epochs between two checks", low=1)
    examples: int = setting("training images, the first ones; a tenth of them is held out", low=20, high=50_000)
    test_examples: int = setting("test images, the first ones", low=1, high=10_000)
    width: int = setting("channels of the first convolution", low=2, high=1024)
    norm: str = setting("normalization: batch, or group with width/2 groups", choices=("batch", "group"))
    batch_size: int = setting("images in a batch; what an epoch has left over is dropped", low=1)
    momentum: float = setting("of SGD", low=0, high=0.9999)
    l2: float = setting("λ of ½λ‖w‖² inside the loss, on all parameters", low=0, high=1e6)
    m: int = setting("images that share a perturbation; batch_size or more: all of a batch", low=1)
    ascent: str = setting(
        "what climbs: along the gradient of the batch (m-SAM), along that of ascent_examples training images (n-SAM), "
        "or in a random direction",
        choices=("batch", "training", "random"),
    )
    ascent_examples: int = setting(
        "training images of n-SAM's ascent, drawn anew at each step, apart from the batch", low=1, high=50_000
    )
    ascent_batch: int = setting("of those, how many are evaluated at a time: batch norm takes its statistics", low=1)
    statistics: str = setting(
        "where batch norm's running statistics move: w, in the first pass of a step; both, in each of its passes, and "
        "with m below batch_size in those of each group",
        choices=("w", "both"),
    )
    schedule: str = setting(
        "of η: tenths at 50 % and 75 % of training, cosine to zero, or constant",
        choices=("piecewise", "cosine", "constant"),
    )
    augment: bool = setting("random crops with a padding of 4, and mirror images")
    average: float = setting("decay of the weights' exponential average", low=0, high=0.999999)
    sharpness_rho: float = setting("ρ at which every arm's sharpness is measured", above=0, high=1e6)
    sharpness_examples: int = setting("training images that sharpness is measured on", low=1)
    amp: str = setting("bfloat16 in training: auto is on for CUDA", choices=SWITCH)
    channels_last: str = setting("channels last in memory: auto is on for CUDA", choices=SWITCH)
    compile: str = setting("compiled training: auto is on for CUDA", choices=SWITCH)

    def __post_init__(self) -> None:
        """Compute what follows from the settings, and refuse what doesn't go together."""
        trained = self.examples - round(HELD_OUT * self.examples)
        if self.batch_size > trained:
            raise SettingError(
                f"batch_size is {self.batch_size}, and {self.examples} images leave {trained} to train on: "
                "choose a smaller batch_size, or more examples"
            )
        if self.climbs_over_training and self.ascent_examples > trained:
            raise SettingError(
                f"ascent_examples is {self.ascent_examples}, and there are {trained} training images: "
                f"set ascent_examples to at most {trained}"
            )
        if self.norm == "group" and self.width % 2:
            raise SettingError(f"group norm takes width/2 groups: width must be even, not {self.width}")
        per_epoch = trained // self.batch_size
        object.__setattr__(self, "steps", self.trained_epochs * per_epoch)
        object.__setattr__(self, "check_every", self.check_epochs * per_epoch)

    @property
    def trained_epochs(self) -> int:
        """How many epochs this run takes."""
        return self.epochs

    @property
    def per_example(self) -> bool:
        """Whether groups of a batch climb for themselves. Without an ascent along the batch m says nothing."""
        return self.rho > 0 and self.ascent == "batch" and self.m < self.batch_size

    @property
    def group_after_group(self) -> bool:
        """Whether those groups are evaluated one after another: batch norm's statistics shall move in each pass."""
        return self.per_example and self.statistics == "both" and self.norm == "batch"

    @property
    def gradients_a_step(self) -> float:
        """A random ascent takes no gradient, one along many training images as many batches as they are."""
        if self.rho > 0 and self.ascent == "random":
            return 1.0
        return 1 + self.ascent_examples / self.batch_size if self.climbs_over_training else super().gradients_a_step

    @property
    def climbs_over_training(self) -> bool:
        """Whether one perturbation is made for many training images (n-SAM)."""
        return self.rho > 0 and self.ascent == "training"


# What the experiments share at each scale.
VALUES: Mapping[str, Mapping[str, Value]] = {
    "paper": {
        "lr": paper(0.1),
        "rho": paper(0.1, "of the grid"),
        "seed": ours(0),
        "seeds": ours(1, "more: a sweep, or --set seeds=5"),
        "epochs": paper(200),
        "check_epochs": paper(5, "the authors' code by default"),
        "examples": paper(50_000, "the split of each seed is its own"),
        "test_examples": paper(10_000),
        "width": paper(64),
        "norm": paper("batch", "and group"),
        "batch_size": paper(128),
        "momentum": paper(0.9),
        "l2": paper(0.0005),
        "m": paper(128, "of the grid; the last group of a batch is smaller where m doesn't divide it"),
        "ascent": ours("batch", "what makes the arms sam, n-sam and random"),
        "ascent_examples": paper(45_000, "all training images: a step costs (ascent_examples + batch_size)/batch_size"),
        "ascent_batch": ours(128, "as large as a batch"),
        "statistics": ours("w", "the authors' code by default: both"),
        "schedule": paper("piecewise"),
        "augment": paper(True),
        "average": paper(0.999),
        "sharpness_rho": paper(0.1, "for ERM; ours for SAM, so that arms can be compared"),
        "sharpness_examples": paper(
            512, "the authors' code by default: the first ones, in batches, without augmentation"
        ),
        "amp": ours("auto"),
        "channels_last": ours("auto"),
        "compile": ours("auto"),
    },
    # Found with ERM alone, seed 0 (training error, validation error): 4,000 images, 25 epochs 0.003, 0.55; 2,000
    # images, 50 epochs 0, 0.56; with augmentation 2,000 images, 60 epochs don't get below 0.2, and 1,000 images, 120
    # epochs stay at 0.03. bfloat16 with channels last takes 0.46 of float32's time at this width, less than compiled.
    "desk": {
        "seeds": ours(5),
        "epochs": ours(25),
        "check_epochs": ours(25),
        "examples": ours(4000),
        "width": ours(8),
        "augment": ours(False, "with it so few epochs don't fit the training images"),
        "ascent_examples": ours(1024, "of 3,600: a step costs nine times ERM's"),
        "average": ours(0.99, "runs are short"),
        "sharpness_examples": ours(128),
        "amp": ours("on", "off where the processor has no bfloat16: slow there"),
        "channels_last": ours("on"),
    },
    # Fixed before a run was looked at: a narrow network on the images that two cores get through in two minutes.
    "laptop": {
        "seeds": ours(2),
        "epochs": ours(4),
        "check_epochs": ours(2),
        "examples": ours(1500),
        "test_examples": ours(1000),
        "width": ours(8),
        "batch_size": ours(50),
        "m": ours(50),
        "ascent_examples": ours(100),
        "ascent_batch": ours(50),
        "average": ours(0.95, "about an epoch's weights: runs are short"),
        "sharpness_examples": ours(50),
    },
    "smoke": {
        "epochs": ours(2),
        "check_epochs": ours(1),
        "examples": ours(40),
        "test_examples": ours(16),
        "width": ours(2),
        "batch_size": ours(16),
        "m": ours(16),
        "ascent_examples": ours(24),
        "ascent_batch": ours(16),
        "sharpness_examples": ours(16),
        "seeds": ours(1),
    },
}
# Of the grid that ERM and SAM are swept over.
RHOS = (0.0, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4)


def scales(**changes: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """The shared values at each scale, with what an experiment changes of them there."""
    return {scale: {**values, **changes.get(scale, {})} for scale, values in VALUES.items()}
