"""Accuracy within groups of examples: of each, of the worst, and means with equal weights or those of training."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from torch import Tensor


def accuracy_by_group(predictions: Any, targets: Any, groups: Any, n_groups: int | None = None) -> dict[int, float]:
    """The accuracy within each group.

    Args:
        predictions: predicted classes ``(n,)``, integers: for logits, take their argmax. This and the next two may be
            tensors, arrays or lists.
        targets: true classes ``(n,)``.
        groups: the group of each example, ``(n,)``: any integers (class and background together, a domain, ...).
        n_groups: if given, the groups are 0, …, ``n_groups`` − 1, and each must have examples; otherwise they are
            those that occur.

    Returns:
        Group → accuracy on its examples, in ascending order of the groups.

    Raises:
        ValueError: unless the three are integers ``(n,)`` of the same length n > 0; with ``n_groups``, for a group
            without examples, or a group number out of range.

    Example:
        >>> accuracy_by_group([0, 1, 1], [0, 1, 0], [7, 7, 9])
        {7: 1.0, 9: 0.0}
    """
    given = {"predictions": predictions, "targets": targets, "groups": groups}
    predicted, true, group = (integers(name, values) for name, values in given.items())
    lengths = len(predicted), len(true), len(group)
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(f"predictions, targets and groups must be as many, and some: not {lengths}")
    if n_groups is not None:
        check_groups("the examples", group, range(n_groups))
    return shares(predicted == true, group)


def worst_group_accuracy(predictions: Any, targets: Any, groups: Any, n_groups: int | None = None) -> float:
    """The lowest `accuracy_by_group` (Sagawa et al. 2020, *Distributionally Robust Neural Networks*).

    Args:
        predictions: see `accuracy_by_group`, as for the others.
        targets: true classes.
        groups: of each example.
        n_groups: how many groups there must be.

    Raises:
        ValueError: as `accuracy_by_group`.
    """
    return min(accuracy_by_group(predictions, targets, groups, n_groups).values())


def group_balanced_accuracy(predictions: Any, targets: Any, groups: Any, n_groups: int | None = None) -> float:
    """The plain mean of `accuracy_by_group`: each group counts the same, however many examples it has.

    Args:
        predictions: see `accuracy_by_group`, as for the others.
        targets: true classes.
        groups: of each example.
        n_groups: how many groups there must be.

    Raises:
        ValueError: as `accuracy_by_group`.
    """
    return float(np.mean(list(accuracy_by_group(predictions, targets, groups, n_groups).values())))


def adjusted_average_accuracy(
    predictions: Any, targets: Any, groups: Any, training_groups: Any, n_groups: int | None = None
) -> float:
    """The mean of `accuracy_by_group`, each group weighted by its share of the training examples.

    It is what the average accuracy would be on test examples distributed as the training examples are: the average
    accuracy that the literature on spurious features reports for Waterbirds, whose test groups are balanced (Sagawa et
    al. 2020, *Distributionally Robust Neural Networks*).

    Args:
        predictions: see `accuracy_by_group`, as for the next two.
        targets: true classes.
        groups: of each example.
        training_groups: the group of each training example, ``(n_training,)``.
        n_groups: how many groups there must be among the test examples. Training may lack some: their weight is 0.

    Raises:
        ValueError: as `accuracy_by_group`; for a training group without test examples.

    Example:
        >>> adjusted_average_accuracy([0, 1, 1], [0, 1, 0], [7, 7, 9], training_groups=[7, 7, 7, 9])
        0.75
    """
    return adjusted_mean(accuracy_by_group(predictions, targets, groups, n_groups), training_groups)


def adjusted_mean(by_group: Mapping[int, float], training_groups: Any) -> float:
    """The mean of something known of each group, an error say, weighted by the groups' shares of training examples.

    Args:
        by_group: group → value.
        training_groups: the group of each training example, ``(n_training,)``.

    Raises:
        ValueError: unless these are integers ``(n_training,)``, and some; for one of a group without a value.
    """
    training = integers("training_groups", training_groups)
    if not len(training):
        raise ValueError("training_groups must be the groups of some examples, not of none")
    found, counts = np.unique(training, return_counts=True)
    if missing := [int(group) for group in found if int(group) not in by_group]:
        raise ValueError(f"no test examples of group {missing[0]}, which training examples have")
    return float(sum(count * by_group[int(group)] for group, count in zip(found, counts, strict=True)) / len(training))


def shares(which: np.ndarray, groups: np.ndarray) -> dict[int, float]:
    """For each group, in ascending order, the share of its examples for which ``which`` ``(n,)`` is true."""
    return {int(group): float(which[groups == group].mean()) for group in np.unique(groups)}


def integers(name: str, values: Any) -> np.ndarray:
    """A tensor, array or list of integers (or truth values) as int64 ``(n,)``; ValueError for anything else."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 1 or (array.dtype.kind not in "iub" and array.size):
        raise ValueError(f"{name} must be integers (n,), not {array.dtype} {array.shape}")
    return array.astype(np.int64)


def check_groups(where: str, groups: np.ndarray, expected: Collection[int]) -> None:
    """Raise ValueError unless all of the ``expected`` groups have examples, and no others."""
    found = set(groups.tolist())
    if missing := sorted(set(expected) - found):
        plural = "groups" if len(missing) > 1 else "group"
        raise ValueError(f"no examples of {plural} {', '.join(map(str, missing))} in {where}")
    if others := sorted(found - set(expected)):
        raise ValueError(f"group {others[0]} in {where} is none of the {len(expected)}, from 0 up")
