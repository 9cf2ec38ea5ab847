"""CIFAR-10 or CIFAR-100, as a setting says, with the network that the paper has for it."""

from collections.abc import Mapping, Sequence

from torch import nn

from lowland.papers.andriushchenko2022 import cifar10, cifar100
from lowland.papers.andriushchenko2022.image_settings import ImageSettings
from lowland.papers.figures import LevelsOf
from lowland.training import Level, Outcome

DATASETS = ("cifar-10", "cifar-100")


def network(settings: ImageSettings) -> nn.Module:
    """That of the settings' ``dataset``."""
    return (cifar10 if getattr(settings, "dataset", DATASETS[0]) == DATASETS[0] else cifar100).network(settings)


def reported(values: Mapping[str, Mapping[str, Sequence[tuple[str, str, float]]]]) -> LevelsOf:
    """Levels of what the paper reports of the arms' dataset.

    ``values``: dataset → column of the records → kind of arm, label, value in %.
    """

    def levels(outcomes: Mapping[str, Outcome]) -> dict[str, list[Level]]:
        found = {getattr(outcome.settings, "dataset", DATASETS[0]) for outcome in outcomes.values()}
        columns = values[found.pop()] if len(found) == 1 else {}
        return {
            column: [Level(value / 100, label, kind) for kind, label, value in several]
            for column, several in columns.items()
        }

    return levels
