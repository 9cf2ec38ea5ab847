"""What is measured of a network on images with two features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.data import Split, seeded
from lowland.features import (
    Probe,
    adjusted_average_accuracy,
    deep_feature_reweighting,
    extract,
    gini,
    group_balanced_accuracy,
    importance_weights,
    lorenz,
    probe,
    worst_group_accuracy,
)
from lowland.features.groups import adjusted_mean
from lowland.optim.scope import last_layer
from lowland.papers.images import error_and_loss
from lowland.papers.springer2024.data import FeatureSets
from lowland.papers.springer2024.methods import last_linear
from lowland.papers.springer2024.settings import FeatureSettings
from lowland.torch_tools import evaluating

Labelled = tuple[Tensor, Tensor]  # features and labels

POINTS = 101  # of a Lorenz curve in a record
_FEWEST = 60  # pairs that a probe of a curve is fitted on
_COLUMN = {"held-out": "held_out", "training": "seen"}
GROUPS = 4
FRACTION = 0.2  # of the validation images, within each group: the probes' regularization is chosen on them
# Larger ones interpolate the probe's examples all the same, if they are fewer than the features, and take longest.
PROBE_CS = (1e-4, 1e-3, 1e-2, 1e-1)
_TOLERANCE = 1e-8  # of the decrement, what a Newton step can still gain
_STEPS, _HALVINGS = 50, 30


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
                error, loss = error_and_loss(self.model, self.sets.batches(getattr(self.sets, name)))
                if not loss < float("inf"):
                    raise FloatingPointError(f"the {name} loss is {loss}")
                record |= {f"{name}_error": error, f"{name}_loss": loss}
        record |= self._weights(last)
        if epoch % settings.check_epochs == 0 or last:
            record |= self._probes(step)
        return record

    def _of_batch(self, batch: tuple[Any, Any]) -> dict[str, float]:
        with evaluating(self.model), torch.no_grad():
            loss = F.cross_entropy(self.model(batch[0]).float(), batch[1]).item()
        if not loss < float("inf"):
            raise FloatingPointError(f"the loss of a batch is {loss}")
        return {"batch_loss": loss}

    def _probes(self, step: int) -> dict[str, Any]:
        sets, groups = self.sets, groups_of(self.sets.probe_test)
        curves = step == self.settings.steps or (step == 0 and self.settings.rho == 0)
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

    def importance_examples(self) -> Split:
        """The training images whose importance weights are recorded: the first ones."""
        train = self.sets.train
        return train.take(torch.arange(min(self.settings.phantom_examples, len(train))))

    def _weights(self, last: bool) -> dict[str, Any]:
        scope = last_layer if self.settings.method == "lsam" and self.settings.rho > 0 else None
        found = importance_weights(
            self.model,
            self.sets.batches(self.importance_examples()),
            self.settings.phantom_rho,
            scope=scope,
            show_progress=False,
        )
        record: dict[str, Any] = {}
        for name, weights in (("real", found.real), ("phantom", found.phantom)):
            record[f"gini_{name}"] = gini(weights)
            if last:
                record[f"lorenz_{name}"] = lorenz_points(weights)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Empty: what is measured depends on the network alone."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """There is nothing to restore."""


class GroupedCheck(FeatureCheck):
    """As `FeatureCheck`, on photographs whose groups are of very different sizes: all groups count the same.

    The features are independent of each other where each pair of their classes has the same weight. So the probes are
    fitted on the validation images by the inverse of their group's size, and tested on the test images; ``easy_error``
    and ``hard_error`` are means over the groups. There is also

    - ``group_balanced_error`` and ``adjusted_error``: the network's own on the test images, the mean over the groups,
      plain and weighted by their shares of the training images (`lowland.features.adjusted_average_accuracy`);
    - at the last step ``reweighted_worst_group_error``, ``reweighted_group_balanced_error`` and
      ``reweighted_adjusted_error``: those of its target after the last layer is trained again on validation images
      (`lowland.features.deep_feature_reweighting`).

    The importance weights are of training images drawn at random.
    """

    def _probes(self, step: int) -> dict[str, Any]:
        fitted, test = self.sets.probe_train, self.sets.probe_test
        features, test_features = (
            extract(self.model, self.sets.batches(split), show_progress=False).cpu() for split in (fitted, test)
        )
        record = self._own_errors()
        for name, where in (("easy", self.sets.easy), ("hard", self.sets.hard)):
            found = probe(
                features, getattr(fitted, where), groups_of(fitted),
                test=(test_features, getattr(test, where), groups_of(test)),
                validation=FRACTION, balanced=True, n_groups=GROUPS, seed=self.settings.seed, show_progress=False,
            )  # fmt: skip
            balanced, worst = _by_group(found)
            record |= {f"{name}_error": balanced, f"{name}_worst_group_error": worst}
        if step == self.settings.steps:
            reweighted = deep_feature_reweighting(
                features, fitted.targets, groups_of(fitted), test=(test_features, test.targets, groups_of(test)),
                n_groups=GROUPS, seed=self.settings.seed, show_progress=False,
            )  # fmt: skip
            balanced, worst = _by_group(reweighted)
            assert reweighted.error_by_group is not None
            record |= {"reweighted_group_balanced_error": balanced, "reweighted_worst_group_error": worst}
            record["reweighted_adjusted_error"] = adjusted_mean(reweighted.error_by_group, groups_of(self.sets.train))
        return record

    def importance_examples(self) -> Split:
        """Training images drawn at random, the same for every seed."""
        order = torch.randperm(len(self.sets.train), generator=seeded(0, 2**30))
        return self.sets.train.take(order[: self.settings.phantom_examples])

    def _own_errors(self) -> dict[str, float]:
        test = self.sets.probe_test
        with torch.no_grad(), evaluating(self.model):
            predicted = torch.cat([self.model(x).argmax(1) for x, _ in self.sets.batches(test)])
        groups, training = groups_of(test), groups_of(self.sets.train)
        return {
            "adjusted_error": 1 - adjusted_average_accuracy(predicted, test.targets, groups, training, GROUPS),
            "worst_group_error": 1 - worst_group_accuracy(predicted, test.targets, groups, GROUPS),
            "group_balanced_error": 1 - group_balanced_accuracy(predicted, test.targets, groups, GROUPS),
        }


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


def _by_group(found: Probe) -> tuple[float, float]:
    """The mean of its groups' errors, and the highest."""
    assert found.group_balanced_error is not None
    assert found.worst_group_error is not None
    return found.group_balanced_error, found.worst_group_error


def probing_errors(train: Labelled, validation: Labelled, test: Labelled, Cs: Sequence[float]) -> Tensor:
    """The test error ``(r,)`` of logistic regression on the features of each of r networks.

    Each set is a pair of features ``(r, n, h)`` and labels ±1 ``(r, n)``. They are standardized by the training
    examples, C is chosen by the validation error (ties: the log loss, then the most regularized): as
    `lowland.features.probe` does, in float64 and by Newton's method.
    """
    mean, deviation = train[0].double().mean(1, keepdim=True), train[0].double().std(1, correction=0, keepdim=True)
    sets = []
    for features, labels in (train, validation, test):
        x = (features.double() - mean) / torch.where(deviation > 0, deviation, 1)
        sets.append((torch.cat([x, torch.ones_like(x[..., :1])], 2), labels.double()))
    (x, y), chosen_by, tested = sets
    w = torch.zeros_like(x[:, 0])
    best = torch.full((2, len(x)), torch.inf, dtype=x.dtype, device=x.device)  # validation error and loss
    errors = torch.ones_like(best[0])
    for C in sorted(Cs):
        w = logistic_regression(x, y, C, w)
        margins = _margins(w, *chosen_by)
        found = torch.stack([_wrong(margins), F.softplus(-margins).mean(1)])
        better = (found[0] < best[0]) | ((found[0] == best[0]) & (found[1] < best[1]))
        best = torch.where(better, found, best)
        errors = torch.where(better, _wrong(_margins(w, *tested)), errors)
    return errors


def logistic_regression(x: Tensor, y: Tensor, C: float, w: Tensor) -> Tensor:
    """The minimum w of C Σ log(1 + exp(−y xᵀw)) + ½‖w‖², from ``w`` on; the last weight isn't in the norm.

    Newton's method, whose steps are halved until the loss falls; x (r, n, p), y (r, n), w (r, p).
    """
    penalized = torch.ones_like(w[0])
    penalized[-1] = 1e-9  # so that there is a minimum

    def loss(w: Tensor) -> Tensor:
        return C * F.softplus(-_margins(w, x, y)).sum(1) + (penalized * w.square()).sum(1) / 2

    before = loss(w)
    for _ in range(_STEPS):
        pull = torch.sigmoid(-_margins(w, x, y))
        gradient = penalized * w - C * torch.bmm((y * pull)[:, None], x)[:, 0]
        hessian = C * torch.bmm((x * (pull * (1 - pull))[..., None]).mT, x) + torch.diag(penalized)
        step = torch.linalg.solve(hessian, gradient)
        decrement = (gradient * step).sum(1)
        if decrement.max() < _TOLERANCE:
            break
        size = torch.ones_like(before)
        for _ in range(_HALVINGS):
            after = loss(w - size[:, None] * step)
            rises = after > before
            if not rises.any():
                break
            size = torch.where(rises, size / 2, size)
        w, before = w - size[:, None] * step, after
    return w


def _wrong(margins: Tensor) -> Tensor:
    """The share ``(r,)`` of examples on the wrong side."""
    return (margins <= 0).double().mean(1)


def _margins(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return y * torch.bmm(x, w[..., None])[..., 0]
