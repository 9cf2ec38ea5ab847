"""Deep feature reweighting where the best classifier of balanced groups is known, and piece by piece."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from lowland.features import deep_feature_reweighting, probe
from lowland.features.examples import part, split
from lowland.features.linear import Classifier, mean, regularization_path


def spurious(sizes, seed, classes=2, distance=3.0):
    """Groups 2·class + background: weak evidence of the class in a coordinate of its own, strong one of the other."""
    random = np.random.default_rng(seed)
    g = np.repeat(np.arange(2 * classes), sizes)
    y, background = g // 2, g % 2
    signal = np.eye(classes)[y] * distance
    x = random.standard_normal((len(g), classes + 1)) + np.hstack([signal, 4.0 * (2 * background[:, None] - 1)])
    return x, y, g


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_what_is_spurious_is_not_used(penalty):
    held_out, test = spurious((600, 60, 60, 600), 0), spurious((500,) * 4, 1)
    found = deep_feature_reweighting(*held_out, test=test, penalty=penalty)
    best = math.erfc(3 / math.sqrt(2) / math.sqrt(2)) / 2  # Φ(−d/2), d = 3√2 the distance of the means
    assert found.interval[0] < best < found.interval[1]
    assert found.worst_group_error < 0.06
    assert found.worst_group_error < probe(*held_out, test=test).worst_group_error / 2
    assert found.converged
    assert found == deep_feature_reweighting(*held_out, test=test, penalty=penalty)


def test_is_the_procedure_of_the_paper():
    """Written out with scikit-learn; the draws are those that are tested by themselves."""
    Cs = (0.001, 0.03, 1.0)
    (x, y, g), (x_test, y_test, g_test) = (
        spurious(sizes, seed, distance=1.5) for seed, sizes in enumerate([(100, 30, 30, 100), (200,) * 4])
    )
    random = np.random.default_rng(4)
    x, x_test = (np.hstack([a, random.standard_normal((len(a), 37))]) * np.arange(1, 41) + 5 for a in (x, x_test))
    random = np.random.default_rng(4)
    first, second = split(part("", x, y, g), 0.5, random, ("", ""))

    def worst(wrong, groups):
        return max(wrong[groups == group].mean() for group in range(4))

    mean_x, std = first.features.mean(0), first.features.std(0)
    subset = first.balanced_subset(random)
    errors = {}
    for C in Cs:
        model = LogisticRegression(C=C, tol=1e-8).fit((subset.features - mean_x) / std, subset.targets)
        errors[C] = worst(model.predict((second.features - mean_x) / std) != second.targets, second.groups)
    assert len({*errors.values()}) == 3  # no ties
    C = min(Cs, key=lambda C: errors[C])
    mean_x, std = x.mean(0), x.std(0)
    w, b = np.zeros(40), 0.0
    for _ in range(4):
        subset = part("", x, y, g).balanced_subset(random)
        model = LogisticRegression(C=C, tol=1e-8).fit((subset.features - mean_x) / std, subset.targets)
        w, b = w + model.coef_[0] / 4, b + model.intercept_[0] / 4
    wrong = ((x_test - mean_x) / std @ w + b > 0) != y_test
    found = deep_feature_reweighting(
        x, y, g, test=(x_test, y_test, g_test), penalty="l2", Cs=Cs, resamples=4, seed=4
    )  # fmt: skip
    assert found.C == C
    assert found.validation_error == pytest.approx(errors[C])
    assert found.error == pytest.approx(wrong.mean(), abs=0.002)
    assert found.worst_group_error == pytest.approx(worst(wrong, g_test), abs=0.006)


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_more_classes(penalty):
    held_out, test = spurious((200, 30, 30, 200, 100, 100), 0, classes=3), spurious((300,) * 6, 1, classes=3)
    found = deep_feature_reweighting(*held_out, test=test, penalty=penalty, resamples=3)
    nearest = (test[0][:, :3].argmax(1) != test[1]).mean()
    assert found.error == pytest.approx(nearest, abs=0.015)
    assert list(found.error_by_group) == list(range(6))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 5))
def test_balanced_subset(sizes, seed):
    g = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    whole = part("", np.arange(len(g), dtype=float)[:, None], g, g - 2)
    drawn = whole.balanced_subset(np.random.default_rng(seed))
    chosen = drawn.features[:, 0].astype(int)
    assert len(set(chosen)) == len(chosen) == len(sizes) * min(sizes)
    assert (drawn.groups == g[chosen] - 2).all()
    assert (np.bincount(drawn.targets) == min(sizes)).all()


def test_lasso_path():
    """Stronger L1 leaves fewer weights, and none below the C where the gradient at 0 is within the ball."""
    x, y, _ = spurious((50,) * 4, 0)
    x = np.hstack([x, np.random.default_rng(1).standard_normal((200, 10))])
    data = part("", x - x.mean(0), y)
    # At weight 0 and the bias of balanced classes, |gradient| is |Σ (1/2 − y) x|: weights stay 0 while C times it ≤ 1.
    critical = 1 / np.abs((0.5 - y) @ data.features).max()
    Cs = [0.9 * critical, 1.5 * critical, 100 * critical]
    path = dict(regularization_path(data, Cs, penalty="l1", max_iter=1000, seed=0))
    counts = [np.count_nonzero(path[C].weight) for C in Cs]
    assert counts[0] == 0
    assert 0 < counts[1] < counts[2]


@pytest.mark.parametrize("classes", [2, 3])
def test_ridge_path_is_the_minimum(classes):
    x, y, _ = spurious((20,) * (2 * classes), 0, classes)
    for C, found in regularization_path(part("", x, y), [0.01, 1.0], penalty="l2", max_iter=1000, seed=0):
        expected = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(x, y)
        assert found.weight == pytest.approx(expected.coef_, abs=5e-3)


def test_mean():
    classes = np.array([0, 1])
    pair = [Classifier(classes, np.array([[a, 1.0]]), np.array([b]), a > 1) for a, b in ((1.0, 4.0), (3.0, 0.0))]
    found = mean(pair)
    assert found.weight.tolist() == [[2.0, 1.0]]
    assert found.bias.tolist() == [2.0]
    assert not found.converged
    assert mean(pair[1:]).converged


X, Y, G = spurious((10,) * 4, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"penalty": "l3"}, "penalty must be"),
        ({"resamples": 0}, "resamples"),
        ({"n_groups": 5}, "no examples of group 4 in the held-out set"),
        ({"test": (X, Y)}, "the test set needs groups"),
        ({"test": (X[:30], Y[:30], G[:30])}, "no examples of group 3 in the test set"),
        ({"groups": np.r_[4, G[1:]]}, "no examples of group 4 in the test set"),
        ({"targets": Y * 0}, "the held-out set has one class only, 0"),
        ({"features": X * np.inf}, "NaN or infinite in 40 of 40"),
        ({"Cs": [-1.0]}, "Cs"),
    ],
)
def test_refusals(change, says):
    with pytest.raises(ValueError, match=says):
        deep_feature_reweighting(**{"features": X, "targets": Y, "groups": G, "test": (X, Y, G)} | change)


def test_a_group_too_small_to_halve():
    g = np.r_[4, G[1:]]
    with pytest.raises(ValueError, match="no examples of group 4 in the other half of the held-out set"):
        deep_feature_reweighting(X, Y, g, test=(X, Y, g))


def test_a_subset_that_lost_a_class():
    """One group of all backgrounds and classes, and two examples of a second: the subset holds one example of each."""
    x, y = np.random.default_rng(0).standard_normal((42, 2)), np.r_[np.zeros(38, int), 1, 1, 0, 0]
    g = np.r_[np.zeros(40, int), 1, 1]
    with pytest.raises(ValueError, match="lacks a class"):
        deep_feature_reweighting(x, y, g, test=(x, y, g))
