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
from lowland.papers.springer2024.mechanism import last_linear
from lowland.papers.springer2024.settings import FeatureSettings
from lowland.torch_tools import evaluating

_AT_ONCE = 500  # images evaluated at a time
POINTS = 101  # of a Lorenz curve that is recorded
_FEWEST = 60  # pairs that a probe is fitted on
_COLUMN = {"held-out": "held_out", "training": "seen"}
# Larger ones interpolate the probe's examples all the same, if they are fewer than the features, and take longest.
PROBE_CS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class FeatureSets:
    """Images with two features, uint8, on the device.

    Attributes:
        train: what the network is trained on.
        validation: the same, held out; settings are selected by it.
        test: the same, of test images.
        probe_train: what probes are fitted on, a tenth of it held out for their regularization: images that the
            network was **not** trained on, in which the two features are independent.
        probe_test: what they are tested on, likewise; of test images.
        prepare: uint8 images → the network's inputs.
        easy: where the class of the easy feature stands, ``"attributes"`` or ``"targets"``.
        hard: likewise of the hard one.
        probe_seen: pairs of the images that the network **was** trained on, paired anew so that the two features are
            independent; None where there are none.
    """

    train: Split
    validation: Split
    test: Split
    probe_train: Split
    probe_test: Split
    prepare: Callable[[Tensor], Tensor]
    easy: str = "attributes"
    hard: str = "targets"
    probe_seen: Split | None = None

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
      SGD all. At the last step also their Lorenz curves, at `POINTS` equal steps of the fraction of the examples;
    - at the last step, and for ρ = 0 at the first, the probes' curves: ``held_out_sizes``, ``held_out_easy_errors`` and
      ``held_out_hard_errors`` of probes fitted on so many of the held-out pairs, ``seen_…`` of the training images.

    Which of those pairs ``easy_error`` and ``hard_error`` are fitted on says ``probe_on``, ``"held-out"`` or
    ``"training"``.

    Between the epochs at which ``settings.measures_at`` a record holds the epoch and ``batch_loss``, the loss of the
    batch that comes next; probes are fitted every ``check_epochs`` and at the end.
    """

    def __init__(self, model: nn.Module, sets: FeatureSets, settings: FeatureSettings, probe_on: str = "held-out"):
        self.model, self.sets, self.settings = model, sets, settings
        self.carrying = _COLUMN[probe_on]

    def __call__(self, step: int, batch: tuple[Any, Any]) -> dict[str, Any]:
        """A record; FloatingPointError if a loss is not finite."""
        settings = self.settings
        record: dict[str, Any] = {"epoch": step * settings.epochs / settings.steps}
        epoch, last = round(record["epoch"]), step == settings.steps
        if not settings.measures_at(epoch):
            return record | self._of_batch(batch)
        with evaluating(self.model):
            for name in ("train", "validation", "test"):
                error, loss = self._error_and_loss(getattr(self.sets, name))
                if not loss < float("inf"):
                    raise FloatingPointError(f"the {name} loss is {loss}")
                record |= {f"{name}_error": error, f"{name}_loss": loss}
        record |= self._weights(last)
        if epoch % settings.check_epochs == 0 or last:
            record |= self._probes(curves=last or (step == 0 and settings.rho == 0))
        return record

    def _of_batch(self, batch: tuple[Any, Any]) -> dict[str, float]:
        with evaluating(self.model), torch.no_grad():
            loss = F.cross_entropy(self.model(batch[0]).float(), batch[1]).item()
        if not loss < float("inf"):
            raise FloatingPointError(f"the loss of a batch is {loss}")
        return {"batch_loss": loss}

    def _error_and_loss(self, split: Split) -> tuple[float, float]:
        wrong = loss = 0.0
        with torch.no_grad():
            for x, y in self.sets.batches(split):
                output = self.model(x).float()
                wrong += (output.argmax(1) != y).sum().item()
                loss += F.cross_entropy(output, y, reduction="sum").item()
        return wrong / len(split), loss / len(split)

    def _probes(self, curves: bool) -> dict[str, Any]:
        sets, groups = self.sets, groups_of(self.sets.probe_test)
        test = extract(self.model, sets.batches(sets.probe_test), show_progress=False)
        with torch.no_grad():
            predicted = last_linear(self.model)(test).argmax(1)
        record: dict[str, Any] = {
            "worst_group_error": 1 - worst_group_accuracy(predicted, sets.probe_test.targets, groups)
        }
        test = test.cpu()
        for fitted_on, split in (("held_out", sets.probe_train), ("seen", sets.probe_seen)):
            carries = fitted_on == self.carrying
            if split is None or not (carries or curves):
                continue
            features = extract(self.model, sets.batches(split), show_progress=False).cpu()
            sizes = probe_sizes(len(split)) if curves else [len(split)]
            record |= {f"{fitted_on}_sizes": sizes} if curves else {}
            for name, where in (("easy", sets.easy), ("hard", sets.hard)):
                found = [
                    probe(
                        features[:n], getattr(split, where)[:n], test=(test, getattr(sets.probe_test, where), groups),
                        Cs=PROBE_CS, seed=self.settings.seed, show_progress=False,
                    )
                    for n in sizes
                ]  # fmt: skip
                if curves:
                    record[f"{fitted_on}_{name}_errors"] = [each.error for each in found]
                    record[f"{name}_error_{fitted_on}"] = found[-1].error
                if carries:
                    worst = found[-1].worst_group_error
                    assert worst is not None
                    record |= {f"{name}_error": found[-1].error, f"{name}_worst_group_error": worst}
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


def probe_sizes(n: int) -> list[int]:
    """An eighth, a quarter, a half and all of ``n`` pairs, those of them that are at least `_FEWEST`."""
    return [n // part for part in (8, 4, 2) if n // part >= _FEWEST] + [n]


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
