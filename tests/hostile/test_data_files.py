"""What isn't a file in the place of one, and a data root that can't be used: one clear line, and no waiting."""

import json
import os
from contextlib import suppress

import pytest

from lowland.data import data_root, fetch, load, load_celeba, load_domains, load_waterbirds, status, verify
from lowland.errors import DataError
from tests.data.conftest import Small
from tests.data.layouts import draw_celeba, draw_domains, draw_waterbirds
from tests.full_disk import full_disk
from tests.hostile.children import open_to_all
from tests.hostile.data_tools import SPECIAL, refused, special, within


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def small(root, monkeypatch):
    datasets = Small(root)
    datasets.shrink(monkeypatch)
    return datasets


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize(
    ("name", "file", "packed"),
    [
        ("mnist", "train-images-idx3-ubyte", False),
        ("mnist", "t10k-labels-idx1-ubyte.gz", True),
        ("cifar-10", "cifar-10-batches-bin/test_batch.bin", False),
        ("cifar-100", "cifar-100-binary.tar.gz", True),
        ("tinyshakespeare", "input.txt", False),
    ],
)
def test_a_dataset_of_what_is_no_file(small, name, file, packed, kind):
    path = small.write(name, packed) / file
    special(path, kind)
    refused(lambda: load(name), str(path), "can't be read")
    with within(10):
        assert str(path) in " ".join(verify(name))
        assert {entry.name: entry.state for entry in status()}[name] == "incomplete"
        assert fetch(name) == []


TABLES = {
    "celeba": (draw_celeba, load_celeba, ("list_attr_celeba.txt", "list_eval_partition.txt")),
    "waterbirds": (draw_waterbirds, load_waterbirds, ("metadata.csv",)),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize(("name", "file"), [(name, file) for name, (*_, files) in TABLES.items() for file in files])
def test_a_table_that_is_no_file(root, name, file, kind):
    draw, read, _ = TABLES[name]
    path = draw(root) / file
    special(path, kind)
    refused(read, str(path), "can't be read")
    with within(10):
        assert str(path) in " ".join(verify(name))


def test_a_table_of_gigabytes(root):
    path = draw_waterbirds(root) / "metadata.csv"
    with open(path, "ab") as file:
        file.truncate(3 * 2**30)
    refused(load_waterbirds, str(path), "too large", seconds=2)


@pytest.mark.parametrize("kind", SPECIAL)
def test_an_image_that_is_no_file(root, kind):
    folder = draw_domains(root, n=2)
    special(folder / "photo" / "dog" / "pic_001.jpg", kind)
    says = "missing" if kind == "loop" else "can't be read"
    refused(lambda: load_domains("pacs", size=8), "1 of 24 images", says, "photo/dog/pic_001.jpg")
    with within(10):
        assert "photo/dog/pic_001.jpg" in verify("pacs")[0]


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "folder"])
def test_a_cache_that_is_no_file_is_made_anew(root, kind):
    draw_domains(root, n=1)
    wanted = load_domains("pacs", size=8).splits["photo"].inputs.clone()
    (path,) = (root / "cache" / "pacs" / "photo" / "8").glob("*.npy")
    special(path, kind)
    special(path.with_suffix(".part"), kind)
    with within(10):
        assert load_domains("pacs", size=8).splits["photo"].inputs.equal(wanted)
    assert path.is_file()
    assert not path.is_symlink()


def test_a_cache_that_is_a_link_leaves_what_it_leads_to_alone(root, tmp_path):
    draw_domains(root, n=1)
    load_domains("pacs", size=8)
    (path,) = (root / "cache" / "pacs" / "photo" / "8").glob("*.npy")
    path.unlink()
    for place in (path, path.with_suffix(".part")):
        precious = tmp_path / f"precious{place.suffix}"
        precious.write_text("precious")
        place.symlink_to(precious)
    load_domains("pacs", size=8)
    assert {file.read_text() for file in tmp_path.glob("precious.*")} == {"precious"}


@pytest.mark.parametrize("place", ["mnist", "mnist/train-images-idx3-ubyte"])
def test_a_link_that_leads_nowhere_is_nothing(small, place):
    path = small.root / place
    path.parent.mkdir(parents=True)
    path.symlink_to(small.root / "nowhere")
    refused(lambda: load("mnist"), "mnist")


ROOTS = ("~nobody-of-that-name", "~nobody-of-that-name/data", "a\0b", "x" * 5000, "x/" * 3000)


@pytest.mark.parametrize("where", ROOTS)
@pytest.mark.parametrize("call", [load, verify])
def test_a_root_that_cant_be(small, where, call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if call is verify and not ("nobody" in where or "\0" in where):
        assert len(verify("mnist", where)) == 4
    else:
        refused(lambda: call("mnist", where))
    assert not list(tmp_path.iterdir())


def test_status_where_the_root_cant_be(monkeypatch):
    monkeypatch.setenv("LOWLAND_DATA", "~nobody-of-that-name")
    refused(status, "~nobody-of-that-name", "$LOWLAND_DATA")


@pytest.mark.parametrize(
    "name", ["two words", "Wörter", "line\nbreak", "\udcff\udc80", "\x1b[31m", "-rf", "x" * 255, "%s{0}"]
)
def test_a_root_of_an_odd_name(tmp_path, monkeypatch, name):
    root = tmp_path / name
    monkeypatch.setenv("LOWLAND_DATA", str(root))
    small = Small(root)
    small.shrink(monkeypatch)
    path = small.write("mnist", packed=True) / "t10k-labels-idx1-ubyte.gz"
    draw_domains(root, n=1)
    for _ in range(2):  # decoded, then from the cache
        assert len(load_domains("pacs", size=8).splits["photo"]) == 3
    assert len(load("mnist").train) == 12
    assert verify("mnist") == verify("pacs") == []
    path.write_bytes(b"")
    refused(lambda: load("mnist"), "t10k-labels-idx1-ubyte.gz")
    (problem,) = verify("mnist")
    assert problem.isprintable()


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_a_root_that_is_no_folder(root, kind):
    special(root, kind)
    refused(lambda: load("mnist"), str(root), "not a folder")


CALLS = {
    "root": data_root, "status": status, "load": lambda: load("mnist"), "verify": lambda: verify("mnist"),
    "fetch": lambda: fetch("mnist"),
    "images": lambda: len(load_domains("pacs", size=8, progress=False).splits["photo"]),
}  # fmt: skip


def as_somebody(*names):
    """What each of `CALLS` ends with in a child of this process that is a user whom no list knows."""
    with within(20), suppress(DataError):
        fetch("mnist")  # so that all modules are there, which that user may not read
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            outcomes = {}
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
            for name in names:
                try:
                    outcomes[name] = ["fine", str(CALLS[name]())]
                except DataError as error:
                    outcomes[name] = ["DataError", str(error)]
                except BaseException as error:
                    outcomes[name] = [type(error).__name__, str(error)]
            os.write(writing, json.dumps(outcomes).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with within(60), open(reading) as file:
        outcomes = json.load(file)
    os.waitpid(child, 0)
    return outcomes


needs_root = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root becomes another user")


@needs_root
def test_no_home_and_no_user(small, monkeypatch, tmp_path):
    """As in many containers: no folder called ~ is made."""
    for variable in ("HOME", "LOWLAND_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    for kind, text in as_somebody("root", "status", "load", "verify", "fetch").values():
        assert kind == "DataError"
        assert "$LOWLAND_DATA" in text
    assert not (tmp_path / "~").exists()


@needs_root
def test_what_we_may_not_read_isnt_called_missing(small):
    """Nor damaged: to remove it would be the wrong advice."""
    folder = small.write("mnist")
    open_to_all(small.root)
    folder.chmod(0o700)
    outcomes = as_somebody("status", "load", "verify", "fetch")
    assert outcomes["status"][0] == "fine"
    assert outcomes["fetch"] == ["fine", "[]"]
    assert outcomes["verify"][1].count("-ubyte can't be read: Permission denied") == 4
    kind, text = outcomes["load"]
    assert kind == "DataError"
    assert "Permission denied" in text
    assert "remove" not in text


@needs_root
@pytest.mark.parametrize("cached", [False, True])
def test_a_root_that_cant_be_written(root, cached):
    """What is there can be read all the same."""
    draw_domains(root, n=1)
    if cached:
        load_domains("pacs", size=8)
    open_to_all(root)
    kind, text = as_somebody("images")["images"]
    if cached:
        assert (kind, text) == ("fine", "3")
    else:
        assert kind == "DataError"
        assert "can't be written: Permission denied" in text


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_a_full_disk_while_images_are_cached(root, size):
    """Nothing half stays behind, and with room it goes on."""
    draw_domains(root, n=1)
    with full_disk(size):
        refused(lambda: load_domains("pacs", size=64), "can't be written: File too large")
    assert not list(root.rglob("*.part"))
    assert load_domains("pacs", size=64).splits["photo"].inputs.shape == (3, 3, 64, 64)


def test_the_root_is_where_it_was_said_to_be(root):
    assert data_root() == root
    with pytest.raises(DataError):
        data_root("~nobody-of-that-name")
