"""A run directory in the hands of others: damage of every kind is found before the first step, and named."""

import json
import os
import shutil
import zipfile

import pytest
import torch

import lowland.training as training
from lowland.errors import LowlandError, RunError
from lowland.training import RunDirectory, configuration
from lowland.training.run import Run
from tests.fakes import TOY

CPU = torch.device("cpu")


def run(path, until=None, prepared=None):
    arms = TOY.configure("smoke", {})
    with RunDirectory(path, configuration(TOY, "smoke", arms, CPU)) as directory:
        if prepared is not None:
            prepared(directory)
        return training.train(TOY, arms, directory, CPU, show_progress=False, until=until)


@pytest.fixture
def begun(tmp_path):
    """A run that was paused after its first arm's second step."""
    run(tmp_path / "run", until=2)
    return tmp_path / "run"


def enter(path, **changed):
    arms = TOY.configure("smoke", {})
    with RunDirectory(path, configuration(TOY, "smoke", arms, CPU) | changed) as directory:
        return directory.anew


def test_what_ended_before_its_first_step_begins_anew_with_other_code_or_settings(tmp_path):
    """A first bug is mended in the file, and the same command again."""
    assert enter(tmp_path / "run", code={"mine.py": "old"}) == ""
    assert enter(tmp_path / "run", code={"mine.py": "old"}) == ""
    (tmp_path / "run/metrics.jsonl").write_text('{"arm": "sam", "step": 0, "loss": 1.0}\n{"arm": "sa')
    begins = "begins anew: it was interrupted before its first checkpoint, and"
    anew = enter(tmp_path / "run", code={"mine.py": "new"})
    assert anew == f"{tmp_path / 'run'} {begins} mine.py has changed since"
    anew = enter(tmp_path / "run", code={"mine.py": "new"}, scale="laptop")
    assert anew == f"{tmp_path / 'run'} {begins} scale is smoke there, laptop here"
    there = json.loads((tmp_path / "run/config.json").read_text())
    assert (there["code"], there["scale"]) == ({"mine.py": "new"}, "laptop")
    part = tmp_path / "swept/runs/one"
    enter(tmp_path / "swept", sweep=True, code={"mine.py": "old"})
    enter(part, code={"mine.py": "old"})
    enter(tmp_path / "swept", sweep=True, code={"mine.py": "new"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", '{"arm": "sam", "step": 0}\n{"arm": "sam", "step": 5}\n'),
        ("metrics.jsonl", "damaged\n"),
        ("checkpoint.pt", ""),
        ("summary.json", "{}"),
    ],
)
def test_what_was_trained_or_is_not_understood_is_kept(tmp_path, name, content):
    says = "holds a run of other code .mine.py has changed since.: choose another --out, or remove the directory"
    for run, sweep in ((tmp_path / "run", {}), (tmp_path / "swept", {"sweep": True})):
        enter(run, code={"mine.py": "old"}, **sweep)
        place = run
        if sweep:
            place = run / "runs/one"
            enter(place, code={"mine.py": "old"})
        (place / name).write_text(content)
        with pytest.raises(RunError, match=says):
            enter(run, code={"mine.py": "new"}, **sweep)
        assert (place / name).read_text() == content


def payload(file):
    """A pickle that makes ``file`` when it is loaded as Python loads pickles."""

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(file),)

    return Payload()


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def same(one, other):
    """Whether two checkpoints hold the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_one_flipped_bit_of_a_checkpoint_is_refused_or_changes_nothing(tmp_path):
    """Bits between the contents of a zip file (padding, dates) mean nothing; all others are noticed."""
    with RunDirectory(tmp_path, {}) as directory:
        directory.append({"arm": "a", "step": 0})
        arm = {"step": 1, "finished": False, "diverged_at": None, "model": {"w": torch.arange(4.0)}}
        directory.save({"arms": {"a": arm}})
        whole = (tmp_path / "checkpoint.pt").read_bytes()
        expected = directory.load(CPU)
        refused = 0
        for bit in range(0, 8 * len(whole), 61):
            (tmp_path / "checkpoint.pt").write_bytes(flipped(whole, bit))
            try:
                assert same(directory.load(CPU), expected), bit
            except RunError as error:
                assert "checkpoint.pt" in str(error)  # noqa: PT017
                refused += 1
        assert refused > 40


@pytest.mark.parametrize("damage", ["flipped", "zeroed", "truncated", "emptied", "doubled", "NUL bytes", "text"])
def test_a_damaged_checkpoint_is_refused_before_the_first_step(begun, damage):
    file = begun / "checkpoint.pt"
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    inside = largest.header_offset + 30 + len(largest.filename) + 64 + largest.file_size // 2
    damaged = {
        "flipped": flipped(content, 8 * inside),
        "zeroed": content[:inside] + bytes(64) + content[inside + 64 :],
        "truncated": content[:-100],
        "emptied": b"",
        "doubled": flipped(content, 8 * inside) + content,
        "NUL bytes": bytes(len(content)),
        "text": b"hello",
    }[damage]
    assert damaged != content
    file.write_bytes(damaged)
    before = {path.name: path.read_bytes() for path in begun.iterdir()}
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        run(begun)
    assert {path.name: path.read_bytes() for path in begun.iterdir()} == before


def test_nothing_in_a_checkpoint_is_executed(begun, tmp_path):
    torch.save({"arms": {}, "metrics_bytes": 0, "x": payload(tmp_path / "executed")}, begun / "checkpoint.pt")
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        run(begun)
    torch.save({"arms": payload(tmp_path / "executed")}, begun / "checkpoint.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        run(begun)
    assert not (tmp_path / "executed").exists()


SHAPES = [
    [],
    None,
    torch.zeros(2),
    {},
    {"arms": None},
    {"arms": []},
    {"arms": {"sam": None}},
    {"arms": {"sam": {}}},
    {"arms": {"sam": {"finished": False}}},
    {"arms": {"sam": {"finished": "no", "diverged_at": None}}},
    {"arms": {"sam": {"finished": True, "diverged_at": "never"}}},
    {"arms": {"sam": {"finished": False, "diverged_at": None}}},
    {"arms": {"sam": {"finished": False, "diverged_at": None, "step": 10**9}}},
    {"arms": {"sam": {"finished": False, "diverged_at": None, "step": -1}}},
    {"arms": {"sam": {"finished": False, "diverged_at": None, "step": 2, "model": {}}}},
    {"arms": {3: {}}},
    {"arms": {}, "metrics_bytes": -1},
    {"arms": {}, "metrics_bytes": "much"},
    {"arms": {}, "metrics_bytes": 1e300},
]


@pytest.mark.parametrize("content", SHAPES, ids=str)
def test_a_checkpoint_of_another_shape_is_refused(begun, content):
    size = (begun / "metrics.jsonl").stat().st_size
    if isinstance(content, dict):
        content = {"metrics_bytes": size, **content}
    torch.save(content, begun / "checkpoint.pt")
    with pytest.raises(RunError, match=r"checkpoint\.pt"):
        run(begun)


@pytest.mark.parametrize("part", ["model", "optimizer", "check", "random", "train_seconds"])
@pytest.mark.parametrize("replaced", [None, {}, 3, {"torch": "x"}])
def test_a_checkpoint_whose_states_are_of_another_version_is_refused(begun, part, replaced):
    file = begun / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    assert part in state["arms"]["sam"]
    state["arms"]["sam"][part] = replaced
    torch.save(state, file)
    if part == "train_seconds" and replaced == 3:
        run(begun)  # three seconds, why not
    else:
        with pytest.raises(RunError, match=r"checkpoint\.pt .*remove .* and start again"):
            run(begun)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b'"step": 0', b'"step": 1'),
        lambda text: text[: len(text) // 2] + bytes([text[len(text) // 2] ^ 1]) + text[len(text) // 2 + 1 :],
        lambda text: text + text,
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: bytes(len(text)),
        lambda text: b"[1]\n" + text[4:],
        lambda text: text.upper(),
    ],
)
def test_damage_in_the_records_is_noticed_before_the_first_step(begun, monkeypatch, damage):
    file = begun / "metrics.jsonl"
    content = file.read_bytes()
    file.write_bytes(damage(content))
    monkeypatch.setattr(Run, "__init__", None)
    if damage(content).startswith(content):  # more than belongs to the checkpoint: cut, and made again
        monkeypatch.undo()
        run(begun)
        assert file.read_bytes().startswith(content)
        return
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        run(begun)


def test_doubled_lines_are_damage(tmp_path):
    run(tmp_path)
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes() * 2)
    with pytest.raises(RunError, match="line 5 is damaged"):
        training.read_records(tmp_path)


JSON = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"3",
    b"{}{}",
    b"\x00" * 40,
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 5000,
]


@pytest.mark.parametrize("content", JSON, ids=lambda content: repr(content[:8]))
def test_a_damaged_configuration_is_called_so(begun, content):
    (begun / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        run(begun)


@pytest.mark.parametrize(
    "changed", [{"arms": None}, {"arms": []}, {"arms": {"sam": 3}}, {"processes": "two"}, {"experiment": {}}, {"x": 1}]
)
def test_a_configuration_of_another_shape_is_refused(begun, changed):
    config = json.loads((begun / "config.json").read_text())
    (begun / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(RunError, match=r"choose another --out, or remove it"):
        run(begun)


# What isn't damage: the system says what is the matter, and nobody is told to remove a good file.


@pytest.mark.parametrize("name", ["checkpoint.pt", "config.json", "metrics.jsonl"])
@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), MemoryError()]
)
def test_a_file_that_cannot_be_read_is_not_called_damaged(begun, monkeypatch, name, error):
    import builtins
    import io
    from pathlib import Path

    real = io.open

    def failing(file, *arguments, **options):
        if str(file).endswith(name):
            raise error
        return real(file, *arguments, **options)

    monkeypatch.setattr(io, "open", failing)
    monkeypatch.setattr(builtins, "open", failing)
    assert Path.open.__globals__["io"] is io
    with pytest.raises(type(error)) as caught:
        run(begun)
    assert not isinstance(caught.value, LowlandError)


def test_memory_that_ends_while_a_checkpoint_is_read_is_not_damage(begun, monkeypatch):
    def load(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes.")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run(begun)


# Somebody else's hands while the run goes on.


def while_running(monkeypatch, action):
    """Do ``action`` in mid-run, after the first arm's second step."""
    real = Run._train

    def step(self, batch):
        real(self, batch)
        if self.step == 2 and self.name == "sam":
            action()

    monkeypatch.setattr(Run, "_train", step)


def another_run(path):
    """Another process begins in the same place."""
    shutil.rmtree(path)
    path.mkdir()
    (path / ".lock").touch()
    shutil.copy(path.parent / "config.json", path)
    (path / "metrics.jsonl").write_bytes(b'{"arm": "sam", "step": 0, "by": "the other"}\n')


@pytest.mark.parametrize("how", ["removed", "moved", "replaced", "linked", "another run"])
def test_a_directory_that_goes_in_mid_run_ends_it(tmp_path, monkeypatch, how):
    path, aside = tmp_path / "run", tmp_path / "aside"
    if how == "another run":
        run(tmp_path / "first", until=1)
        shutil.copy(tmp_path / "first/config.json", tmp_path)

    def act():
        if how == "removed":
            shutil.rmtree(path)
        elif how == "another run":
            another_run(path)
        else:
            path.rename(aside)
            if how == "replaced":
                shutil.copytree(aside, path)
            if how == "linked":
                shutil.copytree(aside, tmp_path / "copy")
                path.symlink_to(tmp_path / "copy")

    while_running(monkeypatch, act)
    with pytest.raises(RunError, match="removed, moved away or replaced"):
        run(path)
    if how == "another run":
        assert path.joinpath("metrics.jsonl").read_bytes() == b'{"arm": "sam", "step": 0, "by": "the other"}\n'
        assert not (path / "checkpoint.pt").exists()
    if how == "removed":
        assert not path.exists()


@pytest.mark.parametrize("how", ["emptied", "removed", "written to", "changed"])
def test_records_that_change_in_mid_run_end_it(tmp_path, monkeypatch, how):
    file = tmp_path / "metrics.jsonl"

    def act():
        content = file.read_bytes()
        file.unlink()
        if how != "removed":
            file.write_bytes(
                {
                    "emptied": b"",
                    "written to": content + b"\n",
                    "changed": content.replace(b'"calls": 1', b'"calls": 7'),
                }[how]
            )

    while_running(monkeypatch, act)
    with pytest.raises(RunError, match=r"metrics\.jsonl .*another process"):
        run(tmp_path)


def test_a_link_to_a_run_and_a_copy_of_it_go_on(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "copy")
    (tmp_path / "link").symlink_to(begun)
    run(tmp_path / "copy")
    run(tmp_path / "link")
    assert (begun / "metrics.jsonl").read_bytes() == (tmp_path / "copy/metrics.jsonl").read_bytes()


def test_a_directory_in_use_by_its_other_name(begun, tmp_path):
    (tmp_path / "link").symlink_to(begun)

    def other(_):
        with pytest.raises(RunError, match="in use"):
            run(tmp_path / "link")

    run(begun, prepared=other)


def test_going_on_with_another_version_or_other_threads_is_said(begun, monkeypatch, recwarn):
    """The bits may be others than those of a run in one piece."""
    run(begun)
    assert not [warning for warning in recwarn if "was begun with" in str(warning.message)]
    file = begun / "checkpoint.pt"
    state = torch.load(file)
    torch.save(state | {"made_with": state["made_with"] | {"torch": "2.0.0"}}, file)
    with pytest.warns(UserWarning, match=r"was begun with torch 2\.0\.0, now 2\."):
        run(begun)
