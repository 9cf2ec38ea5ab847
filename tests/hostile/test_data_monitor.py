"""The file of a monitor's records: what isn't ours stays as it is, what is torn is taken back."""

import errno
import json
import os
import random
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import Monitor, read_jsonl
from lowland.curvature.sinks import JsonLines
from tests.full_disk import full_disk
from tests.hostile.data_tools import SPECIAL, special, within
from tests.hostile.test_data_archives import spoiled


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """The first optimizer of a process loads what takes seconds."""
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


def monitor(path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    batch = torch.randn(8, 3), torch.randint(2, (8,))
    return Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model, F.cross_entropy, [batch], to=path)


def refused(call, *says):
    with within(10), pytest.raises(ValueError, match="monitor") as caught:
        call()
    for text in says:
        assert text in str(caught.value)


OTHERS = {
    "notes": b"buy milk\nand then",
    "notes of one line": b"buy milk",
    "notes that begin like ours": b'{"step": 1}\nand then some notes\n{"st',
    "notes behind ours": b'{"step": 1}\n{"step": 2}\nbuy milk',
    "numbers": b"1\n2\n3\n",
    "a list": b"[1, 2]\n",
    "JSON of something else": b'{"epoch": 1}\n',
    "JSON, indented": b'{\n  "step": 1\n}\n',
    "a step in words": b'{"step": "one"}\n',
    "a step that is text": b'{"step": "1"}\n',
    "a step that is true": b'{"step": true}\n',
    "half a step": b'{"step": 0.5}\n',
    "a step without end": b'{"step": 1e999}\n',
    "a step of 5,000 digits": b'{"step": ' + b"9" * 5000 + b"}\n",
    "nested": b"[" * 100_000 + b"\n",
    "an empty line": b'{"step": 1}\n\n',
    "two records glued": b'{"step": 1, "los{"step": 2}\n',
    "NULs": bytes(100) + b"\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "UTF-16": b"\xff\xfe" + '{"step": 1}\n'.encode("utf-16-le"),
    "Windows' notes": b"a\r\nb",
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("resumed", [False, True])
def test_a_file_that_isnt_ours_stays_as_it_is(tmp_path, what, resumed):
    path = tmp_path / "notes.txt"
    path.write_bytes(OTHERS[what])
    refused(lambda: monitor(path), str(path), "line")
    path.unlink()
    sink = JsonLines(path)
    path.write_bytes(OTHERS[what])  # has come there since
    if resumed:
        sink.resume(0)
    refused(lambda: sink(1, {"step": 1}), str(path))
    assert path.read_bytes() == OTHERS[what]
    with within(10), pytest.raises(ValueError, match="line"):
        read_jsonl(path)


OURS = {
    "nothing": (b"", []),
    "records": (b'{"step": 1}\n{"step": 2}\n', [1, 2]),
    "a torn record": (b'{"step": 1}\n{"step": 2, "loss": 0.', [1]),
    "one torn at its first byte": (b'{"step": 1}\n{', [1]),
    "one that lacks its end alone": (b'{"step": 1}\n{"step": 2}', [1]),
    "a torn one alone": (b'{"step": 1', []),
    "NULs where the machine crashed": (b'{"step": 1}\n' + bytes(4096), [1]),
    "half a record and NULs": (b'{"step": 1}\n{"step": 2, "l' + bytes(500), [1]),
}


@pytest.mark.parametrize("what", OURS)
def test_a_file_of_ours_is_gone_on_with(tmp_path, what):
    path = tmp_path / "sharpness.jsonl"
    content, steps = OURS[what]
    path.write_bytes(content)
    sink = JsonLines(path)
    assert path.read_bytes() == content  # nothing is cut before there is something to write
    assert [record["step"] for record in read_jsonl(path)] == steps
    sink(7, {"step": 7})
    assert [record["step"] for record in read_jsonl(path)] == [*steps, 7]


def test_the_records_of_a_run_are_no_monitors(tmp_path):
    """They have a step, too."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"arm": "sam", "step": 1}\n')
    refused(lambda: monitor(path), str(path), "line 1")


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "records"
    special(path, kind)
    refused(lambda: monitor(path), str(path))
    with within(10), pytest.raises(OSError, match=r"it is|irectory|symbolic"):
        read_jsonl(path)


def test_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    refused(lambda: monitor(tmp_path / "file" / "records.jsonl"), "records.jsonl")


@pytest.mark.parametrize("room", range(0, 60, 7))
def test_a_full_disk_leaves_no_torn_record(tmp_path, room):
    """A real one, by a limit of the process; with room again, all later records are there."""
    path = tmp_path / "sharpness.jsonl"
    sink = JsonLines(path)
    sink(1, {"step": 1, "loss": 0.5})
    before = path.read_bytes()
    with full_disk(len(before) + room):
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as caught:
            sink(2, {"step": 2, "text": "x" * 100})
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    sink(3, {"step": 3})
    assert [record["step"] for record in read_jsonl(path)] == [1, 3]


def test_a_record_that_cant_be_taken_back_is_cut_before_the_next(tmp_path, monkeypatch):
    path = tmp_path / "sharpness.jsonl"
    sink = JsonLines(path)
    sink(1, {"step": 1})
    written = len(path.read_bytes())

    def fail(*_):
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as broken:
        broken.setattr(os, "ftruncate", fail)
        with full_disk(written + 12):
            with pytest.raises(OSError, match="no"):
                sink(2, {"step": 2, "text": "x" * 100})
    assert len(path.read_bytes()) == written + 12
    sink(3, {"step": 3})
    assert [record["step"] for record in read_jsonl(path)] == [1, 3]


def test_a_full_disk_doesnt_end_the_training(tmp_path):
    path = tmp_path / "sharpness.jsonl"
    watch = monitor(path)
    watch.check()
    with full_disk(path.stat().st_size + 20):
        with pytest.warns(UserWarning, match="was not written"):
            watch.check()
    watch.check()
    assert len(read_jsonl(path)) == 1  # of one step: the last takes the place of those before
    assert len(path.read_text().splitlines()) == 2
    assert len(watch.records) == 3


def test_records_spoiled_at_random(tmp_path):
    """Each is read, or refused in a line; and a monitor goes on with what is read, or leaves it as it is."""
    rng = random.Random(0)
    path = tmp_path / "sharpness.jsonl"
    sound = b"".join(json.dumps({"step": step, "loss": 0.5}).encode() + b"\n" for step in range(20))
    read = 0
    for _ in range(200):
        content = spoiled(sound, rng)
        path.write_bytes(content)
        with warnings.catch_warnings(), within(10):
            warnings.simplefilter("error")
            try:
                records = read_jsonl(path)
            except ValueError:
                refused(lambda: JsonLines(path), str(path))
                assert path.read_bytes() == content
                continue
            try:
                JsonLines(path)(10**6, {"step": 10**6})
            except ValueError:  # JSON that isn't of our making
                assert path.read_bytes() == content
            else:
                assert read_jsonl(path)[:-1] == records
                read += 1
    assert 10 < read < 190
