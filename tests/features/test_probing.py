"""Probes of data whose Bayes error is known, and that nothing but the training and validation examples is chosen by."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from lowland.features import probe, wilson
from lowland.features.examples import part, split
from lowland.features.linear import Classifier, in_their_span


def gaussians(n, gap, seed, d=4):
    """Two classes of unit variance with means ±gap along the first axis: the best error is Φ(−gap)."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, n)
    x = random.standard_normal((n, d))
    x[:, 0] += gap * (2 * y - 1)
    return x, y


def spurious(sizes, seed):
    """Groups 0 to 3 = 2·class + background: weak evidence of the class, strong one of the background."""
    random = np.random.default_rng(seed)
    g = np.repeat(np.arange(4), sizes)
    y, background = g // 2, g % 2
    x = random.standard_normal((len(g), 2)) + np.stack([1.5 * (2 * y - 1), 4.0 * (2 * background - 1)], 1)
    return x, y, g


@pytest.mark.parametrize("kind", [torch.from_numpy, lambda x: torch.from_numpy(x).bfloat16(), np.float32])
def test_separable(kind):
    (x, y), (x_test, y_test) = gaussians(100, 20, 0), gaussians(50, 20, 1)
    found = probe(kind(x), torch.from_numpy(y), test=(kind(x_test), list(y_test)))
    assert found.error == found.validation_error == 0
    assert found.interval == pytest.approx((0, 1.96**2 / (50 + 1.96**2)), abs=1e-5)
    assert found.C == 10  # none of them errs, so the surest
    assert found.error_by_group is found.worst_group_error is found.group_balanced_error is None


@pytest.mark.parametrize("gap", [0.0, 1.5])
def test_bayes_error(gap):
    found = probe(*gaussians(4000, gap, 0), test=gaussians(4000, gap, 1))
    low, high = found.interval
    assert low < math.erfc(gap / math.sqrt(2)) / 2 < high
    assert high - low < 0.04
    assert found.converged


def test_the_interval_covers():
    """19 times in 20, of classifiers that are as good as the best."""
    intervals = [probe(*gaussians(2000, 0.5, 2 * s), test=gaussians(300, 0.5, 2 * s + 1)).interval for s in range(40)]
    best = math.erfc(0.5 / math.sqrt(2)) / 2
    assert 35 <= sum(low < best < high for low, high in intervals) < 40


def test_more_than_two_classes():
    """At the corners of an equilateral triangle, where the boundaries are known."""
    random = np.random.default_rng(0)
    y = np.array([-5, 0, 9])[random.integers(0, 3, 6000)]
    angle = 2 * math.pi * np.searchsorted([-5, 0, 9], y) / 3
    x = 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + random.standard_normal((6000, 2))
    nearest = (x[3000:] @ np.stack([[math.cos(a), math.sin(a)] for a in 2 * math.pi * np.arange(3) / 3], 1)).argmax(1)
    best = (np.array([-5, 0, 9])[nearest] != y[3000:]).mean()
    found = probe(x[:3000], y[:3000], test=(x[3000:], y[3000:]))
    assert found.interval[0] < best < found.interval[1]
    assert found.error == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("classes", [2, 3])
def test_more_features_than_examples(classes):
    random = np.random.default_rng(0)
    x, y = random.standard_normal((90, 400)), np.arange(90) % classes
    x[:, 0] += y
    sets = [part("part", x[i : i + 30], y[i : i + 30], None) for i in (0, 30, 60)]
    reduced = in_their_span(*sets)
    assert reduced[0].features.shape == (30, 30)
    whole, small = (
        LogisticRegression(tol=1e-10, max_iter=10_000).fit(parts[0].features, parts[0].targets)
        for parts in (sets, reduced)
    )
    for full, few in zip(sets, reduced, strict=True):
        expected = whole.decision_function(full.features)
        np.testing.assert_allclose(small.decision_function(few.features), expected, atol=1e-6)


def test_is_scikit_learn_on_standardized_features():
    (x, y), test, validation = gaussians(60, 0.5, 0, d=30), gaussians(500, 0.5, 1, d=30), gaussians(200, 0.5, 2, d=30)
    x = x * np.arange(1, 31) + 7
    test, validation = [(a * np.arange(1, 31) + 7, b) for a, b in (test, validation)]
    mean, std = x.mean(0), x.std(0)
    by_C = {}
    for C in (1e-4, 1e-2, 1.0):
        model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit((x - mean) / std, y)
        wrong = [(model.predict((a - mean) / std) != b).mean() for a, b in (validation, test)]
        by_C[C] = *wrong, model
    C = min(by_C, key=lambda C: by_C[C][0])
    assert len({errors[0] for errors in by_C.values()}) == 3  # no ties
    found = probe(x, y, test=test, validation=validation, Cs=(1.0, 1e-4, 1e-2))
    assert found.C == C
    assert found.validation_error == pytest.approx(by_C[C][0])
    assert found.error == pytest.approx(by_C[C][1], abs=0.003)


def test_the_test_set_takes_no_part():
    train, test = gaussians(300, 0.3, 0), gaussians(300, 0.3, 1)
    found = probe(*train, test=test)
    turned = probe(*train, test=(5 - test[0], 1 - test[1]))
    assert (turned.C, turned.validation_error) == (found.C, found.validation_error)
    doubled = probe(*train, test=(np.concatenate([test[0]] * 2), np.concatenate([test[1]] * 2)))
    assert doubled.error == found.error


def test_seed():
    data, test = gaussians(300, 0.3, 0), gaussians(300, 0.3, 1)
    assert probe(*data, test=test, seed=1) == probe(*data, test=test, seed=1)
    assert probe(*data, test=test, seed=1).validation_error != probe(*data, test=test, seed=3).validation_error


def test_groups_and_balance():
    x, y, g = spurious((900, 40, 40, 900), 0)
    test = spurious((500, 500, 500, 500), 1)
    plain, balanced = probe(x, y, g, test=test), probe(x, y, g, test=test, balanced=True)
    assert list(plain.error_by_group) == [0, 1, 2, 3]
    assert plain.group_balanced_error == pytest.approx(plain.error)  # the test groups are equal in size
    assert plain.worst_group_error == max(plain.error_by_group.values())
    # The background tells most of the unbalanced class; balanced, it tells nothing, and Φ(−1.5) is left.
    assert plain.worst_group_error > 0.15
    assert balanced.interval[0] < math.erfc(1.5 / math.sqrt(2)) / 2 < balanced.interval[1]
    assert balanced.worst_group_error < 0.1


def test_balanced_is_each_group_as_often():
    x, y, g = spurious((60, 30, 30, 60), 0)
    test, validation = spurious((50, 50, 50, 50), 1), spurious((30, 30, 30, 30), 2)
    repeated = np.concatenate([np.arange(180), np.flatnonzero((g == 1) | (g == 2))])
    # Weights of mean 1, standardized alike: the same objective, C being by the number of examples.
    x = (x - x.mean(0)) / x.std(0)
    model = LogisticRegression(C=1.0 * 180 / 240, tol=1e-8).fit(x[repeated], y[repeated])
    found = probe(x, y, g, test=test, validation=validation, balanced=True, Cs=[1.0])
    assert found.error == pytest.approx((model.predict(test[0]) != test[1]).mean(), abs=0.005)
    assert part("", x, y, g).balanced_weights() == pytest.approx(np.where((g == 1) | (g == 2), 1.5, 0.75))


def test_balanced_choice():
    """C is chosen by the error with balanced groups, which is another than the lowest plain one."""
    train, validation = spurious((300, 20, 20, 300), 0), spurious((3000, 50, 50, 3000), 2)
    chosen = {}
    Cs = (1e-4, 1e-2, 10.0)
    for C in Cs:
        found = probe(*train, test=validation, validation=validation, balanced=True, Cs=[C])
        assert found.validation_error == pytest.approx(found.group_balanced_error)
        chosen[C] = found
    best = probe(*train, test=validation, validation=validation, balanced=True, Cs=Cs)
    assert best == min(chosen.values(), key=lambda found: found.group_balanced_error)
    assert best != min(chosen.values(), key=lambda found: found.error)


def test_constant_features_are_harmless():
    x, y = gaussians(300, 1.5, 0)
    x_test, y_test = gaussians(300, 1.5, 1)
    constant, other = np.full((300, 1), 3.0), np.full((300, 1), 4.0)
    found = probe(np.hstack([x, constant]), y, test=(np.hstack([x_test, other]), y_test))
    assert found.error == probe(x, y, test=(x_test, y_test)).error


def test_not_converged_is_said_and_not_warned_of(recwarn):
    found = probe(*gaussians(300, 0.3, 0), test=gaussians(300, 0.3, 1), Cs=[10.0], max_iter=1)
    assert not found.converged
    assert not [warning for warning in recwarn if issubclass(warning.category, ConvergenceWarning)]


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 0.95), st.integers(0, 3))
def test_split_holds_the_fraction_of_each_class_out(first, second, fraction, seed):
    y = np.repeat([3, 8], [first, second])
    whole = part("the training set", np.arange(len(y), dtype=float)[:, None], y)
    counts = [round(fraction * first), round(fraction * second)]
    random = np.random.default_rng(seed)
    if sum(counts) == 0:
        with pytest.raises(ValueError, match="the training set is too small"):
            split(whole, fraction, random, ("", ""))
        return
    rest, out = split(whole, fraction, random, ("", ""))
    assert [(out.targets == label).sum() for label in (3, 8)] == counts
    assert sorted([*rest.features[:, 0], *out.features[:, 0]]) == list(range(len(y)))
    for each in (rest, out):
        assert (y[each.features[:, 0].astype(int)] == each.targets).all()


@settings(deadline=None)  # the first loads scipy.stats
@given(st.integers(1, 500), st.data())
def test_wilson_is_the_score_interval(n, drawn):
    wrong = drawn.draw(st.integers(0, n))
    share, (low, high) = wrong / n, wilson(wrong, n)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), abs=1e-6)
    assert low == pytest.approx(1 - wilson(n - wrong, n)[1])


def test_log_losses():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((6, 3)), np.array([2, 7, 7, 2, 4, 4])
    weight, bias = random.standard_normal((3, 3)), random.standard_normal(3)
    three = Classifier(np.array([2, 4, 7]), weight, bias, True)
    logits = torch.from_numpy(x @ weight.T + bias)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 2, 0, 1, 1]), reduction="none")
    assert three.log_losses(part("", x, y)) == pytest.approx(expected.numpy())
    assert (three.predict(part("", x, y)) == np.array([2, 4, 7])[logits.argmax(1)]).all()
    far = Classifier(np.array([2, 4, 7]), 0 * weight, np.array([0.0, 5000.0, 5001.0]), True)
    assert far.log_losses(part("", x[:1], [2])) == pytest.approx([5001 + math.log1p(math.exp(-1))])
    two = Classifier(np.array([2, 7]), weight[:1], bias[:1], True)
    z = x @ weight[0] + bias[0]
    assert two.log_losses(part("", x, np.full(6, 7))) == pytest.approx(np.log1p(np.exp(-z)))
    assert two.log_losses(part("", x, np.full(6, 2))) == pytest.approx(np.log1p(np.exp(z)))


X, Y = np.arange(1.0, 41).reshape(20, 2), np.arange(20) % 2
NAN = np.where(X == 6, np.nan, X)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((X, Y * 0), {}, "the training set has one class only, 0"),
        ((NAN, Y), {}, "features of the training set are NaN or infinite in 1 of 20"),
        ((X, Y), {"test": (X * np.inf, Y)}, "features of the test set are NaN or infinite in 20 of 20"),
        ((X, Y[:19]), {}, "the training set has 20 examples and 19 targets"),
        ((X, Y), {"test": (X, Y, Y[:3])}, "the test set has 20 examples and 3 groups"),
        ((X[:, 0], Y), {}, r"must be \(n, features\), neither of them 0, not \(20,\)"),
        ((X[:0], Y[:0]), {}, r"not \(0, 2\)"),
        ((X, Y / 2), {}, r"targets of the training set must be integers \(n,\), not float64 \(20,\)"),
        ((X, Y), {"test": (X[:, :1], Y)}, "the test set has 1 features, the training set 2"),
        ((X, Y), {"test": (X, Y + 1)}, "class 2 of the test set doesn't occur in the training set"),
        ((X, Y), {"validation": (X, Y + 1)}, "class 2 of the validation set doesn't occur in the training set"),
        ((X, Y), {"validation": 1.0}, "between 0 and 1, not 1.0"),
        ((X[:4], Y[:4]), {}, "the training set is too small to hold 0.1 of each class out: 4 examples"),
        ((X, Y), {"balanced": True}, "the training set needs groups"),
        ((X, Y, Y), {"balanced": True, "validation": (X, Y)}, "the validation set needs groups"),
        ((X, Y, Y), {"balanced": True, "n_groups": 3}, "no examples of group 2 in the training set"),
        ((X, Y), {"test": (X, Y, Y), "n_groups": 4}, "no examples of groups 2, 3 in the test set"),
        ((X, Y), {"test": (X, Y, Y + 1), "n_groups": 2}, "no examples of group 0 in the test set"),
        ((X, Y, Y), {"test": (X, Y, Y * 0)}, "no examples of group 1 in the test set"),
        ((X, Y), {"Cs": []}, "at least one number"),
        ((X, Y), {"Cs": [1.0, 0.0]}, "above 0"),
        ((X, Y), {"max_iter": 0}, "max_iter"),
    ],
)
def test_refusals(arguments, options, says):
    with pytest.raises(ValueError, match=says) as error:
        probe(*arguments, **{"test": (X, Y)} | options)
    assert "\n" not in str(error.value)


def test_refused_forms():
    with pytest.raises(TypeError, match=r"the test set is given as \(features, targets\)"):
        probe(X, Y, test=X)
    with pytest.raises(TypeError, match="the validation set is given as"):
        probe(X, Y, test=(X, Y), validation=[X])
    with pytest.raises(ValueError, match="not 3 of 2"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="not 0 of 0"):
        wilson(0, 0)
