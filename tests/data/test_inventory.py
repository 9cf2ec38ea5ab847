"""What is where."""

import hashlib
import shutil
from pathlib import Path

import pytest

from lowland.data import DATASETS, data_root, load, status, verify
from lowland.data.download import record
from lowland.errors import DataError


def test_root_is_a_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("LOWLAND_DATA", str(file))
    for call in (data_root, status, lambda: load("mnist"), lambda: verify("mnist")):
        with pytest.raises(DataError, match=str(file)):
            call()


def test_root_default(monkeypatch):
    monkeypatch.setenv("LOWLAND_DATA", "")
    assert data_root().parts[-2:] == ("lowland", "data")
    monkeypatch.setenv("LOWLAND_DATA", "~/sets")
    assert data_root() == Path.home() / "sets"


def test_status(small):
    def states():
        return {entry.name: entry.state for entry in status()}

    assert set(states()) == set(DATASETS)
    assert states() == dict.fromkeys(DATASETS, "missing") | {"digits": "ready"}
    small.write("mnist")
    archive = small.write("cifar-10", packed=True) / "cifar-10-binary.tar.gz"
    text = small.write("tinyshakespeare") / "input.txt"
    by_name = {entry.name: entry for entry in status()}
    assert [by_name[name].state for name in ("mnist", "cifar-10", "tinyshakespeare")] == ["ready"] * 3
    assert by_name["cifar-10"].bytes == archive.stat().st_size
    assert by_name["mnist"].bytes == sum(map(len, small.contents["mnist"].values()))
    assert by_name["mnist"].path == small.root / "mnist"
    (small.root / "mnist" / "train-images-idx3-ubyte").unlink()
    text.write_bytes(b"cut off")
    archive.write_bytes(b"")
    assert [states()[name] for name in ("mnist", "cifar-10", "tinyshakespeare")] == ["incomplete"] * 3
    text.unlink()
    text.mkdir()
    assert states()["tinyshakespeare"] == "incomplete"
    shutil.rmtree(small.root)
    assert states()["mnist"] == "missing"


def test_what_was_downloaded_and_has_changed_since_is_not_loaded(small):
    """Its form may be intact."""
    text = small.write("tinyshakespeare") / "input.txt"
    content = text.read_bytes()
    record(text).write_text(f"{hashlib.md5(content).hexdigest()}  {text.name}\n")
    load("tinyshakespeare")
    text.write_bytes(b"?" + content[1:])
    with pytest.raises(DataError, match="is not what was downloaded"):
        load("tinyshakespeare")
