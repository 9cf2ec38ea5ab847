"""What is measured of a network on photographs whose groups are of very different sizes."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lowland.data import seeded
from lowland.features import (
    Probe,
    deep_feature_reweighting,
    extract,
    group_balanced_accuracy,
    probe,
    worst_group_accuracy,
)
from lowland.papers.springer2024.check import FeatureCheck, FeatureSets, groups_of
from lowland.papers.springer2024.settings import FeatureSettings
from lowland.torch_tools import evaluating

GROUPS = 4
FRACTION = 0.2  # of the validation images, within each group: the probes' regularization is chosen on them
LEAST_IN_GROUP = 5  # validation images, so that there is one


class GroupedCheck(FeatureCheck):
    """As `FeatureCheck`, with all groups counting the same.

    The features are independent of each other where each pair of their classes has the same weight. So the probes are
    fitted on the validation images by the inverse of their group's size, and tested on the test images; ``easy_error``
    and ``hard_error`` are means over the groups. There is also

    - ``group_balanced_error``: the network's own on the test images, the mean over the groups;
    - at the last step ``reweighted_worst_group_error`` and ``reweighted_group_balanced_error``: those of its target
      after the last layer is trained again on validation images (`lowland.features.deep_feature_reweighting`).

    The importance weights are of training images drawn at random.
    """

    def __init__(self, model: nn.Module, sets: FeatureSets, settings: FeatureSettings):
        super().__init__(model, sets, settings)
        order = torch.randperm(len(sets.train), generator=seeded(0, 2**30))  # the same images for every seed
        self.weighed = sets.train.take(order[: settings.phantom_examples])
        self.features: dict[str, Tensor] = {}

    def __call__(self, step: int, batch: tuple[Any, Any]) -> dict[str, Any]:
        """A record; FloatingPointError if a loss is not finite."""
        record = super().__call__(step, batch)
        return record | (self._reweighted() if step == self.settings.steps else {})

    def _probes(self, curves: bool) -> dict[str, Any]:
        fitted, test = self.sets.probe_train, self.sets.probe_test
        self.features = {
            name: extract(self.model, self.sets.batches(split), show_progress=False).cpu()
            for name, split in (("fitted", fitted), ("test", test))
        }
        record = self._own_errors()
        for name, where in (("easy", self.sets.easy), ("hard", self.sets.hard)):
            found = probe(
                self.features["fitted"], getattr(fitted, where), groups_of(fitted),
                test=(self.features["test"], getattr(test, where), groups_of(test)),
                validation=FRACTION, balanced=True, n_groups=GROUPS, seed=self.settings.seed, show_progress=False,
            )  # fmt: skip
            balanced, worst = _by_group(found)
            record |= {f"{name}_error": balanced, f"{name}_worst_group_error": worst}
        return record

    def _own_errors(self) -> dict[str, float]:
        test = self.sets.probe_test
        with torch.no_grad(), evaluating(self.model):
            predicted = torch.cat([self.model(x).argmax(1) for x, _ in self.sets.batches(test)])
        groups = groups_of(test)
        return {
            "worst_group_error": 1 - worst_group_accuracy(predicted, test.targets, groups, GROUPS),
            "group_balanced_error": 1 - group_balanced_accuracy(predicted, test.targets, groups, GROUPS),
        }

    def _reweighted(self) -> dict[str, float]:
        fitted, test = self.sets.probe_train, self.sets.probe_test
        found = deep_feature_reweighting(
            self.features["fitted"], fitted.targets, groups_of(fitted),
            test=(self.features["test"], test.targets, groups_of(test)),
            n_groups=GROUPS, seed=self.settings.seed, show_progress=False,
        )  # fmt: skip
        balanced, worst = _by_group(found)
        return {"reweighted_group_balanced_error": balanced, "reweighted_worst_group_error": worst}

    def _weights(self, last: bool) -> dict[str, Any]:
        whole = self.sets
        self.sets = replace(whole, train=self.weighed)
        try:
            return super()._weights(last)
        finally:
            self.sets = whole


def _by_group(found: Probe) -> tuple[float, float]:
    """The mean of its groups' errors, and the highest."""
    assert found.group_balanced_error is not None
    assert found.worst_group_error is not None
    return found.group_balanced_error, found.worst_group_error
