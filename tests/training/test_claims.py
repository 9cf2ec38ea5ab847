"""What a judge gives, as it is told."""

import math

import numpy as np
import pytest
import torch

from lowland.errors import SettingError
from lowland.training import Claim, Verdict


def decided(verdict):
    return Claim("below", "the loss is below 1", "here", "< 1", lambda outcomes: verdict).decide({})


def test_nan_decides_nothing():
    assert decided(Verdict(math.nan, False)) == Verdict(None, None, "nan was measured")
    assert decided(Verdict(math.nan, True, "so")) == Verdict(None, None, "nan was measured; so")


def test_infinity_stands_in_the_reason():
    assert decided(Verdict(math.inf, False)) == Verdict(None, False, "inf was measured")
    assert decided(Verdict(0.5, True, "", (-math.inf, 1.0))) == Verdict(0.5, True)


@pytest.mark.parametrize("of", [np.float64, np.float32, torch.tensor])
def test_numbers_of_numpy_and_torch_are_plain_ones(of):
    found = decided(Verdict(of(0.5), of(0.5) < 1, "", (of(0.25), of(0.75))))
    assert found == Verdict(0.5, True, "", (0.25, 0.75))
    assert [type(found.measured), type(found.passed), type(found.interval[0])] == [float, bool, float]


@pytest.mark.parametrize("wrong", [Verdict("low", True), Verdict(torch.ones(2), True), Verdict(1.0, torch.ones(2) > 0)])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(SettingError, match="the judge of the claim below gives a Verdict that can't be read"):
        decided(wrong)
