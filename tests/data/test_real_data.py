"""The real datasets, where $LOWLAND_DATA has them."""

import hashlib
import os

import pytest

from lowland.data import DATASETS, data_root, load, status, verify

pytestmark = pytest.mark.data


@pytest.fixture
def real(request):
    if not os.environ.get("LOWLAND_DATA"):
        pytest.skip("$LOWLAND_DATA is not set")
    name = request.param
    state = {entry.name: entry.state for entry in status()}[name]
    if state != "ready":
        pytest.skip(f"{name} is {state} under $LOWLAND_DATA")
    return load(name)


@pytest.mark.parametrize("real", ["mnist", "fashion-mnist", "cifar-10", "cifar-100", "tinyshakespeare"], indirect=True)
def test_sound(real):
    source = DATASETS[real.name]
    assert verify(real.name) == []
    if source.classes:
        assert (len(real.train), len(real.test)) == source.counts
        assert real.train.inputs.shape[1:] == real.test.inputs.shape[1:] == source.shape


@pytest.mark.parametrize("real", ["mnist"], indirect=True)
def test_mnist(real):
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert real.train.targets.bincount().tolist() == train
    assert real.test.targets.bincount().tolist() == test
    assert real.train.inputs.double().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.parametrize("real", ["fashion-mnist"], indirect=True)
def test_fashion_mnist(real):
    assert real.train.targets.bincount().tolist() == [6000] * 10
    assert real.test.targets.bincount().tolist() == [1000] * 10
    assert real.train.inputs.double().mean().item() / 255 == pytest.approx(0.2860, abs=1e-4)


@pytest.mark.parametrize("real", ["cifar-10"], indirect=True)
def test_cifar_10(real):
    assert real.train.targets.bincount().tolist() == [5000] * 10
    assert real.test.targets.bincount().tolist() == [1000] * 10
    means = [real.train.inputs[:, channel].float().mean().item() / 255 for channel in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert_names("cifar-10/cifar-10-batches-bin/batches.meta.txt", real.classes)


@pytest.mark.parametrize("real", ["cifar-100"], indirect=True)
def test_cifar_100(real):
    assert real.train.targets.bincount().tolist() == [500] * 100
    assert real.train.coarse_targets.bincount().tolist() == [2500] * 20
    pairs = set(zip(real.train.targets.tolist(), real.train.coarse_targets.tolist(), strict=True))
    assert len(pairs) == 100  # every class lies in one group
    means = [real.train.inputs[:, channel].float().mean().item() / 255 for channel in range(3)]
    assert means == pytest.approx([0.5071, 0.4866, 0.4409], abs=2e-4)
    assert_names("cifar-100/cifar-100-binary/fine_label_names.txt", real.classes)
    assert_names("cifar-100/cifar-100-binary/coarse_label_names.txt", DATASETS["cifar-100"].coarse_classes)


@pytest.mark.parametrize("real", ["tinyshakespeare"], indirect=True)
def test_tinyshakespeare(real):
    train, test = (split.inputs.numpy().tobytes() for split in (real.train, real.test))
    text = train + test
    assert len(text) == 1_115_394
    assert hashlib.md5(text).hexdigest() == "6fb458f1232090904fb40fe944165e91"
    assert test.count(b"\n") == 10_000
    assert text.startswith(b"First Citizen:\n")


def assert_names(path, names):
    """The publisher's own list of names, where it lies unpacked beside the data."""
    if (data_root() / path).exists():
        assert tuple((data_root() / path).read_text().split()) == names
