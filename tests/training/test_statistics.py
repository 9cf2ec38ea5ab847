"""Statistics over seeds against scipy's and numpy's."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lowland.training.statistics import Estimate, estimate, paired_difference

# Of a size whose square a float64 holds; ours needs none, but numpy's does.
sizes = st.floats(min_value=1e-100, max_value=1e150)
numbers = st.one_of(st.just(0.0), sizes, sizes.map(lambda size: -size))


def test_known_values():
    assert estimate([1, 2, 3]) == Estimate(2.0, pytest.approx(1 / 3**0.5), 3)
    assert estimate([True, False]) == Estimate(0.5, 0.5, 2)
    assert estimate([0.1] * 7) == Estimate(0.1, 0.0, 7)
    assert estimate([]) is None


def test_one_value_has_no_error_and_no_interval():
    one = estimate([3.0])
    assert one == Estimate(3.0, None, 1)
    assert one.interval is None
    assert one.entry(interval=True) == {"mean": 3.0, "standard_error": None, "interval_95": None, "n": 1}


def test_values_without_scatter_have_no_interval_and_no_p():
    """Not p = 8e-16, which two differences that are equal but for rounding would give."""
    rounded = paired_difference({0: 0.05, 1: 0.06}, {0: 0.04, 1: 0.05})
    assert 0.05 - 0.04 != 0.06 - 0.05
    for found in (estimate([0.1] * 7), estimate([0.3, 0.1 + 0.2]), rounded):
        assert (found.standard_error, found.interval, found.p, found.side) == (0.0, None, None, None)
        assert found.lacks == f"{found.n} seeds that give the same say nothing of the scatter between seeds"
        assert found.band == (found.mean, found.mean)
    assert estimate([0.1]).lacks.startswith("one seed says nothing")
    assert estimate([0.1]).band is None


def test_a_side_is_that_of_the_whole_interval():
    assert estimate([-1.0, -1.1, -0.9]).side == "below"
    assert estimate([1.0, 1.1, 0.9]).side == "above"
    assert estimate([-1.0, 1.1, 0.9]).side is None
    assert estimate([1.0, 1.1, 0.9]).lacks == ""


@given(st.lists(numbers, min_size=2, max_size=20))
def test_as_numpy_and_scipy_have_it(values):
    got = estimate(values)
    scale = max(map(abs, values))
    assert got.n == len(values)
    assert got.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12 * scale)
    assert got.standard_error == pytest.approx(scipy.stats.sem(values), rel=1e-9, abs=1e-9 * scale)
    assert min(values) <= got.mean <= max(values)
    if got.standard_error > 0:
        wanted = scipy.stats.t.interval(0.95, len(values) - 1, loc=got.mean, scale=got.standard_error)
        assert got.interval == pytest.approx(wanted, rel=1e-12, abs=1e-12 * scale)


@given(st.lists(numbers, min_size=1, max_size=10), st.randoms())
def test_the_order_of_seeds_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert estimate(shuffled) == estimate(values)


def test_differences_are_of_the_seeds_that_both_have():
    first, second = {0: 1.0, 1: 5.0, 2: 9.0}, {2: 8.5, 1: 4.0, 7: 100.0}
    assert paired_difference(first, second) == Estimate(0.75, pytest.approx(0.25), 2)
    assert paired_difference(first, {3: 1.0}) is None


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12))
def test_a_paired_difference_has_the_interval_of_a_paired_test(pairs):
    first, second = (dict(enumerate(column)) for column in zip(*pairs, strict=True))
    got = paired_difference(first, second)
    differences = np.subtract(*np.array(pairs).T)
    assert got.mean == pytest.approx(differences.mean(), rel=1e-12, abs=1e-12 * np.abs(differences).max())
    if differences.std() > 1e-9 * max(np.abs(differences).max(), np.abs(pairs).max()):
        wanted = scipy.stats.ttest_rel(list(first.values()), list(second.values())).confidence_interval(0.95)
        assert got.interval == pytest.approx(tuple(wanted), rel=1e-6, abs=1e-9 * np.abs(differences).max())
