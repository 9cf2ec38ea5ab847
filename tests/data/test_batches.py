"""Batches as functions of the step alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowland.data import Shuffled, WholeBatch, seeded
from lowland.errors import SettingError


def test_the_whole_batch_is_the_same_object_at_every_step():
    x, y = torch.randn(3, 2), torch.arange(3)
    batch = WholeBatch(x, y)
    assert all(a is b for a, b in zip(batch(0), (x, y), strict=True))
    assert batch(7)[0] is x


@given(n=st.integers(1, 20), size=st.integers(1, 20), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 5))
def test_an_epoch_has_every_example_once(n, size, seed, epoch):
    if size > n:
        size = n
    draw = Shuffled(torch.arange(n), torch.arange(n) + 100, size, seed)
    steps = range(epoch * draw.per_epoch, (epoch + 1) * draw.per_epoch)
    batches = [draw(step) for step in steps]
    assert sorted(torch.cat([x for x, _ in batches]).tolist()) == list(range(n))
    assert all(torch.equal(x + 100, y) for x, y in batches)
    assert [len(x) for x, _ in batches[:-1]] == [size] * (len(batches) - 1)
    assert torch.equal(torch.cat([x for x, _ in batches]), draw.order(epoch))


def test_a_batch_follows_from_seed_and_step_alone():
    data = torch.arange(10), torch.arange(10)
    straight = Shuffled(*data, 3, seed=5)
    batches = [straight(step)[0].tolist() for step in range(12)]
    jumping = Shuffled(*data, 3, seed=5)
    torch.manual_seed(9)
    for step in (11, 0, 4, 3, 8):
        assert jumping(step)[0].tolist() == batches[step]
    assert batches[:4] != batches[4:8]
    assert [Shuffled(*data, 3, seed=6)(step)[0].tolist() for step in range(12)] != batches


@pytest.mark.parametrize("size", [0, 11])
def test_a_batch_that_can_not_be(size):
    with pytest.raises(SettingError, match="between 1 and all 10"):
        Shuffled(torch.arange(10), torch.arange(10), size, 0)


def test_seeds_and_steps_draw_differently():
    pairs = [(seed, step) for seed in range(50) for step in range(50)]
    drawn = {tuple(torch.randint(10**9, (2,), generator=seeded(*pair)).tolist()) for pair in pairs}
    assert len(drawn) == 2500
    assert seeded(3, 4).get_state().equal(seeded(3, 4).get_state())
