"""Every file of a run and of a sweep, damaged in every way: refused in a line, or the records of an undisturbed run."""

import json
import os
import pickle
import shutil

import pytest
import torch

from .children import call, whole
from .victims import COMMANDS, outcome

BARE = [("undrawn",)]


class Payload:
    """Whoever unpickles it makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def _flipped(content, draw):
    bit = draw.randrange(8 * len(content))
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def _zeroed(content, draw):
    start = draw.randrange(len(content))
    length = min(len(content) - start, draw.choice((16, 64, 512, 4096)))
    return content[:start] + bytes(length) + content[start + length :]


def _reshaped(content, draw):
    """The same JSON with one value, anywhere in it, of another kind."""
    try:
        lines = [json.loads(line) for line in content.splitlines()] if content.count(b"}\n{") else [json.loads(content)]
    except ValueError:
        return b"null"
    places = [(line, key) for line in lines for key in _places(line)]
    line, (holder, key) = draw.choice(places)
    holder[key] = draw.choice([None, [], {}, "text", -1, 1e300, True, [[]], {"a": None}, 2**70])
    assert line is not None
    return "".join(json.dumps(one) + "\n" for one in lines).encode()


def _places(value):
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


DAMAGE = {
    "truncated": lambda content, draw: content[: draw.randrange(len(content))],
    "emptied": lambda content, draw: b"",
    "doubled": lambda content, draw: content * 2,
    "NUL bytes at its end": lambda content, draw: content + bytes(draw.randint(1, 5000)),
    "nothing but NUL bytes": lambda content, draw: bytes(len(content)),
    "a flipped bit": _flipped,
    "a block of zeros": _zeroed,
    "other bytes": lambda content, draw: draw.randbytes(max(1, len(content))),
    "nested deeply": lambda content, draw: draw.choice((b"[", b'{"a":')) * 200_000,
    "JSON of another shape": lambda content, draw: draw.choice(
        (b"null", b"[]", b"{}", b"3", b'"x"', b'{"arms": null}')
    ),
    "a value of another kind": _reshaped,
    "a line lost": lambda content, draw: b"".join(draw.sample(content.splitlines(True), len(content.splitlines()) - 1)),
    "lines in another order": lambda content, draw: b"".join(
        draw.sample(content.splitlines(True), len(content.splitlines()))
    ),
}
KINDS = {
    "another version": lambda path, mark, draw: _another_version(path, draw),
    "a pickle": lambda path, mark, draw: path.write_bytes(pickle.dumps(Payload(mark), draw.choice((0, 2, 4)))),
    "a pickle in a zip file": lambda path, mark, draw: torch.save({"arms": {}, "x": Payload(mark)}, path),
    "torch's old format": lambda path, mark, draw: torch.save(
        {"arms": Payload(mark)}, path, _use_new_zipfile_serialization=False
    ),
    "a folder": lambda path, mark, draw: (path.unlink(), path.mkdir()),
    "a dangling link": lambda path, mark, draw: (path.unlink(), path.symlink_to("nowhere")),
    "a link to itself": lambda path, mark, draw: (path.unlink(), path.symlink_to(path.name)),
    "a named pipe": lambda path, mark, draw: (path.unlink(), os.mkfifo(path)),
    "a device": lambda path, mark, draw: (path.unlink(), path.symlink_to("/dev/zero")),
    "gone": lambda path, mark, draw: path.unlink(),
}


def _another_version(path, draw):
    """Something is left out: in a checkpoint, in JSON, of the lines of a table."""
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        holder = state if draw.random() < 0.3 else draw.choice(list(state["arms"].values()) or [state])
        holder.pop(draw.choice(list(holder)))
        torch.save(state, path)
    elif path.suffix == ".csv":
        path.write_bytes(b"".join(path.read_bytes().splitlines(True)[1:]))
    else:
        first, *rest = path.read_bytes().splitlines(True)
        value = json.loads(first) if rest and path.suffix == ".jsonl" else json.loads(path.read_bytes())
        value.pop(draw.choice(list(value)))
        path.write_bytes(json.dumps(value).encode() + b"\n" + (b"".join(rest) if path.suffix == ".jsonl" else b""))


FILES = {
    "run": ("config.json", "metrics.jsonl", "checkpoint.pt"),
    "vectorized": (
        "config.json", "runs/*/config.json", "runs/*/checkpoint.pt", "runs/*/metrics.jsonl",
    ),
}  # fmt: skip
FINISHED = {
    "run": ("config.json", "summary.json", "metrics.jsonl"),
    "vectorized": (
        "config.json", "summary.json", "results.csv", "metrics.jsonl", "runs/*/config.json", "runs/*/ended.json",
        "runs/*/metrics.jsonl",
    ),
}  # fmt: skip


SPARSE = 1 << 40


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A folder as a command leaves it: begun or finished."""
    folder, known = tmp_path_factory.mktemp("left"), {}

    def find(kind, state):
        path = folder / f"{kind} {state}"
        if path not in known:
            setup = [("die_in", "after it is in place", 8)] if state == "begun" else []
            ended = call(*COMMANDS[kind], "--out", path, cwd=folder, setup=setup)
            assert ended.code == (-9 if state == "begun" else 0), ended
            known[path] = True
        return path

    return find


def harm(out, pattern, how, draw):
    """Damage a file of the run; where a payload would leave its mark."""
    path = draw.choice(sorted(out.glob(pattern)))
    mark = out.parent / "executed"
    if how in DAMAGE:
        content = path.read_bytes()
        damaged = DAMAGE[how](content, draw)
        path.write_bytes(damaged)
    else:
        KINDS[how](path, mark, draw)
    return mark


def check(kind, state, pattern, how, left, expected, folder, draw):
    out = folder / "out"
    shutil.copytree(left(kind, state), out)
    mark = harm(out, pattern, how, draw)
    ended = call(*COMMANDS[kind], "--out", "out", cwd=folder)
    assert ended.is_clear(), ended
    assert ended.code in (0, 2), ended
    assert not mark.exists()
    if ended.code == 0:
        found = outcome(out)
        # A finished summary may say what it likes, as long as it has all that is printed of it.
        assert found[1:] == expected[1:] if state == "finished" else found == expected, ended


@pytest.mark.parametrize("name", ["metrics.jsonl", *whole("config.json", "checkpoint.pt", "weights", "grid")])
def test_a_file_of_a_terabyte(name, left, tmp_path, count):
    """It takes no room on the disk, and more memory than there is: the line names it, and nothing is called damaged."""
    count("damaged files")
    out = tmp_path / "out"
    shutil.copytree(left("run", "begun"), out)
    path = out / name if "." in name else tmp_path / name
    with path.open("ab") as file:
        file.truncate(SPARSE)
    if name == "weights":
        ended = call("evaluate", "tests/victim", path, cwd=tmp_path)
    elif name == "grid":
        ended = call(*COMMANDS["vectorized"], "--grid", path, "--out", "sweep", cwd=tmp_path)
    else:
        ended = call(*COMMANDS["run"], "--out", "out", cwd=tmp_path)
    assert ended.code == 2, ended
    assert ended.is_clear(), ended
    assert f"out of memory ({path.relative_to(tmp_path) if '.' in name else path} has {SPARSE:,} bytes)" in ended.err
    assert "damaged" not in ended.err


@pytest.mark.parametrize("kind", FILES)
def test_some_damage(kind, left, undisturbed, tmp_path, draw, count):
    expected, _ = undisturbed(kind)
    for trial in range(3):
        folder = tmp_path / str(trial)
        folder.mkdir()
        pattern = draw.choice(FILES[kind])
        how = draw.choice([*DAMAGE, *KINDS])
        count("damaged files")
        check(kind, "begun", pattern, how, left, expected, folder, draw)


EVERY = [
    (state, kind, pattern)
    for state, kinds in (("begun", FILES), ("finished", FINISHED))
    for kind, patterns in kinds.items()
    for pattern in patterns
]


@pytest.mark.hostile
@pytest.mark.parametrize("how", [*DAMAGE, *KINDS])
@pytest.mark.parametrize(("state", "kind", "pattern"), EVERY)
def test_every_file(state, kind, pattern, how, left, undisturbed, tmp_path, draw, count):
    expected, _ = undisturbed(kind)
    count("damaged files")
    check(kind, state, pattern, how, left, expected, tmp_path, draw)


@pytest.mark.hostile
@pytest.mark.parametrize("how", [*DAMAGE, *KINDS])
@pytest.mark.parametrize("name", ["checkpoint.pt", "config.json"])
def test_evaluating_what_is_damaged(name, how, left, tmp_path, draw, count):
    count("damaged files")
    out = tmp_path / "out"
    shutil.copytree(left("run", "finished"), out)
    whole = call("evaluate", "tests/victim", out, "--arm", "sam", "--json", cwd=tmp_path)
    assert whole.code == 0, whole
    mark = harm(out, name, how, draw)
    ended = call("evaluate", "tests/victim", out, "--arm", "sam", "--json", cwd=tmp_path)
    assert ended.is_clear(), ended
    assert not mark.exists()
    if ended.code == 0 and name == "checkpoint.pt":
        assert ended.out == whole.out
