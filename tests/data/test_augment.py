"""Random views of photographs."""

import colorsys
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.data import augment, random_view


def photographs(n=16, side=8, dtype=torch.float32):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("turn", [0.0, 0.3, -0.3, 0.5])
def test_hue_is_turned_as_the_standard_library_turns_it(turn):
    pixels = torch.cat([photographs(4, 4, torch.float64).movedim(1, 0).flatten(1), torch.eye(3), torch.ones(3, 2)], 1)
    turned = augment.shift_hue(pixels.view(1, 3, 1, -1), torch.tensor([turn], dtype=torch.float64))[0, :, 0].T
    for before, after in zip(pixels.T.tolist(), turned.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), abs=1e-9)


def test_a_crop_is_what_lies_in_it():
    column = torch.arange(8.0).expand(1, 3, 8, 8)
    whole = torch.tensor([[1.0]])
    half = torch.tensor([[0.25]])  # of both sides
    at = torch.tensor([0.0])
    no, yes = torch.tensor([False]), torch.tensor([True])
    assert torch.allclose(augment._crop(column, whole, whole, at, at, no), column, atol=1e-5)
    assert torch.allclose(augment._crop(column, whole, whole, at, at, yes), column.flip(3), atol=1e-5)
    left = augment._crop(column, half, whole, at, at, no)[0, 0, 0]
    assert torch.allclose(left, (torch.arange(8.0) / 2 - 0.25).clamp(0), atol=1e-5)  # pixels' centres, edge repeated
    right = augment._crop(column, half, whole, at + 1, at, no)[0, 0, 0]
    assert torch.allclose(right, 7 - left.flip(0), atol=1e-5)
    wide = torch.tensor([[4 / 3, 1.0]])
    areas = torch.tensor([[1.0, 0.25]])  # the first is too wide: the second is taken
    assert torch.allclose(augment._crop(column, areas, wide, at, at, no)[0, 0, 0], left, atol=1e-5)
    assert torch.allclose(augment._crop(column, areas[:, :1], wide[:, :1], at, at, no), column, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_views_have_the_shape_and_range_of_images_and_follow_from_the_generator(n, height, width, seed):
    images = torch.rand(n, 3, height, width, generator=seeded(seed))
    view = random_view(images, generator=seeded(seed))
    assert view.shape == images.shape
    assert 0 <= view.min() <= view.max() <= 1
    assert torch.equal(view, random_view(images, generator=seeded(seed)))


def test_shares_of_mirrored_and_grey_views():
    n = 2000
    ramp = torch.linspace(0.2, 0.6, 8).expand(n, 3, 8, 8) * torch.tensor([1.0, 0.5, 0.3]).view(3, 1, 1)
    view = random_view(ramp, generator=seeded())
    mirrored = (augment.grey(view)[:, 0, :, 0] > augment.grey(view)[:, 0, :, -1]).all(1).float().mean()
    colourless = ((view - view.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-6).float().mean()
    assert mirrored == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / n))
    assert colourless == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / n))
