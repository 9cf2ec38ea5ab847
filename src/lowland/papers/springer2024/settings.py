"""The settings that the paper's experiments on images share."""

from collections.abc import Mapping
from dataclasses import dataclass

import lowland.training as training
from lowland.errors import SettingError
from lowland.papers.springer2024.methods import METHODS
from lowland.training import derived, ours, paper, setting
from lowland.training.settings import Value


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(training.Settings):
    """Settings of networks whose features are probed; ``steps`` and ``check_every`` follow from the epochs."""

    steps: int = derived()
    check_every: int = derived()
    method: str = setting(
        "what climbs, and what of it is kept; with rho = 0 each is SGD",
        choices=METHODS,
    )
    seeds: int = setting("runs of each arm, with seed, seed + 1, ...", low=1, high=1000)
    epochs: int = setting("passes over the training images", low=1, high=10**6)
    check_epochs: int = setting("epochs between two checks, each of which fits both probes", low=1)
    batch_size: int = setting("images in a batch; what an epoch has left over is dropped", low=1)
    momentum: float = setting("of SGD", low=0, high=0.9999)
    weight_decay: float = setting("of SGD, not seen by the ascent", low=0, high=1e6)
    phantom_rho: float = setting(
        "ρ of the phantom importance weights that are recorded, of every arm", above=0, high=1e6
    )
    phantom_examples: int = setting("training images whose importance weights are recorded, the first ones", low=2)

    def measures_at(self, epoch: int) -> bool:
        """Whether losses and importance weights are measured at the end of that epoch."""
        return epoch % self.check_epochs == 0 or epoch == self.epochs

    @property
    def trained_on(self) -> int:
        """How many training images there are."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        """Compute what follows from the settings."""
        if self.batch_size > self.trained_on:
            raise SettingError(
                f"batch_size is {self.batch_size}, and there are {self.trained_on} images to train on: choose a "
                "smaller batch_size, or more images"
            )
        per_epoch = self.trained_on // self.batch_size
        object.__setattr__(self, "steps", self.epochs * per_epoch)
        object.__setattr__(self, "check_every", self.check_epochs * per_epoch)


# What they share.
SHARED_VALUES: Mapping[str, Value] = {
    "method": paper("sam"),
    "seed": ours(0),
    "seeds": ours(5, "the fewest that decide a claim"),
    "momentum": paper(0.9),
    "phantom_rho": ours(0.1, "one radius for all arms, so that they can be compared"),
    "phantom_examples": ours(2000),
}
