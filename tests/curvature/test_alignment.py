"""How parallel two directions are, at any scale."""

import math

import pytest
import torch

from lowland.curvature import alignment


def test_alignment():
    a = torch.tensor([3.0, 4.0])
    assert alignment(a, -2 * a).item() == pytest.approx(1)
    assert alignment(a, torch.tensor([4.0, -3.0])).item() == pytest.approx(0)
    assert alignment(a, torch.zeros(2)).item() == 0
    for scale in (1e-25, 1e25):  # whose squares float32 doesn't hold
        assert alignment(scale * a, scale * a).item() == pytest.approx(1)


def test_alignment_of_what_is_not_finite():
    """Zero would say that they are orthogonal."""
    v = torch.tensor([1.0, 2.0])
    for bad in (math.nan, math.inf):
        assert math.isnan(alignment(torch.tensor([bad, 1.0]), v).item())
        assert math.isnan(alignment(v, torch.tensor([bad, 1.0])).item())
