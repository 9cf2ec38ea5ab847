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
    """The errors of a probe.

    Attributes:
        error: share of the test examples that are misclassified.
        interval: its 95 % interval by Wilson's formula. It covers the sampling of test examples, not that of training
            examples.
        error_by_group: the error in each group of test examples; None if the test set has no groups.
        validation_error: the error by which C was chosen. As the lowest among ``Cs`` it is biased downwards.
        C: the chosen regularization, as in scikit-learn: the loss is C times the sum of the examples' losses, plus
            ½‖weight‖² (L2) or ‖weight‖₁ (L1).
        converged: whether the optimizer converged within ``max_iter`` at that C.
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

    This is the probing error of Springer et al. 2024 if ``targets`` are one feature of the data (the digit, or the
    object below it) and the features are independent of each other in the examples.

    Features are standardized by means and standard deviations of the training examples. The classifier is fitted to
    these with L2 regularization for each of ``Cs``. The one with the lowest validation error is tested, without
    refitting. Ties are broken by the lowest validation log loss, then by the strongest regularization. The test set
    has no influence on any choice.

    Args:
        features: of the training examples, ``(n, features)``, as from `lowland.features.extract`; a tensor on any
            device or an array. float64 features are computed with in float64, others in float32.
        targets: classes of the training examples, any integers ``(n,)``.
        groups: groups of the training examples, any integers ``(n,)``; needed only if ``balanced``.
        test: ``(features, targets)`` or ``(features, targets, groups)`` of the test examples.
        validation: the same for the validation examples; or the fraction of the training examples to hold out for it,
            at random within each class and group.
        balanced: whether all groups count the same, in the fit and in the choice of C: each example is weighted by one
            over the size of its group.
        n_groups: if given, groups are 0, …, ``n_groups`` − 1; otherwise those that occur in any of the sets.
        Cs: the values of C to choose from; see `Probe`.
        max_iter: most iterations of L-BFGS for each C.
        seed: of the random hold-out.
        show_progress: whether to show a bar over ``Cs`` on a terminal, after two seconds.

    Raises:
        TypeError: if ``test`` or ``validation`` has another form.
        ValueError: for training examples of a single class, or without a class of the other sets; features that are
            not finite or differ in number; lengths that differ; targets or groups that aren't integers; a group without
            test examples, or if ``balanced`` without training or validation examples; arguments out of range.

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
    """The errors of ``classifier`` on test examples with standardized features."""
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
    """The 95 % confidence interval of an error rate, when ``wrong`` of ``n`` independent examples are misclassified.

    Wilson 1927, *Probable inference, the law of succession, and statistical inference*: all rates p whose distance
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
