"""Lorenz curves and Gini coefficients of distributions for which they are known, and by their definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowland.features import gini, lorenz

weights = st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=1, max_size=30).filter(lambda values: max(values) > 0)


def mean_difference(values):
    """Half the mean absolute difference over the mean, as Gini has it."""
    x = np.array(values) / max(values)
    return np.abs(x[:, None] - x).mean() / (2 * x.mean())


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_equal_and_single_weights(n):
    assert gini(torch.full((n,), 0.3)) == pytest.approx(0, abs=1e-12)
    fractions, shares = lorenz(torch.full((n,), 0.3))
    torch.testing.assert_close(fractions, shares)
    single = torch.zeros(n)
    single[n // 2] = 5
    assert gini(single) == pytest.approx((n - 1) / n)
    assert lorenz(single)[1].tolist() == [0.0] * n + [1.0]


def test_quantiles_of_known_distributions():
    p = (np.arange(20_000) + 0.5) / 20_000
    assert gini(-np.log(1 - p)) == pytest.approx(1 / 2, abs=1e-3)  # exponential
    assert gini(p) == pytest.approx(1 / 3, abs=1e-6)  # uniform on [0, 1]
    fractions, shares = lorenz(-np.log(1 - p))
    f = fractions[1:-1]
    torch.testing.assert_close(shares[1:-1], f + (1 - f) * torch.log(1 - f), atol=1e-3, rtol=0)


@given(weights)
def test_is_the_mean_difference_and_twice_the_area(values):
    found = gini(values)
    assert found == pytest.approx(mean_difference(values), abs=1e-9)
    fractions, shares = lorenz(values)
    assert found == pytest.approx(1 - 2 * torch.trapezoid(shares, fractions).item(), abs=1e-9)


@given(weights, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_neither_order_nor_scale_matter(values, scale, random):
    shuffled = random.sample(values, len(values))
    assert gini([scale * value for value in shuffled]) == pytest.approx(gini(values), abs=1e-9)
    _, shares = lorenz(values)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert (shares.diff() >= 0).all()
    assert (shares.diff().diff() >= -1e-9).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([], "at least one example"),
        (torch.ones(2, 2), r"\(2, 2\)"),
        ([1.0, -1.0], "1 are not"),
        ([math.nan, math.inf, 1.0], "2 are not"),
        ([0.0, 0.0], "all zero"),
    ],
)
def test_refusals(wrong, says):
    for function in (gini, lorenz):
        with pytest.raises(ValueError, match=says):
            function(wrong)
