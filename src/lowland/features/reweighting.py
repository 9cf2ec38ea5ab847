"""Deep feature reweighting: the last layer is retrained on group-balanced data."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lowland.features.examples import Examples, check_classes, given, part, require_groups, split
from lowland.features.groups import shares
from lowland.features.linear import Classifier, mean, regularization_path, standardized
from lowland.features.probing import Probe, check_settings, tested
from lowland.features.progress import watched


def deep_feature_reweighting(
    features: Any,
    targets: Any,
    groups: Any,
    *,
    test: Sequence[Any],
    penalty: str = "l1",
    resamples: int = 10,
    n_groups: int | None = None,
    Cs: Sequence[float] = (0.01, 0.03, 0.07, 0.1, 0.3, 0.7, 1.0),
    max_iter: int = 1000,
    seed: int = 0,
    show_progress: bool = True,
) -> Probe:
    """The test error after the last layer is retrained on group-balanced held-out data.

    Kirichenko, Izmailov & Wilson 2023, *Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations*,
    in the variant that retrains on validation data. The last layer is a logistic regression on standardized features.

    1. The held-out examples are split in halves at random. For each C it is fitted to a balanced subset of one half.
       The C with the lowest worst-group error on the other half is chosen. Ties are broken by the lowest log loss with
       balanced groups, then by the strongest regularization.
    2. With this C it is fitted to ``resamples`` balanced subsets of all held-out examples. The weights are averaged.

    A balanced subset has as many examples of each group as the smallest group has, drawn without replacement.
    Unlike in the paper, features are standardized by the whole set (or half) that the subset is drawn from.

    Args:
        features: of the held-out examples, ``(n, features)``; see `lowland.features.probe`.
        targets: their classes, any integers ``(n,)``.
        groups: their groups, any integers ``(n,)``: usually class and spurious feature together.
        test: ``(features, targets, groups)`` of the test examples.
        penalty: ``"l1"``, as in the paper, or ``"l2"``.
        resamples: number of balanced subsets whose weights are averaged.
        n_groups: if given, groups are 0, …, ``n_groups`` − 1; otherwise those that occur in any of the sets.
        Cs: the values of C to choose from, by default the paper's; see `lowland.features.Probe`.
        max_iter: most iterations of the optimizer for each fit.
        seed: of the random halves and subsets.
        show_progress: whether to show a bar over the fits on a terminal, after two seconds.

    Returns:
        The test errors. Their ``validation_error`` is that of the worst group.

    Raises:
        TypeError: if ``test`` has another form.
        ValueError: as `lowland.features.probe`; for a group without test examples, or with fewer than two held-out
            examples; if a class is missing from a balanced subset; for an unknown penalty.
    """
    Cs = check_settings(Cs, max_iter)
    if penalty not in ("l1", "l2"):
        raise ValueError(f'penalty must be "l1" or "l2", not {penalty!r}')
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    random = np.random.default_rng(seed)
    held_out, test_part = part("the held-out set", features, targets, groups), given("the test set", test)
    check_classes(held_out, [test_part])
    require_groups([held_out, test_part], n_groups)
    halves = split(held_out, 0.5, random, ("half of the held-out set", "the other half of the held-out set"))
    require_groups(halves, n_groups)

    def fits(whole: Examples, Cs: Sequence[float]) -> Iterator[tuple[float, Classifier]]:
        subset = whole.balanced_subset(random)
        if len(np.unique(subset.targets)) < len(np.unique(held_out.targets)):
            raise ValueError(f"{subset.name} lacks a class: make groups of class and spurious feature together")
        return regularization_path(subset, Cs, penalty=penalty, max_iter=max_iter, seed=seed)

    fitted, chosen_by = standardized(*halves)
    counting = chosen_by.balanced_weights()
    choices = []
    with watched(fits(fitted, Cs), "choosing C", show_progress) as path:
        for C, classifier in path:
            wrong = classifier.predict(chosen_by) != chosen_by.targets
            loss = np.average(classifier.log_losses(chosen_by), weights=counting)
            choices.append((max(shares(wrong, chosen_by.labels).values()), float(loss), C))
    validation_error, _, C = min(choices)
    held_out, test_part = standardized(held_out, test_part)
    with watched(range(resamples), "retraining", show_progress) as each:
        retrained = mean([classifier for _ in each for _, classifier in fits(held_out, [C])])
    return tested(retrained, test_part, validation_error, C)
