"""Leave one domain out: SAM against ERM on the benchmark of Gulrajani & Lopez-Paz 2021 (Springer et al. 2024).

Of a dataset's domains all but one are trained on, as many images of each in every batch. The check that the training
domains' validation parts select is tested on the domain left out; a run does so with every domain in turn.

For the paper's measure, a probe, the descent is SGD's, as the paper compares SGD with SAM; for the benchmark's own
measure it is the benchmark's, Adam.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lowland.data import DOMAIN_FOLDERS
from lowland.errors import SettingError
from lowland.features import extract, probe
from lowland.models import freeze_batch_norm
from lowland.optim import SAM
from lowland.papers.images import error_and_loss, switched
from lowland.papers.springer2024 import PAPER
from lowland.papers.springer2024.domain_claims import DOMAIN_CLAIMS, domain_table
from lowland.papers.springer2024.domain_data import DomainBatches, DomainSets, domain_sets
from lowland.papers.springer2024.figures import domain_bars, domain_errors
from lowland.papers.springer2024.settings import (
    DOMAIN_DATASETS,
    DOMAIN_VALUES,
    DomainSettings,
    domain_grid,
    domain_names,
)
from lowland.papers.springer2024.task import momentum_sgd, network, placed
from lowland.torch_tools import evaluating
from lowland.training import Curve, Experiment, Plot, Task

FRACTION = 0.2  # of the examples that the probe is fitted on: they choose its regularization
LEAST = 3  # of each class that the probe is fitted on, so that one of them may choose
_SELECTED = "selected_"


class DomainCheck:
    """Errors and losses in evaluation mode, without random views.

    Records of ``validation_error`` and ``validation_loss`` (means over the training domains, each counting the same)
    and ``test_error`` and ``test_loss`` on the domain held out; and the same four, and ``selected_step``, of the check
    so far with the lowest validation error, then the lowest validation loss, then the first. With ``measure=probe`` at
    the last step also ``probe_error`` and ``probe_accuracy`` of a linear probe on the domain held out, and
    ``constant_accuracy`` of one that always names the class that is most frequent there.
    """

    def __init__(self, model: nn.Module, sets: DomainSets, settings: DomainSettings, device: torch.device):
        self.model, self.sets, self.settings, self.device = model, sets, settings, device
        self.selected: dict[str, float] = {}

    def __call__(self, step: int, batch: tuple[Any, Any]) -> dict[str, Any]:
        """A record; FloatingPointError if the validation loss is not finite."""
        with evaluating(self.model):
            found = [error_and_loss(self.model, part.batches(self.device)) for part in self.sets.validation]
            error, loss = (sum(values) / len(found) for values in zip(*found, strict=True))
            if not math.isfinite(loss):
                raise FloatingPointError
            test_error, test_loss = error_and_loss(self.model, self.sets.test.batches(self.device))
        record = {
            "validation_error": error, "validation_loss": loss, "test_error": test_error, "test_loss": test_loss,
        }  # fmt: skip
        before = self.selected
        if not before or (error, loss) < (before["validation_error"], before["validation_loss"]):
            self.selected = {"step": step, **record}
        record |= {f"{_SELECTED}{name}": value for name, value in self.selected.items()}
        if self.settings.measure == "probe" and step == self.settings.steps:
            error = self._probe_error()
            record |= {"probe_error": error, "probe_accuracy": 1 - error}
            fitted, tested = self.sets.test.targets, self.sets.probe_test.targets
            record["constant_accuracy"] = (tested == fitted.mode().values).double().mean().item()
        return record

    def _probe_error(self) -> float:
        """On the part held out of that domain: of logistic regression on the last hidden layer."""
        (x, y), test = (
            (extract(self.model, part.batches(self.device), show_progress=False).float().cpu(), part.targets.cpu())
            for part in (self.sets.test, self.sets.probe_test)
        )
        return probe(x, y, test=test, validation=FRACTION, seed=self.settings.seed, show_progress=False).error

    def state_dict(self) -> dict[str, Any]:
        """What is selected so far."""
        return {"selected": dict(self.selected)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.selected = dict(state_dict["selected"])


def _check_domain(sets: DomainSets, settings: DomainSettings) -> None:
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


def prepare(settings: DomainSettings, device: torch.device) -> Task:
    """One training, without the domain that is held out."""
    if settings.held_out == "all":
        known = ", ".join(domain_names(settings.dataset))
        raise SettingError(f"one training holds out one domain of {settings.dataset}: set held_out to one of {known}")
    sets = domain_sets(settings, device)
    if settings.measure == "probe":
        _check_domain(sets, settings)
    batches = DomainBatches(sets.train, settings.batch_size, settings.seed, device, augment=settings.is_augmented)
    model = network(settings.network, settings.width, len(sets.classes), sets.test.split.inputs.shape, settings.weights)
    model = placed(freeze_batch_norm(model) if settings.is_frozen else model, device)
    adam = torch.optim.Adam(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    base = momentum_sgd(model, settings) if settings.base == "sgd" else adam
    return Task(
        model,
        F.cross_entropy,
        SAM(base, rho=settings.rho, model=model),
        batches,
        DomainCheck(model, sets, settings, device),
        {"validation": "validation_error", "test": "test_error"},
        autocast=torch.bfloat16 if switched(settings.amp, device) else None,
    )


class LeaveOneOut(Experiment):
    """An experiment each of whose arms is trained once for every domain that it holds out."""

    def configure(self, scale: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """ARM-without-DOMAIN, or ARM-SEED-without-DOMAIN for several seeds → its settings."""
        chosen: dict[str, DomainSettings] = {}
        for name, settings in super().configure(scale, changes).items():
            assert isinstance(settings, DomainSettings)
            held_out = [settings.held_out] if settings.held_out != "all" else domain_names(settings.dataset)
            for domain in held_out:
                chosen[f"{name}-without-{domain}"] = replace(settings, held_out=domain)
        return chosen


DOMAINBED = LeaveOneOut(
    name="springer2024/domainbed",
    title="Seven datasets of domains, one of them left out: SAM and ERM",
    paper=PAPER,
    datasets=("mnist", *DOMAIN_FOLDERS),
    settings=DomainSettings,
    scales=DOMAIN_VALUES,
    arms={"erm": {"rho": 0.0}, "sam": {}},
    grid=domain_grid("rotated-mnist"),
    # Without the dataset itself: --set dataset=… takes its defaults, too.
    more_grids={name: [domain_grid(name)] for name in DOMAIN_DATASETS[1:]},
    claims=DOMAIN_CLAIMS,
    figures=(
        Plot("by-domain", "The domain left out", domain_bars),
        Plot("training", "Errors over training", domain_errors),
    ),
    cost={
        "paper": "rotated-mnist: three hours, one H100 (estimated)",
        "desk": "75 minutes to 2 and a half hours, 1 core (from its first steps)",
        "laptop": "1 to 3 minutes, 1 core",
        "smoke": "seconds",
    },
    prepare=prepare,
    table=domain_table,
    outcomes=(
        Curve("probe_accuracy", "accuracy of a probe on the domain left out"),
        Curve(f"{_SELECTED}test_error", "error on the domain left out"),
    ),
)  # fmt: skip
