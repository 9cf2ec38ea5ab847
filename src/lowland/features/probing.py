"""Probes: how much of a feature a linear classifier can read from frozen activations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowland.features.examples import Examples, check_classes, given, part, require_groups, split
from lowland.features.groups import shares
from lowland.features.linear import Classifier, in_their_span, regularization_path, standardized
from lowland.features.progress import watched


@dataclass(frozen=True)
class Probe:
    """What a probe gets wrong.

    Attributes:
        error: share of the test examples that are predicted wrong.
        interval: around it, 95 %, by Wilson's formula: how far the error on all examples there could be may lie from
            that on this sample of them. It doesn't cover another training set.
        error_by_group: the same of each group of test examples; None if the test set came without groups.
        validation_error: by which C was chosen; lowest among ``Cs``, so a little too good.
        C: the regularization chosen, as scikit-learn has it: the loss is C times the sum of the examples' losses, plus
            ½‖weight‖² (L2) or ‖weight‖₁ (L1).
        converged: whether the optimizer was done within ``max_iter`` at that C.
    """

    error: float
    interval: tuple[float, float]
    error_by_group: dict[int, float] | None
    validation_error: float
    C: float
    converged: bool

    @property
    def worst_group_error(self) -> float | None:
        """The highest error of a group."""
        return None if self.error_by_group is None else max(self.error_by_group.values())

    @property
    def group_balanced_error(self) -> float | None:
        """The plain mean of the groups' errors."""
        return None if self.error_by_group is None else float(np.mean(list(self.error_by_group.values())))


def probe(
    features: Any,
    targets: Any,
    groups: Any = None,
    *,
    test: Sequence[Any],
    validation: Sequence[Any] | float = 0.1,
    balanced: bool = False,
    n_groups: int | None = None,
    Cs: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
    max_iter: int = 1000,
    seed: int = 0,
    show_progress: bool = True,
) -> Probe:
    """The test error of logistic regression on frozen features: binary, or multinomial for more classes.

    The probing error of Springer et al. 2024, if ``targets`` are one feature of the data (the digit, say, or the object
    below it) and the examples such that the features are independent of each other.

    Features are standardized by means and standard deviations of the training examples. With L2 regularization, the
    classifier is fitted to these for each of ``Cs``. The one with the lowest error on the validation examples is
    tested as it is; of equal ones, that with the lowest log loss there, then the most regularized. The test set takes
    no part in any choice.

    Args:
        features: of the training examples, ``(n, features)``, as from `lowland.features.extract`; a tensor on any
            device or an array. Computed in float64 if they are, otherwise in float32.
        targets: their classes, any integers ``(n,)``.
        groups: their groups, any integers ``(n,)``; needed only if ``balanced``.
        test: ``(features, targets)`` or ``(features, targets, groups)`` of the test examples.
        validation: the same of the validation examples; or the fraction of the training examples that is held out
            for it, at random within each class and group.
        balanced: whether all groups count the same, in the fit and in the choice of C: each example by one over the
            size of its group.
        n_groups: if given, groups are 0, …, ``n_groups`` − 1; otherwise those that occur in any of the sets.
        Cs: to choose from; see `Probe`.
        max_iter: most iterations of L-BFGS for each.
        seed: of the fraction held out.
        show_progress: whether there is a bar over ``Cs``, on a terminal, after two seconds.

    Raises:
        TypeError: if ``test`` or ``validation`` is of another form.
        ValueError: for training examples of one class; a class that they lack; features that are NaN, infinite or not
            as many; lengths that differ; targets or groups that aren't integers; a group without test examples, or if
            ``balanced`` without training or validation examples; arguments out of range.

    Example:
        >>> import torch
        >>> y = torch.arange(100) % 2
        >>> x = torch.stack([y + 0.1, -2.0 * y], 1)
        >>> found = probe(x, y, test=(x, y))
        >>> found.error, [round(end, 3) for end in found.interval]
        (0.0, [0.0, 0.037])
    """
    Cs = check_settings(Cs, max_iter)
    train, test_part = part("the training set", features, targets, groups), given("the test set", test)
    if isinstance(validation, int | float):
        names = train.name, "the part held out for validation"
        fitted, chosen_by = split(train, validation, np.random.default_rng(seed), names)
    else:
        fitted, chosen_by = train, given("the validation set", validation)
    check_classes(fitted, (chosen_by, test_part))
    needed = [each for each in (fitted, chosen_by) if balanced] + [test_part] * (test_part.groups is not None)
    require_groups(needed, n_groups, others=[train])

    fitted, chosen_by, test_part = in_their_span(*standardized(fitted, chosen_by, test_part))
    weights = fitted.balanced_weights() if balanced else None
    counting = chosen_by.balanced_weights() if balanced else None
    best: tuple[tuple[float, float], float, Classifier] | None = None
    path = regularization_path(fitted, Cs, penalty="l2", weights=weights, max_iter=max_iter, seed=seed)
    with watched(path, "probing", show_progress) as fits:
        for C, classifier in fits:
            error = np.average(classifier.predict(chosen_by) != chosen_by.targets, weights=counting)
            key = float(error), float(np.average(classifier.log_losses(chosen_by), weights=counting))
            if best is None or key < best[0]:
                best = key, C, classifier
    assert best is not None
    (error, _), C, classifier = best
    return tested(classifier, test_part, error, C)


def tested(classifier: Classifier, test: Examples, validation_error: float, C: float) -> Probe:
    """The errors on test examples, their features standardized."""
    wrong = classifier.predict(test) != test.targets
    return Probe(
        error=float(wrong.mean()),
        interval=wilson(int(wrong.sum()), len(wrong)),
        error_by_group=None if test.groups is None else shares(wrong, test.groups),
        validation_error=validation_error,
        C=C,
        converged=classifier.converged,
    )


def wilson(wrong: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of which ``wrong`` of ``n`` independent examples are a sample.

    Wilson 1927, *Probable inference, the law of succession, and statistical inference*: all shares p whose distance
    to wrong/n is within 1.96 √(p (1 − p)/n).

    Raises:
        ValueError: unless 0 ≤ ``wrong`` ≤ ``n``, n > 0.

    Example:
        >>> [round(end, 4) for end in wilson(5, 10)]
        [0.2366, 0.7634]
    """
    if not 0 <= wrong <= n or n == 0:
        raise ValueError(f"between none and all of at least one example are wrong: not {wrong} of {n}")
    from scipy.stats import binomtest  # here, because importing it takes a second

    found = binomtest(int(wrong), int(n)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def check_settings(Cs: Sequence[float], max_iter: int) -> list[float]:
    """``Cs`` in ascending order; ValueError for numbers out of range."""
    if not len(Cs) or not all(0 < C < math.inf for C in Cs):
        raise ValueError(f"Cs must be at least one number, all finite and above 0: not {Cs!r}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1, not {max_iter}")
    return sorted(map(float, Cs))
