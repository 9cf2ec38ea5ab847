"""Taking examples, and holding some out."""

import pytest
import torch

from lowland.data import Split, split_validation
from lowland.errors import SettingError


@pytest.fixture
def split():
    images = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1)
    return Split(images, torch.arange(50), torch.arange(50) // 5)


def test_take(split):
    taken = split.take(torch.tensor([7, 3, 7]))
    assert len(taken) == 3
    assert taken.inputs.flatten().tolist() == [7, 3, 7]
    assert taken.targets.tolist() == [7, 3, 7]
    assert taken.coarse_targets.tolist() == [1, 0, 1]
    assert Split(split.inputs).take(torch.tensor([1])).targets is None


def test_to(split):
    moved = split.to("meta")
    assert moved.inputs.is_meta
    assert moved.targets.is_meta
    assert moved.coarse_targets.is_meta
    assert Split(split.inputs).to("cpu").targets is None


def test_validation(split):
    train, validation = split_validation(split)
    assert (len(train), len(validation)) == (45, 5)
    assert sorted(train.targets.tolist() + validation.targets.tolist()) == list(range(50))
    assert torch.equal(train.inputs.flatten().long(), train.targets)
    assert torch.equal(validation.coarse_targets, validation.targets // 5)
    assert len(split_validation(split, 0.5)[1]) == 25


def test_validation_depends_on_the_seed_alone(split):
    first = split_validation(split, seed=3)[1].targets.tolist()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert split_validation(split, seed=3)[1].targets.tolist() == first
    assert torch.equal(torch.get_rng_state(), state)
    assert split_validation(split, seed=4)[1].targets.tolist() != first


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range(split, fraction):
    with pytest.raises(SettingError, match="fraction"):
        split_validation(split, fraction)


def test_text_is_not_held_out_by_characters(split):
    with pytest.raises(SettingError, match="Text"):
        split_validation(Split(split.inputs.flatten()))


def test_a_repr_shows_shapes():
    split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0]))
    assert repr(split) == "Split(inputs uint8 (3, 1, 2, 2), targets int64 (3,))"
