"""The figures of the paper's experiments on images."""

from collections.abc import Sequence

from lowland.papers.over_epochs import over_epochs
from lowland.training import Plot


def network_figures(kinds: Sequence[str]) -> tuple[Plot, ...]:
    """What every network run draws."""
    return (
        over_epochs(
            "error", "Errors", kinds,
            (("test_error", "test", "error", False), ("averaged_test_error", "test, averaged weights", "error", False),
             ("train_error", "training", "error", False)),
        ),
        over_epochs(
            "loss", "Cross-entropy", kinds,
            (("train_loss", "training", "loss", True), ("test_loss", "test", "loss", True)),
        ),
        over_epochs(
            "sharpness", "Sharpness on training images", kinds,
            (("sharpness", "one step", "rise of the loss", True),
             ("sharpness_20", "20 steps", "rise of the loss", True),
             ("cosine", "gradients at w and at w + ε", "cosine", False)),
        ),
    )  # fmt: skip
