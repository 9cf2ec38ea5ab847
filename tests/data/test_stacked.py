"""Stacked images, on small random stand-ins whose every image is different."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.data import Dataset, Split, load, stacked_images, status
from lowland.errors import SettingError

CLASSES = tuple("0123456789")
PER_CLASS = (40, 12)  # training, test


def stand_in(name, channels, side, per_class=PER_CLASS):
    """Ten classes in turn; the first pixels of an image spell its number, with test images after training images."""
    splits, start = [], 0
    for count in per_class:
        n = 10 * count
        inputs = torch.randint(1, 255, (n, channels, side, side), generator=torch.Generator().manual_seed(start))
        inputs[:, 0, 0, 0], inputs[:, 0, 0, 1] = (torch.arange(start, start + n) // m % 256 for m in (256, 1))
        splits.append(Split(inputs.to(torch.uint8), torch.arange(n) % 10))
        start += n
    return Dataset(name, *splits, CLASSES)


MNIST, CIFAR, FASHION = stand_in("mnist", 1, 28), stand_in("cifar-10", 3, 32), stand_in("fashion-mnist", 1, 28)
BELOW = {"cifar-mnist": CIFAR, "fmnist-mnist": FASHION}
PICKED = {"cifar-mnist": ((0, 1), (1, 9)), "fmnist-mnist": ((0, 1, 2, 3, 4), (0, 1, 2, 3, 4))}


def make(name, **changes):
    return stacked_images(name, MNIST, BELOW[name], **changes)


def numbers(split, below):
    """Of the digits and of the images below, read off their first pixels."""
    bottom = split.inputs[:, 0, 32 + 2 * (below is FASHION) :, 2 * (below is FASHION) :]
    return [image[:, 0, :2].long() @ torch.tensor([256, 1]) for image in (split.inputs[:, 0, 2:, 2:], bottom)]


@pytest.mark.parametrize("name", BELOW)
def test_pixels_and_labels(name):
    data, (digits, images) = make(name, correlation=0.5), PICKED[name]
    for split, part in (("train", "train"), ("validation", "train"), ("test", "test")):
        pairs = getattr(data, split)
        above, below = numbers(pairs, BELOW[name])
        offset = 0 if part == "train" else 10 * PER_CLASS[0]
        top, bottom = getattr(MNIST, part), getattr(BELOW[name], part)
        assert pairs.inputs.dtype == torch.uint8
        assert torch.tensor(digits)[pairs.attributes].equal(top.targets[above - offset])
        assert torch.tensor(images)[pairs.targets].equal(bottom.targets[below - offset])
        wanted = torch.zeros(len(pairs), 3, 64, 32, dtype=torch.uint8)
        wanted[:, :, 2:30, 2:30] = top.inputs[above - offset]
        rows = slice(32, 64) if bottom.inputs.shape[-1] == 32 else slice(34, 62)
        columns = slice(0, 32) if bottom.inputs.shape[-1] == 32 else slice(2, 30)
        wanted[:, :, rows, columns] = bottom.inputs[below - offset]
        assert pairs.inputs.equal(wanted)
    assert data.attributes == tuple(CLASSES[i] for i in digits)
    assert data.classes == tuple(CLASSES[i] for i in images)


@pytest.mark.parametrize("name", BELOW)
@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_no_image_in_two_splits(name, correlation):
    data, probe = make(name, correlation=correlation, seed=3), make(name, correlation=0.0, seed=3)
    seen = [
        [numbers(getattr(d, split), BELOW[name]) for d in (data, probe)] for split in ("train", "validation", "test")
    ]
    for which in (0, 1):  # digits, images below
        sets = [set(torch.cat([pair[which] for pair in pairs]).tolist()) for pairs in seen]
        assert all(sets)
        assert all(a.isdisjoint(b) for a, b in itertools.combinations(sets, 2))
    for pairs in seen:
        assert len(pairs[0][1]) == len(set(pairs[0][1].tolist()))  # nor twice in one


def test_as_many_as_there_are():
    data = make("fmnist-mnist")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [5 * 36, 5 * 4, 5 * 12]
    assert data.train.targets.bincount().tolist() == [36] * 5
    assert make("fmnist-mnist", examples=12).train.targets.bincount().sort().values.tolist() == [2, 2, 2, 3, 3]
    for changes in ({"examples": 181}, {"examples": 0}, {"validation_examples": 21}, {"test_examples": -1}):
        (asked,) = changes.values()
        with pytest.raises(SettingError, match=f"images for 1 to .* not for {asked}"):
            make("fmnist-mnist", **changes)


def test_digits_are_dealt_again_when_there_are_no_more():
    few = stand_in("mnist", 1, 28, (10, 5))
    data = stacked_images("cifar-mnist", few, CIFAR)
    digits, _ = numbers(data.train, CIFAR)
    counts = digits[data.train.attributes == 0].bincount()
    assert counts[counts > 0].tolist() == [4] * 9  # 36 images below, nine digits that aren't for validation


BIG = stand_in("mnist", 1, 2, (2000, 1)), stand_in("fashion-mnist", 1, 2, (2000, 1))


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9, 1.0])
def test_correlation(correlation):
    """Of the indicators of each class; five standard errors of 9,000 pairs."""
    train = stacked_images("fmnist-mnist", *BIG, correlation=correlation).train
    for label in range(5):
        a, b = ((x == label).double() for x in (train.targets, train.attributes))
        measured = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
        assert measured == pytest.approx(correlation, abs=0 if correlation == 1 else 5 / 9000**0.5)
    if correlation == 1:
        assert train.targets.equal(train.attributes)


@given(seed=st.integers(0, 2**31 - 1), correlation=st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_seed_and_correlation_alone_decide(seed, correlation):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    a, b = (make("cifar-mnist", seed=seed, correlation=correlation, test_examples=8) for _ in range(2))
    for split in ("train", "validation", "test"):
        x, y = getattr(a, split), getattr(b, split)
        assert x.inputs.equal(y.inputs)
        assert x.attributes.equal(y.attributes)
    other = make("cifar-mnist", seed=seed + 1, correlation=correlation).train
    assert not other.inputs.equal(a.train.inputs)
    assert torch.get_rng_state().equal(state)


def test_the_number_of_examples_changes_no_other_split():
    a, b = make("cifar-mnist"), make("cifar-mnist", examples=5, test_examples=3)
    assert a.validation.inputs.equal(b.validation.inputs)


@pytest.mark.parametrize("correlation", [-0.1, 1.1, float("nan")])
def test_correlation_out_of_range(correlation):
    with pytest.raises(SettingError, match=r"between 0 and 1; it is (-0.1|1.1|nan)"):
        make("cifar-mnist", correlation=correlation)


def test_wrong_datasets():
    with pytest.raises(SettingError, match="Did you mean cifar-mnist"):
        stacked_images("cifar-mnst", MNIST, CIFAR)
    with pytest.raises(ValueError, match="above cifar-10, not above fashion-mnist"):
        stacked_images("cifar-mnist", MNIST, FASHION)
    with pytest.raises(ValueError, match="test split"):
        stacked_images("cifar-mnist", dataclasses.replace(MNIST, test=None), CIFAR)
    without = dataclasses.replace(CIFAR, train=Split(CIFAR.train.inputs))
    with pytest.raises(ValueError, match="without labels"):
        stacked_images("cifar-mnist", MNIST, without)
    empty = stand_in("mnist", 1, 28, (0, 1))
    with pytest.raises(SettingError, match="1 to 0 pairs"):
        stacked_images("cifar-mnist", empty, CIFAR)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_on_a_gpu():
    wanted = make("cifar-mnist", correlation=0.5)
    data = stacked_images("cifar-mnist", MNIST.to("cuda"), CIFAR.to("cuda"), correlation=0.5)
    assert data.train.inputs.is_cuda
    for split in ("train", "validation", "test"):
        here, there = getattr(wanted, split), getattr(data, split)
        assert data.groups(there).cpu().equal(wanted.groups(here))
        assert there.inputs.cpu().equal(here.inputs)


@pytest.mark.data
@pytest.mark.parametrize(("name", "below", "counts"), [
    ("cifar-mnist", "cifar-10", (9_000, 1_000, 2_000)),
    ("fmnist-mnist", "fashion-mnist", (27_000, 3_000, 5_000)),
])  # fmt: skip
def test_real_images(data_root, name, below, counts):
    if {entry.name: entry.state for entry in status()}[below] != "ready":
        pytest.skip(f"{below} isn't there")
    data = stacked_images(name, load("mnist"), load(below))
    assert tuple(map(len, (data.train, data.validation, data.test))) == counts
    assert data.train.inputs.shape[1:] == (3, 64, 32)
    if name == "cifar-mnist":
        assert data.classes == ("automobile", "truck")
    else:
        assert data.classes == ("t-shirt/top", "trouser", "pullover", "dress", "coat")
    zeros = data.train.inputs[data.train.attributes == 0, 0, 14:18, 14:18].float().mean()
    ones = data.train.inputs[data.train.attributes == 1, 0, 14:18, 14:18].float().mean()
    assert ones > 3 * zeros  # a nought is hollow, a one is not
