"""Breakpoints, slopes and kinks of functions made by hand and at random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.papers.andriushchenko2022.relu_network import relu_function


def function(*units, low=-1.0, high=1.0):
    """Of units (w, b, a)."""
    w, b, a = (np.array(part, dtype=np.float64) for part in zip(*units, strict=True))
    return relu_function(w, b, a, low, high)


@pytest.mark.parametrize(
    ("units", "kinks"),
    [
        ([(1, 0, 1), (-1, 0, 1)], 1),  # |x|: two coincident breakpoints
        ([(1, 0, 1), (-1, 0, -1)], 0),  # x
        ([(1, 0, 1), (1, 0, -1)], 0),  # 0, flat on both sides
        ([(0.1, 0, 3), (0.3, 0, -1)], 0),  # 0, but for rounding
        ([(1, 0, 1)], 1),  # flat, then rising
        ([(1, 2, 1)], 0),  # its breakpoint is outside
        ([(0, 2, 1)], 0),  # constant
        ([(1, 2, 1), (1, 0, 0.0100)], 0),  # slope 1, then 1.01: 0.99 % of the larger
        ([(1, 2, 1), (1, 0, 0.0102)], 1),
        ([(1, 2, 1), (1, 0, -0.0099)], 0),  # slope 1, then 0.9901
        ([(1, 2, 1), (1, 0, -0.0101)], 1),
        ([(1, 0, 1), (1, -0.5, -2), (1, 0.5, 1)], 3),
        ([(1, 0, 1), (1, 1e-12, 1)], 1),  # as good as coincident
        ([(1, 0, 1), (1, 1e-3, 1)], 2),
    ],
)
def test_kinks_of_functions_made_by_hand(units, kinks):
    assert function(*units).kinks() == kinks


def test_a_hat_in_closed_form():
    hat = function((1, 1, 1), (1, 0, -2), (1, -0.5, 3), low=-2.0, high=1.0)
    assert hat.x.tolist() == [-2, -1, 0, 0.5, 1]
    assert hat.y.tolist() == [0, 0, 1, 0.5, 1.5]
    assert hat.slopes.tolist() == [0, 1, -1, 2]
    assert hat.kinks() == 3


numbers = st.floats(-3, 3).map(lambda value: round(value, 3))


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_it_is_the_network(units, seed):
    fitted = function(*units, low=-1.3, high=0.9)
    assert (np.diff(fitted.x) > 0).all()
    w, b, a = np.array(units).T
    at = np.random.RandomState(seed).uniform(-1.3, 0.9, 50)
    expected = np.maximum(np.outer(at, w) + b, 0) @ a
    np.testing.assert_allclose(np.interp(at, fitted.x, fitted.y), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.diff(fitted.y), fitted.slopes * np.diff(fitted.x), rtol=0, atol=1e-6)
    assert fitted.kinks() <= sum(unit[0] != 0 for unit in units)
