"""Deep feature reweighting: the last layer trained again on data in which the groups are balanced."""

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
    C is chosen on a random half of the held-out examples, by the lowest worst-group error (ties: the lowest log loss
    with balanced groups, then the most regularized) of a fit to a balanced subset of the other half. Then the weights
    are the mean of those fitted to ``resamples`` balanced subsets of all held-out examples. A balanced subset has as
    many examples of each group as the smallest one, drawn without replacement.

    Ours: features are standardized by all examples that are fitted from, the half or the whole, whatever the subset.

    Args:
        features: of the held-out examples, ``(n, features)``; see `lowland.features.probe`.
        targets: their classes, any integers ``(n,)``.
        groups: their groups, any integers ``(n,)``: usually class and spurious feature together.
        test: ``(features, targets, groups)`` of the test examples.
        penalty: ``"l1"``, as in the paper, or ``"l2"``.
        resamples: balanced subsets whose weights are averaged.
        n_groups: if given, groups are 0, …, ``n_groups`` − 1; otherwise those that occur in any of the sets.
        Cs: to choose from; see `lowland.features.Probe`. By default the paper's.
        max_iter: most iterations of the optimizer for each fit.
        seed: of the half and the subsets.
        show_progress: whether there is a bar over the fits, on a terminal, after two seconds.

    Returns:
        Its ``validation_error`` is the worst group's.

    Raises:
        TypeError: if ``test`` is of another form.
        ValueError: as `lowland.features.probe`; for a group without held-out or test examples, or with a single
            held-out one; if a class is missing from a balanced subset; for an unknown penalty.
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
