"""Sound files, however packed, give the tensors they were written from."""

import gzip

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowland.data import DATASETS, Source, load, verify
from lowland.data.formats import decode_idx
from lowland.data.registry import Part
from lowland.errors import DataError

LABELLED = Source("", "", "idx", (), (0, 0), tuple("0123456789"), "", "")


@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_idx_round_trip(shape, seed):
    array = np.random.default_rng(seed).integers(0, 10, shape, dtype=np.uint8)
    data = bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes() + array.tobytes()
    part = Part("file", None, tuple(shape), 4 + 4 * len(shape))
    np.testing.assert_array_equal(decode_idx(data, "file", part, LABELLED), array)
    for damaged in (data[:-1], data + b"\0"):
        with pytest.raises(DataError, match="file"):
            decode_idx(damaged, "file", part, LABELLED)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_dataset(small, name, packed):
    small.write(name, packed)
    dataset = load(name)
    images, labels, _, test_labels = small.contents[name].values()
    assert dataset.train.inputs.shape == (12, 1, 28, 28)
    assert dataset.train.inputs.dtype == torch.uint8
    assert dataset.train.inputs.numpy().tobytes() == images[16:]
    assert dataset.train.targets.dtype == torch.int64
    assert bytes(dataset.train.targets.tolist()) == labels[8:]
    assert bytes(dataset.test.targets.tolist()) == test_labels[8:]
    assert len(dataset.test) == 5
    assert len(dataset.classes) == 10
    assert verify(name) == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
def test_cifar_dataset(small, name, packed):
    small.write(name, packed)
    dataset = load(name)
    labels = 2 if name == "cifar-100" else 1
    contents = b"".join(small.contents[name].values())
    records = np.frombuffer(contents, np.uint8).reshape(-1, labels + 3072)
    train, test = np.split(records, [-4])
    for split, expected in ((dataset.train, train), (dataset.test, test)):
        assert split.inputs.dtype == torch.uint8
        np.testing.assert_array_equal(split.inputs.flatten(1), expected[:, labels:])
        assert split.inputs.shape[1:] == (3, 32, 32)
        np.testing.assert_array_equal(split.targets, expected[:, labels - 1])
        assert split.targets.dtype == torch.int64
        if labels == 2:
            np.testing.assert_array_equal(split.coarse_targets, expected[:, 0])
        else:
            assert split.coarse_targets is None
    assert len(dataset.classes) == {1: 10, 2: 100}[labels]
    assert verify(name) == []


def test_text(small):
    small.write("tinyshakespeare")
    dataset = load("tinyshakespeare")
    train, test = bytes(dataset.train.inputs.tolist()), bytes(dataset.test.inputs.tolist())
    assert train + test == small.contents["tinyshakespeare"]["input.txt"]
    assert test.startswith(b"line 30\n")
    assert len(dataset.train) == len(train)
    assert dataset.train.inputs.dtype == torch.uint8
    assert dataset.train.targets is None


def test_digits():
    digits = load("digits")
    assert digits.train.inputs.shape == (1797, 1, 8, 8)
    assert digits.train.inputs.dtype == torch.uint8
    assert (digits.train.inputs.min(), digits.train.inputs.max()) == (0, 16)
    assert digits.train.targets.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.test is None
    assert digits.to("meta").train.inputs.is_meta
    assert verify("digits") == []


def test_packed_and_unpacked_files_side_by_side(small):
    folder = small.write("mnist", packed=True)
    packed = folder / "train-images-idx3-ubyte.gz"
    (folder / "train-images-idx3-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    batches = small.write("cifar-10", packed=True) / "cifar-10-batches-bin"
    batches.mkdir()
    member = "cifar-10-batches-bin/data_batch_2.bin"
    (batches / "data_batch_2.bin").write_bytes(small.contents["cifar-10"][member])
    assert len(load("mnist").train) == 12
    assert len(load("cifar-10").train) == 20


def test_files_alike_but_not_the_publishers_are_accepted(small):
    folder = small.write("mnist", packed=True)
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=1))
    assert verify("mnist") == []


def test_explicit_root_comes_before_the_environment(small, monkeypatch):
    small.write("mnist")
    monkeypatch.setenv("LOWLAND_DATA", str(small.root / "elsewhere"))
    assert len(load("mnist", small.root).train) == 12


def test_unknown_name():
    with pytest.raises(DataError, match="Did you mean mnist"):
        load("minst")


@pytest.mark.parametrize("name", DATASETS)
def test_registry_is_consistent(name):
    source = DATASETS[name]
    places = {place for part in source.parts for place in part.places}
    assert {download.filename for download in source.downloads} <= places
    assert all(len(download.md5) == 32 and download.size > 0 and download.urls for download in source.downloads)
    assert source.licence
    assert source.citation
    if source.format == "idx":
        images, labels, *_ = source.parts
        assert images.shape == (source.counts[0], *source.shape[1:])
        assert labels.size == 8 + source.counts[0]
    if source.format == "cifar":
        assert sum(part.shape[0] for part in source.parts) == sum(source.counts)
