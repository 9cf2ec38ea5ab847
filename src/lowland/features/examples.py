"""Sets of examples for probes: features, targets and groups, checked and split."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lowland.features.groups import check_groups, integers


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples of one kind, such as training or test.

    Attributes:
        name: the name in error messages.
        features: ``(n, features)``, float32 or float64.
        targets: classes, int64 ``(n,)``.
        groups: int64 ``(n,)``, or None.
    """

    name: str
    features: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """``groups``; ValueError if there are none."""
        if self.groups is None:
            raise ValueError(f"{self.name} needs groups")
        return self.groups

    def take(self, indices: np.ndarray, name: str | None = None) -> "Examples":
        """The examples at ``indices``, in that order."""
        groups = None if self.groups is None else self.groups[indices]
        return Examples(name or self.name, self.features[indices], self.targets[indices], groups)

    def balanced_weights(self) -> np.ndarray:
        """Weights ``(n,)`` of mean 1 with which all groups count the same."""
        from sklearn.utils.class_weight import compute_sample_weight  # here, because importing it takes a second

        weights: np.ndarray = compute_sample_weight("balanced", self.labels)
        return weights

    def balanced_subset(self, random: np.random.Generator) -> "Examples":
        """As many examples of each group as the smallest has, drawn without replacement."""
        groups, sizes = np.unique(self.labels, return_counts=True)
        members = (np.flatnonzero(self.labels == group) for group in groups)
        drawn = [random.choice(indices, sizes.min(), replace=False) for indices in members]
        return self.take(np.concatenate(drawn), f"a balanced subset of {self.name}")


def part(name: str, features: Any, targets: Any, groups: Any = None) -> Examples:
    """Tensors or arrays as a `Examples`.

    Raises:
        ValueError: unless they are finite numbers ``(n, features)`` and integers ``(n,)``, n > 0.
    """
    if isinstance(features, Tensor):
        features = features.detach().cpu()
        features = features.numpy() if features.dtype.itemsize == 8 else features.float().numpy()
    x = np.asarray(features)
    x = x.astype(np.float64 if x.dtype.itemsize == 8 else np.float32, copy=False)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"the features of {name} must be (n, features), neither of them 0, not {x.shape}")
    if wrong := np.count_nonzero(~np.isfinite(x).all(1)):
        raise ValueError(f"the features of {name} are NaN or infinite in {wrong} of {len(x)} examples")
    y = integers(f"the targets of {name}", targets)
    g = None if groups is None else integers(f"the groups of {name}", groups)
    for what, labels in (("targets", y), ("groups", g)):
        if labels is not None and len(labels) != len(x):
            raise ValueError(f"{name} has {len(x)} examples and {len(labels)} {what}")
    return Examples(name, x, y, g)


def given(name: str, value: Any) -> Examples:
    """The `Examples` of a pair (features, targets), or of a triple with groups.

    Raises:
        TypeError: for anything else.
        ValueError: see `part`.
    """
    if not isinstance(value, tuple | list) or len(value) not in (2, 3):
        raise TypeError(f"{name} is given as (features, targets) or (features, targets, groups)")
    return part(name, *value)


def split(
    whole: Examples, fraction: float, random: np.random.Generator, names: tuple[str, str]
) -> tuple[Examples, Examples]:
    """Hold out a random ``fraction`` of the examples of each class and group: (the rest, the held out).

    Raises:
        ValueError: if ``fraction`` isn't between 0 and 1, or nothing would be held out.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction held out for validation must lie between 0 and 1, not {fraction}")
    labels = whole.targets[:, None] if whole.groups is None else np.stack([whole.targets, whole.groups], 1)
    _, cell = np.unique(labels, axis=0, return_inverse=True)
    # Not scikit-learn's train_test_split(stratify=...): it draws others, and results that were recorded hold these.
    rest, out = [], []
    for each in range(cell.max() + 1):
        order = random.permutation(np.flatnonzero(cell == each))
        held = round(fraction * len(order))
        out.append(order[:held])
        rest.append(order[held:])
    if not sum(map(len, out)):
        raise ValueError(f"{whole.name} is too small to hold {fraction:g} of each class out: {len(cell)} examples")
    return whole.take(np.concatenate(rest), names[0]), whole.take(np.concatenate(out), names[1])


def check_classes(train: Examples, others: Iterable[Examples]) -> None:
    """Raise ValueError if ``train`` has only one class, lacks a class of another part, or differs in feature number."""
    classes = set(train.targets.tolist())
    if len(classes) == 1:
        raise ValueError(f"{train.name} has one class only, {classes.pop()}: there is nothing to tell apart")
    for other in others:
        if unknown := sorted(set(other.targets.tolist()) - classes):
            raise ValueError(f"class {unknown[0]} of {other.name} doesn't occur in {train.name}")
        if other.features.shape[1] != train.features.shape[1]:
            raise ValueError(
                f"{other.name} has {other.features.shape[1]} features, {train.name} {train.features.shape[1]}"
            )


def require_groups(parts: Iterable[Examples], n_groups: int | None, others: Iterable[Examples] = ()) -> None:
    """Raise ValueError unless each of ``parts`` has examples of every group that occurs there or in ``others``.

    With ``n_groups``, the groups must be 0, …, ``n_groups`` − 1.
    """
    labels = {each.name: each.labels for each in parts}
    more = [each.groups for each in others if each.groups is not None]
    occurring = {label for found in [*labels.values(), *more] for label in found.tolist()}
    for name, found in labels.items():
        check_groups(name, found, occurring if n_groups is None else range(n_groups))
