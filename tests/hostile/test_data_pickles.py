"""Files of weights, monitor states, caches: nothing in them is executed, whatever is wrong with them is one line."""

import io
import pickle
import random
import struct
import warnings
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from lowland.data import load_domains
from lowland.errors import RunError
from lowland.saved import tensors_in
from lowland.training.weights import load_pretrained, load_weights, read_weights
from tests.data.conftest import Small
from tests.data.layouts import draw_domains
from tests.hostile.data_tools import Payload, refused, special, within
from tests.hostile.test_data_archives import growth, spoiled


@pytest.fixture
def mark(tmp_path):
    """Is there after the test if something was executed."""
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(entries, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as file:
        for name, data in entries.items():
            file.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def renamed(data, old, new):
    """The same archive with one of its parts replaced, and all checksums right."""
    entries = {}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        for name in file.namelist():
            entries[name.split("/", 1)[1]] = new if name.endswith(old) else file.read(name)
    return archive(entries)


def scripted():
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


GLOBALS = (
    "builtins eval", "os system", "posix system", "nt system", "subprocess Popen", "torch.hub load", "runpy run_path",
    "torch.jit load", "webbrowser open", "numpy.testing._private.utils runstring", "importlib import_module",
    "torch.utils.collect_env run", "pickle loads", "functools partial", "operator attrgetter",
)  # fmt: skip


def calls(name, argument):
    """A pickle that calls a function by its name, by hand."""
    module, function = name.split()
    text = argument.encode()
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."


def executes(mark):
    """Every way that we know to hide a call in a file of weights."""
    payload = Payload(mark)
    state = network().state_dict()
    command = f"mkdir {mark}"
    yield "in a state_dict", saved({**state, "0.weight": payload})
    yield "beside a state_dict", saved({"last": state, "x": payload})
    yield "as a key", saved({(payload,): 1})
    yield "alone", saved(payload)
    yield "in a list", saved([state, payload])
    yield "in arms", saved({"arms": {"sam": {"model": {**state, "x": payload}}}})
    yield "in the old format", saved({**state, "x": payload}, _use_new_zipfile_serialization=False)
    for protocol in range(2, 6):
        yield f"as a pickle of protocol {protocol}", pickle.dumps({"x": payload}, protocol)
        yield f"in the archive, protocol {protocol}", renamed(saved(state), "data.pkl", pickle.dumps(payload, protocol))
    whole = network()
    whole.extra = payload
    yield "a whole network", saved(whole)
    for name in GLOBALS:
        yield f"{name} by hand", renamed(saved(state), "data.pkl", calls(name, command))
        yield (
            f"{name} in the old format",
            saved(state, _use_new_zipfile_serialization=False)[:-1] + calls(name, command),
        )
        yield f"{name} alone", calls(name, command)
    yield "TorchScript", scripted()
    yield "an array of objects", array_of(payload)


def array_of(payload):
    buffer = io.BytesIO()
    np.save(buffer, np.array([payload], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_the_payload_works(mark, tmp_path):
    """Who unpickles it, executes it: otherwise the tests below see nothing."""
    content = saved({"x": Payload(tmp_path / "this one")})
    torch.load(io.BytesIO(content), weights_only=False)
    assert (tmp_path / "this one").exists()


def test_weights_that_execute(tmp_path, mark, recwarn, capfd, count):
    path = tmp_path / "weights.pth"
    for what, content in executes(mark):
        count("pickles with a payload")
        path.write_bytes(content)
        if what.endswith("in the old format") and what != "in the old format":
            with within(10), suppress(RunError):  # what stands behind its end is never read
                read_weights(path)
        else:
            refused(lambda: read_weights(path), str(path))
            refused(lambda: load_pretrained(network(), path), str(path))
        assert not mark.exists(), what
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_data_files_that_execute(tmp_path, mark, monkeypatch):
    """None of them is ever a pickle."""
    small = Small(tmp_path / "data")
    small.shrink(monkeypatch)
    monkeypatch.setenv("LOWLAND_DATA", str(small.root))
    from lowland.data import load

    bad = pickle.dumps(Payload(mark))
    for name in small.contents:
        for packed in (False, True):
            folder = small.write(name, packed)
            for path in [path for path in folder.rglob("*") if path.is_file()]:
                before = path.read_bytes()
                path.write_bytes(bad)
                refused(lambda name=name: load(name), str(path))
                path.write_bytes(before)
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()


def test_a_cache_of_images_that_executes(tmp_path, mark, monkeypatch, count):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "data"))
    draw_domains(tmp_path / "data", n=1)
    wanted = load_domains("pacs", size=8).splits["photo"].inputs.clone()
    (path,) = (tmp_path / "data" / "cache" / "pacs" / "photo" / "8").glob("*.npy")
    for what, content in executes(mark):
        count("pickles with a payload")
        path.write_bytes(content)
        assert load_domains("pacs", size=8).splits["photo"].inputs.equal(wanted), what
        assert not mark.exists(), what


BAD = {
    "a name that is a number": lambda state: {1: torch.ones(2)},
    "a name that is a tuple": lambda state: {("a", "b"): torch.ones(2)},
    "numbers for tensors": lambda state: {"a": 1.0},
    "nothing": lambda state: {},
    "a tensor": lambda state: torch.ones(3),
    "text": lambda state: "weights",
    "deep": lambda state: nested(90),
    "arms that are numbers": lambda state: {"arms": {"sam": 5}},
    "arms of lists": lambda state: {"arms": {"sam": [state]}},
    "an arm's model that is a number": lambda state: {"arms": {"sam": {"model": 5}}},
    "an arm's model that is text": lambda state: {"arms": {"sam": {"model": "x"}}},
    "an arm's model of numbers": lambda state: {"arms": {"sam": {"model": {"a": 1}}}},
    "sparse": lambda state: {**state, "0.weight": state["0.weight"].to_sparse()},
    "compressed rows": lambda state: {**state, "0.weight": state["0.weight"].to_sparse_csr()},
    "quantized": lambda state: {
        **state, "0.weight": torch.quantize_per_tensor(state["0.weight"], 0.1, 0, torch.qint8)
    },
    "without numbers": lambda state: {**state, "0.weight": state["0.weight"].to("meta")},
    "complex": lambda state: {**state, "0.weight": state["0.weight"] + 1j},
    "integers": lambda state: {**state, "0.weight": state["0.weight"].to(torch.int8)},
    "truth values": lambda state: {**state, "0.weight": state["0.weight"] > 0},
    "real counts": lambda state: {**state, "1.num_batches_tracked": torch.tensor(0.5)},
    "a shape of 2^60": lambda state: {**state, "0.weight": torch.ones(1).expand(2**30, 2**30)},
    "not finite": lambda state: {**state, "0.weight": torch.full((3, 4), torch.nan)},
}  # fmt: skip


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("what", BAD)
def test_weights_of_another_shape(tmp_path, what, recwarn, capfd):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / "weights.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(saved(BAD[what](model.state_dict())))
    refused(lambda: load_weights(model, read_weights(path), path), str(path))
    refused(lambda: load_pretrained(model, path), str(path))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_weights(tmp_path, dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in network().state_dict().items()}
    (tmp_path / "weights.pth").write_bytes(saved(state))
    load_pretrained(network(), tmp_path / "weights.pth")


def overlapping(data):
    """The same archive with its largest part in the list three times."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = {info.filename.split("/", 1)[1]: file.read(info) for info in file.infolist()}
    compact = archive(entries)
    start, end = compact.index(b"PK\1\2"), compact.index(b"PK\5\6")
    directory = compact[start:end]
    tail = bytearray(compact[end:])
    number = struct.unpack_from("<H", tail, 10)[0] * 3
    struct.pack_into("<HHI", tail, 8, number, number, 3 * len(directory))
    return compact[:start] + 3 * directory + bytes(tail)


BOMBS = {
    "compressed": lambda state: archive({"data.pkl": bytes(10**8)}, zipfile.ZIP_DEFLATED),
    "compressed tensors": lambda state: archive(
        {"data.pkl": b"\x80\x02}.", "data/0": bytes(10**8), "version": b"3\n"}, zipfile.ZIP_DEFLATED
    ),
    "on top of each other": lambda state: overlapping(saved({"a": torch.ones(100_000)})),
    "another directory of the archive": lambda state: saved(state) + saved(state)[-22:],
    "comment": lambda state: saved(state)[:-2] + b"\xff\xff" + bytes(65_535),
}


@pytest.mark.parametrize("what", BOMBS)
def test_weights_that_fill_the_memory(tmp_path, what):
    path = tmp_path / "weights.pth"
    path.write_bytes(BOMBS[what](network().state_dict()))

    def read():
        if what in ("comment", "another directory of the archive"):
            with suppress(RunError):
                load_pretrained(network(), path)
        else:
            refused(lambda: read_weights(path), str(path), "damaged")

    assert growth(read) < 5 * 10**7


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device", "loop", "socket"])
def test_weights_that_are_no_file(tmp_path, kind):
    path = tmp_path / "weights.pth"
    special(path, kind)
    refused(lambda: read_weights(path), str(path))
    (tmp_path / "run").mkdir()
    special(tmp_path / "run" / "checkpoint.pt", kind)
    refused(lambda: read_weights(tmp_path / "run"), "checkpoint.pt")


def test_too_little_memory_isnt_damage(tmp_path, monkeypatch):
    """To copy it again wouldn't help."""
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(network().state_dict()))
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr("torch.load", fail)
        with pytest.raises(type(error)):
            read_weights(path)


def flips_that_change(places, count):
    """Flip each of the bits of a file of weights; those that change the numbers and aren't noticed."""
    content = saved(network().state_dict())
    wanted = read_of(content)
    silent, tried = [], 0
    for place, bit in places(content):
        tried += 1
        data = bytearray(content)
        data[place] ^= 1 << bit
        try:
            got = read_of(bytes(data))
        except ValueError:
            continue
        if list(got) != list(wanted) or not all(got[name].equal(wanted[name]) for name in wanted):
            silent.append((place, bit))
    count("flipped bits of weights", tried)
    return silent


def test_a_flipped_bit_is_noticed(count):
    """A file of today's format carries checksums, which torch passes over; of its directory there are none."""

    def places(content):
        tensor = content.rindex(b"PK\1\2", 0, content.rindex(b"data/0"))
        yield from ((place, bit) for place in range(tensor, tensor + 46) for bit in range(2, 7, 2))
        rng = random.Random(0)
        yield from ((rng.randrange(len(content)), rng.randrange(8)) for _ in range(60))

    assert flips_that_change(places, count) == []


@pytest.mark.hostile
@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_noticed(bit, count):
    assert flips_that_change(lambda content: [(place, bit) for place in range(len(content))], count) == []


def read_of(content):
    return tensors_in(content, "cpu")


def fuzz(tmp_path, count, seed):
    rng = random.Random(seed)
    state = network().state_dict()
    sources = [saved(state), saved({"last": state}), saved(state, _use_new_zipfile_serialization=False)]
    path = tmp_path / "weights.pth"
    outcomes = {"whole": 0, "refused": 0}
    for _ in range(count):
        path.write_bytes(spoiled(rng.choice(sources), rng))
        with within(10):
            try:
                load_pretrained(network(), path)
                outcomes["whole"] += 1
            except RunError:
                outcomes["refused"] += 1
    return outcomes


def test_weights_spoiled_at_random(tmp_path, mark, count):
    count("files of weights spoiled at random", 100)
    assert fuzz(tmp_path, 100, 0)["refused"] > 50


@pytest.mark.hostile
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_weights_spoiled_at_random(tmp_path, mark, seed, count):
    count("files of weights spoiled at random", 1500)
    assert fuzz(tmp_path, 1500, seed)["refused"] > 700
