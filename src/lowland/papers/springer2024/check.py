"""What is measured of a network whose features are probed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.data import Split
from lowland.features import extract, gini, importance_weights, lorenz, probe, worst_group_accuracy
from lowland.optim.scope import last_layer
from lowland.papers.evaluating import evaluating
from lowland.papers.springer2024.mechanism import last_linear
from lowland.papers.springer2024.settings import FeatureSettings

_AT_ONCE = 500  # images evaluated at a time
POINTS = 101  # of a Lorenz curve that is recorded
# Larger ones interpolate the probe's examples all the same, which are fewer than the features, and take longest.
PROBE_CS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class FeatureSets:
    """Images with two features, uint8, on the device.

    Attributes:
        train: what the network is trained on.
        validation: the same, held out; settings are selected by it.
        test: the same, of test images.
        probe_train: what the probes are fitted on, a tenth of it held out for their regularization: images that the
            network was **not** trained on, in which the two features are independent.
        probe_test: what they are tested on, likewise; of test images.
        prepare: uint8 images → the network's inputs.
        easy: where the class of the easy feature stands, ``"attributes"`` or ``"targets"``.
        hard: likewise of the hard one.
    """

    train: Split
    validation: Split
    test: Split
    probe_train: Split
    probe_test: Split
    prepare: Callable[[Tensor], Tensor]
    easy: str = "attributes"
    hard: str = "targets"

    def batches(self, split: Split) -> "Prepared":
        """``split`` as pairs of inputs and targets."""
        return Prepared(split, self.prepare)


@dataclass(frozen=True)
class Prepared:
    """Pairs of inputs and targets, in order, as often as they are asked for."""

    split: Split
    prepare: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        """How many batches."""
        return -(-len(self.split) // _AT_ONCE)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        assert self.split.targets is not None
        for images, targets in zip(self.split.inputs.split(_AT_ONCE), self.split.targets.split(_AT_ONCE), strict=True):
            yield self.prepare(images), targets


class FeatureCheck:
    """Errors, probing errors and importance weights, in evaluation mode.

    Records of:

    - ``train_``, ``validation_`` and ``test_`` ``error`` and ``loss`` (cross-entropy);
    - ``worst_group_error``: the network's own, of the worst group of the images in which the features are independent;
    - ``easy_error`` and ``hard_error``: of a probe of the last hidden layer (`lowland.features.probe`) for that
      feature; ``easy_worst_group_error`` and ``hard_worst_group_error``: its worst group;
    - ``gini_real`` and ``gini_phantom`` of the importance weights (`lowland.features.importance_weights`) of the first
      ``phantom_examples`` training images, at ρ = ``phantom_rho``; perturbed is what the arm itself perturbs, and for
      SGD all. At the last step also their Lorenz curves, at `POINTS` equal steps of the fraction of the examples.
    """

    def __init__(self, model: nn.Module, sets: FeatureSets, settings: FeatureSettings):
        self.model, self.sets, self.settings = model, sets, settings

    def __call__(self, step: int, batch: tuple[Any, Any]) -> dict[str, Any]:
        """A record; FloatingPointError if a loss is not finite."""
        settings = self.settings
        record: dict[str, Any] = {"epoch": step * settings.epochs / settings.steps}
        with evaluating(self.model):
            for name in ("train", "validation", "test"):
                error, loss = self._error_and_loss(getattr(self.sets, name))
                if not loss < float("inf"):
                    raise FloatingPointError(f"the {name} loss is {loss}")
                record |= {f"{name}_error": error, f"{name}_loss": loss}
        return record | self._probes() | self._weights(last=step == settings.steps)

    def _error_and_loss(self, split: Split) -> tuple[float, float]:
        wrong = loss = 0.0
        with torch.no_grad():
            for x, y in self.sets.batches(split):
                output = self.model(x).float()
                wrong += (output.argmax(1) != y).sum().item()
                loss += F.cross_entropy(output, y, reduction="sum").item()
        return wrong / len(split), loss / len(split)

    def _probes(self) -> dict[str, float]:
        sets, groups = self.sets, groups_of(self.sets.probe_test)
        train, test = (
            extract(self.model, sets.batches(split), show_progress=False)
            for split in (sets.probe_train, sets.probe_test)
        )
        with torch.no_grad():
            predicted = last_linear(self.model)(test).argmax(1)
        record = {"worst_group_error": 1 - worst_group_accuracy(predicted, sets.probe_test.targets, groups)}
        train, test = train.cpu(), test.cpu()
        for name, where in (("easy", sets.easy), ("hard", sets.hard)):
            found = probe(
                train, getattr(sets.probe_train, where), test=(test, getattr(sets.probe_test, where), groups),
                Cs=PROBE_CS, seed=self.settings.seed, show_progress=False,
            )  # fmt: skip
            assert found.worst_group_error is not None
            record |= {f"{name}_error": found.error, f"{name}_worst_group_error": found.worst_group_error}
        return record

    def _weights(self, last: bool) -> dict[str, Any]:
        train = self.sets.train
        examples = train.take(torch.arange(min(self.settings.phantom_examples, len(train))))
        scope = last_layer if self.settings.method == "lsam" and self.settings.rho > 0 else None
        found = importance_weights(
            self.model, self.sets.batches(examples), self.settings.phantom_rho, scope=scope, show_progress=False
        )
        record: dict[str, Any] = {}
        for name, weights in (("real", found.real), ("phantom", found.phantom)):
            record[f"gini_{name}"] = gini(weights)
            if last:
                record[f"lorenz_{name}"] = lorenz_points(weights)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to take up."""


def groups_of(split: Split) -> Tensor:
    """Of each example the pair of its target and its attribute, as one number."""
    assert split.targets is not None
    assert split.attributes is not None
    return split.targets * (int(split.attributes.max()) + 1) + split.attributes


def lorenz_points(weights: Tensor) -> list[float]:
    """The Lorenz curve at `POINTS` fractions from 0 to 1."""
    fractions, shares = lorenz(weights)
    points: list[float] = np.interp(np.linspace(0, 1, POINTS), fractions.numpy(), shares.numpy()).tolist()
    return points
