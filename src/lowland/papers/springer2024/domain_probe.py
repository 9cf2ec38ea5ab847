"""The paper's measure of what a network has learned for a domain that it never saw: a linear probe on that domain."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lowland.errors import SettingError
from lowland.features import extract, probe
from lowland.papers.springer2024.domain_data import DomainSets
from lowland.papers.springer2024.domain_settings import Settings
from lowland.papers.springer2024.photographs import Portion

FRACTION = 0.2  # of the examples that the probe is fitted on: they choose its regularization
LEAST = 3  # of each class that the probe is fitted on, so that one of them may choose


def check_domain(sets: DomainSets, settings: Settings) -> None:
    """Raise a SettingError if the domain held out has too few images of a class for a probe and its test."""
    fitted, tested = (
        torch.bincount(portion.targets.cpu(), minlength=len(sets.classes)) for portion in (sets.test, sets.probe_test)
    )
    short = ((fitted + tested > 0) & (fitted < LEAST)).nonzero().flatten().tolist()
    if short:
        left = f"{int(fitted[short[0]])} of the class {sets.classes[short[0]]}"
        raise SettingError(
            f"a probe takes {LEAST} images of each class beside a part held out for its test, and the domain "
            f"{settings.held_out} of {settings.dataset} leaves {left}: "
            "set examples to more, or 0 for all; or measure=transfer, which takes no probe"
        )


def probe_error(model: nn.Module, sets: DomainSets, seed: int, device: torch.device) -> float:
    """The test error, on the part held out, of logistic regression on the last hidden layer."""
    (x, y), (test_x, test_y) = (_features(model, portion, device) for portion in (sets.test, sets.probe_test))
    return probe(x, y, test=(test_x, test_y), validation=FRACTION, seed=seed, show_progress=False).error


def _features(model: nn.Module, portion: Portion, device: torch.device) -> tuple[Tensor, Tensor]:
    return extract(model, _Repeated(portion, device), show_progress=False).float().cpu(), portion.targets.cpu()


class _Repeated:
    """The batches of a portion, as often as they are asked for."""

    def __init__(self, portion: Portion, device: torch.device):
        self.portion, self.device = portion, device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.portion.batches(self.device)
