"""Batches of one's own data: tensors, datasets and loaders, each a function of seed and step."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from lowland.data import Shuffled, Split, WholeBatch
from lowland.errors import SettingError
from lowland.training.examples import examples_of

X = torch.arange(23.0).unsqueeze(1)
Y = torch.arange(23)


class Noisy(Dataset):
    """Draws from every generator that augmentation may draw from."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        drawn = [torch.rand(()).item(), random.random(), np.random.rand()]  # noqa: NPY002
        return torch.tensor([float(index), *drawn]), index


def draw(source, steps=20, batch_size=5, seed=1, start=0):
    batches = examples_of(source, "train").drawn(batch_size, seed)
    return [batches(step) for step in range(start, start + steps)]


def same(first, second):
    return all(torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other))  # noqa: B905


def loader(dataset=None, **more):
    return DataLoader(dataset or Noisy(), **{"batch_size": 5, "shuffle": True, **more})


def weighted(**more):
    return loader(shuffle=False, sampler=WeightedRandomSampler(torch.ones(23), 23, **more))


class Endless:
    def __iter__(self):
        while True:
            yield int(torch.randint(23, ()))


SOURCES = {
    "tensors": lambda: (X, Y),
    "split": lambda: Split(X, Y),
    "dataset": Noisy,
    "loader": loader,
    "sampler": weighted,
    "generator": lambda: weighted(generator=torch.Generator()),
    "endless": lambda: loader(shuffle=False, sampler=Endless()),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_batch_follows_from_seed_and_step_alone(kind):
    whole = draw(SOURCES[kind]())
    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    before = torch.get_rng_state()
    assert same(whole, draw(SOURCES[kind]()))
    assert same(whole[7:], draw(SOURCES[kind](), 13, start=7))
    assert torch.equal(before, torch.get_rng_state())
    assert not same(whole, draw(SOURCES[kind](), seed=2))
    assert not same(whole[:5], whole[5:10])  # another order in the next epoch
    if kind in ("tensors", "split", "dataset", "loader"):
        assert sorted(index for _, y in whole[:5] for index in y.tolist()) == list(range(23))


@pytest.mark.slow
def test_workers_fetch_the_same_batches():
    alone = draw(loader())
    assert same(alone, draw(loader(num_workers=2)))
    before = torch.get_rng_state()
    assert same(alone[7:12], draw(loader(num_workers=2), 5, start=7))
    assert torch.equal(before, torch.get_rng_state())  # starting workers draws nothing from the training's generator


def test_the_same_step_twice_is_the_same_batch_and_steps_may_be_left_out():
    batches = examples_of(Noisy(), "train").drawn(5, 1)
    whole = draw(Noisy())
    assert all(same([batches(step)], [whole[step]]) for step in (3, 3, 4, 9, 0, 1, 1))


def test_what_a_check_sees_is_the_same_each_time_and_in_order():
    for source in (Noisy(), loader(), (X, Y)):
        examples = examples_of(source, "test")
        first, second = list(examples.batches()), list(examples.batches())
        assert same(first, second)
        assert torch.cat([y for _, y in first]).tolist() == list(range(23))


def test_a_tenth_is_held_out_the_same_for_all_and_shared():
    rest, held = examples_of((X, Y), "train").held_out()
    again = examples_of((X, Y), "train").held_out()
    assert rest.x is again[0].x
    assert held.y is again[1].y
    assert (len(rest), len(held)) == (21, 2)
    assert sorted([*rest.y.tolist(), *held.y.tolist()]) == list(range(23))
    for source in (Noisy(), loader()):
        rest, held = examples_of(source, "train").held_out()
        assert sorted([*rest.indices, *held.indices]) == list(range(23))
        assert list(held.indices) == list(examples_of(source, "train").held_out()[1].indices)
        assert {index for _, y in (rest.drawn(7, 0)(step) for step in range(3)) for index in y.tolist()} == set(
            rest.indices
        )


def test_the_first_ones_are_shared():
    examples = examples_of((X, Y), "train")
    assert examples.first(5).x is examples.first(5).x
    assert examples.first(23) is examples
    assert examples_of(Noisy(), "train").first(4).indices == range(4)


def test_tensors_make_batches_that_can_be_vectorized():
    assert type(examples_of((X, Y), "train").drawn(5, 0)) is Shuffled
    assert type(examples_of((X, Y), "train").drawn(None, 0)) is WholeBatch


def test_a_loaders_own_ways_are_kept():
    dataset = TensorDataset(X, Y)
    plain = examples_of(DataLoader(dataset, batch_size=4, shuffle=True, drop_last=True), "train").drawn(None, 0)
    assert (plain.batch_size, plain.per_epoch) == (4, 5)
    assert examples_of(DataLoader(dataset, batch_size=4), "train").drawn(6, 0).per_epoch == 4
    doubled = DataLoader(
        dataset, batch_size=4, collate_fn=lambda items: (torch.stack([x for x, _ in items]) * 2, Y[:1])
    )
    assert (next(examples_of(doubled, "train").batches())[0] == 2 * X).all()
    few = examples_of(loader(shuffle=False, sampler=WeightedRandomSampler(torch.ones(23), 9)), "train").drawn(5, 0)
    assert few.per_epoch == 2
    batches = torch.utils.data.BatchSampler(range(23), 10, drop_last=True)
    assert examples_of(DataLoader(dataset, batch_sampler=batches), "train").drawn(None, 0)(1)[1].tolist() == list(
        range(10, 20)
    )


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Stubborn:
    def __init__(self):
        self.calls = 0

    def __iter__(self):
        self.calls += 1
        return iter([self.calls] * 5)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (X, "train takes .x, y. as two tensors, .* not a Tensor"),
        ((X.numpy(), Y.numpy()), "not a tuple of ndarray, ndarray"),
        ((X, Y[:3]), "x and y need as many examples"),
        ((X[:0], Y[:0]), "train has no examples"),
        (Stream(), "an IterableDataset can't be asked for the batch of a step"),
        (DataLoader(Stream()), "an IterableDataset can't be asked"),
        (DataLoader(Noisy(), batch_size=None), "makes no batches"),
        (DataLoader(Noisy(), batch_size=5, sampler=Stubborn()), "draws another order from the same seed"),
    ],
)
def test_what_can_not_be_trained_on(source, says):
    with pytest.raises(SettingError, match=says):
        examples_of(source, "train")


def test_what_does_not_go_together():
    own = examples_of(SOURCES["sampler"](), "train")
    for action in (lambda: own.held_out(), lambda: own.first(3), lambda: own.drawn(7, 0)):
        with pytest.raises(SettingError, match="shuffle=True"):
            action()
    for examples in (examples_of((X, Y), "train"), examples_of(Noisy(), "train")):
        with pytest.raises(SettingError, match="between 1 and all 23 examples, not 24"):
            examples.drawn(24, 0)
    triples = examples_of(TensorDataset(X, X, Y), "train").drawn(3, 0)
    with pytest.raises(SettingError, match="a batch must be a pair"):
        triples(0)
