"""Every way a file can be damaged is one line that names the file, from `load` and from `verify`."""

import gzip

import numpy as np
import pytest

from lowland.data import load, verify
from lowland.errors import DataError


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"x")


def empty(path):
    path.write_bytes(b"")


def directory(path):
    path.unlink()
    path.mkdir()


def plain_text(path):
    path.write_bytes(b"<html>not found</html>" * 100)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_the_checksum(path):
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)


def garble(path):
    data = path.read_bytes()
    path.write_bytes(data[:10] + b"\xff" * 20 + data[30:])


def at(position, value):
    def change(path):
        data = bytearray(path.read_bytes())
        data[position] = value
        path.write_bytes(data)

    return change


def repacked(damage):
    """The same damage to the content of a sound .gz."""

    def change(path):
        path.write_bytes(gzip.decompress(path.read_bytes()))
        damage(path)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return change


FILE = {"halved": halve, "empty": empty, "directory": directory, "plain text": plain_text}
LENGTH = {"cut": cut, "lengthened": lengthen}
GZIP = FILE | LENGTH | {"bit": flip_a_bit, "garbled": garble, "checksum": flip_the_checksum}
HEADER = {
    "magic": at(0, 1),
    "type": at(2, 0x0D),
    "dimensions": at(3, 2),
    "count": at(7, 99),
    "shape": at(11, 27),
}
IDX = FILE | LENGTH | HEADER
IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
CIFAR = FILE | LENGTH
ZERO, ACCENT, LINE = at(5, 0), at(5, 0xE9), at(5, ord("\n"))


def cases():
    def those(name, file, packed, damages):
        return [pytest.param(name, file, packed, damage, id=f"{file}-{what}") for what, damage in damages.items()]

    contents = {what: repacked(damage) for what, damage in (LENGTH | HEADER | {"empty": empty}).items()}
    yield from those("mnist", IMAGES, False, IDX)
    yield from those("mnist", LABELS, False, {"label": at(-1, 10), "cut": cut})
    yield from those("mnist", f"{IMAGES}.gz", True, GZIP)
    yield from those("mnist", f"{IMAGES}.gz", True, {f"content {what}": d for what, d in contents.items()})
    yield from those("fashion-mnist", f"{LABELS}.gz", True, {"label": repacked(at(-1, 10))})
    yield from those("cifar-10", "cifar-10-batches-bin/data_batch_3.bin", False, CIFAR | {"label": at(0, 10)})
    yield from those("cifar-100", "cifar-100-binary/test.bin", False, {"group": at(0, 20), "class": at(1, 100)})
    yield from those("cifar-10", "cifar-10-binary.tar.gz", True, GZIP)
    yield from those("cifar-10", "cifar-10-binary.tar.gz", True, {"no archive": repacked(plain_text)})
    text = FILE | LENGTH | {"zero": ZERO, "not ASCII": ACCENT, "lines": LINE}
    yield from those("tinyshakespeare", "input.txt", False, text)


@pytest.mark.parametrize(("name", "file", "packed", "damage"), list(cases()))
def test_damage(small, name, file, packed, damage):
    path = small.write(name, packed) / file
    damage(path)
    with pytest.raises(DataError) as error:
        load(name)
    message = str(error.value)
    assert str(path) in message
    assert message.endswith(f"Replace it, or remove it and run: lowland data fetch {name}")
    assert "\n" not in message
    problems = verify(name)
    assert problems
    assert all(str(path) in problem and "\n" not in problem for problem in problems)


def archive_damages(contents):
    """A sound archive made from damaged contents."""
    _, second, *_ = contents
    return {
        "member missing": {member: data for member, data in contents.items() if member != second},
        "member cut": contents | {second: contents[second][:-1]},
        "member too long": contents | {second: contents[second] + b"\0"},
        "label": contents | {second: b"\xff" + contents[second][1:]},
        "member a folder": contents | {second: None},
        "empty archive": {},
    }


@pytest.mark.parametrize(
    "what",
    [
        "member missing",
        "member cut",
        "member too long",
        "member a folder",
        "label",
        "empty archive",
        "archive cut",
    ],
)
@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
def test_damaged_archive(small, tar_gz, name, what):
    contents = small.contents[name]
    path = small.write(name, packed=True) / f"{name}-binary.tar.gz"
    if what == "archive cut":  # in the middle of the tar file, the gzip stream around it whole
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:9000]))
    else:
        path.write_bytes(tar_gz(archive_damages(contents)[what]))
    with pytest.raises(DataError) as error:
        load(name)
    assert str(path) in str(error.value)
    (problem,) = verify(name)
    assert str(path) in problem
    if what not in ("empty archive", "archive cut"):
        assert list(contents)[1] in problem


def test_verify_finds_every_problem(small):
    folder = small.write("mnist")
    cut(folder / IMAGES)
    at(8, 200)(folder / LABELS)
    (folder / "t10k-images-idx3-ubyte").unlink()
    problems = verify("mnist")
    assert len(problems) == 3
    for file in (IMAGES, LABELS, "t10k-images-idx3-ubyte"):
        assert any(str(folder / file) in problem for problem in problems)


def test_verify_finds_every_problem_in_an_archive(small, tar_gz):
    contents = small.contents["cifar-10"]
    first, second, third, *_ = contents
    damaged = contents | {first: contents[first][:-1], second: b"\xff" + contents[second][1:]}
    del damaged[third]
    small.write("cifar-10", packed=True).joinpath("cifar-10-binary.tar.gz").write_bytes(tar_gz(damaged))
    problems = verify("cifar-10")
    assert [any(member in problem for problem in problems) for member in contents] == [True] * 3 + [False] * 3


def test_label_is_named_with_its_place(small):
    folder = small.write("mnist")
    at(8 + 3, 17)(folder / LABELS)
    assert "has label 17 at example 3, outside 0 to 9" in verify("mnist")[0]


def test_nothing_there(small):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is missing"):
        load("mnist")
    assert len(verify("mnist")) == 4


def test_a_gzip_bomb_is_not_unpacked(small):
    path = small.write("mnist", packed=True) / f"{IMAGES}.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + np.zeros(10**8, np.uint8).tobytes()))
    assert "too long" in verify("mnist")[0]
