"""Output that can't take every letter, is closed, full, or has lost its reader; arguments that are no text."""

import json
import os
import sys
from io import BytesIO, TextIOWrapper

import pytest

from tests.processes import end, python


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8", "utf-16"])
def test_letters_that_the_encoding_lacks(lowland, monkeypatch, encoding):
    raw = {name: BytesIO() for name in ("stdout", "stderr")}

    def printed(*arguments):
        for name, content in raw.items():
            content.seek(0)
            content.truncate()
            monkeypatch.setattr(sys, name, TextIOWrapper(content, encoding=encoding))
        code = lowland(*arguments).code
        sys.stdout.flush()
        sys.stderr.flush()
        # An ASCII stdout is taken for one that is not set up, and gets UTF-8.
        read = "utf-8" if encoding == "ascii" else encoding
        return code, *(content.getvalue().decode(read) for content in raw.values())

    code, out, err = printed("show", "long2024/mnist")
    assert (code, err) == (0, "")
    assert "step size η" in out or "step size ?" in out
    code, out, err = printed("run", "long2024/mnist", "--set", "rho=-1")
    assert (code, out) == (2, "")
    assert "radius ρ" in err or "radius ?" in err
    code, out, err = printed("list", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["name"] == "andriushchenko2022/cifar10"


ODD = os.fsdecode(b"r\xffe")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", ODD),
        ("show", ODD),
        ("run", "long2024/digits", "--set", f"rho={ODD}"),
        ("run", "long2024/digits", "--set", f"{ODD}=1"),
        ("run", "long2024/digits", "--seed", ODD),
        ("run", "long2024/digits", "--device", ODD),
        ("run", "long2024/digits", "--scale", ODD),
        ("run", "andriushchenko2022/finetune", "--set", f"start={ODD}"),
        ("sweep", "long2024/digits", "--grid", ODD),
        ("evaluate", "long2024/digits", ODD),
        ("data", "fetch", ODD),
        (ODD,),
    ],
)
def test_arguments_that_are_no_text_are_refused_in_one_line(refused, arguments):
    refused(*arguments)


def test_a_folder_whose_name_is_no_text(undrawn, lowland, tmp_path):
    quick = ("--set", "steps=4", "--set", "check_every=4", "--set", "tol=0.1")
    outcome = lowland("run", "long2024/digits", "--scale", "smoke", *quick, "--out", ODD)
    assert outcome.code == 0
    assert (tmp_path / ODD / "summary.json").exists()
    assert "long2024/digits" in (tmp_path / ODD / "summary.json").read_text(encoding="utf-8")


def ended(*arguments, **options):
    """Exit code, stdout and stderr, in bytes."""
    done = end(python("-m", "lowland", *arguments, text=None, errors=None, **options))
    return done.code, done.out, done.err


def test_an_odd_name_where_there_is_no_utf8():
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    code, out, err = ended(b"r\xffe \xce\xb7", environment=environment)
    assert (code, out) == (2, b"")
    assert b"No such command 'r" in err
    assert err.isascii()
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams(closed):
    close = lambda: [os.close(descriptor) for descriptor in closed] and None  # noqa: E731
    code, out, err = ended("--help", preexec_fn=close)
    assert (code, err) == (0, b"")
    assert bool(out) == (1 not in closed)
    code, out, err = ended("lst", preexec_fn=close)
    assert code == 2
    assert err.count(b"\n") == (2 not in closed)


def test_nothing_is_opened_in_the_place_of_a_closed_stream(tmp_path):
    code = (
        "import sys, lowland.commands as commands\n"
        "def call(arguments):\n"
        "    with open('file', 'w'): print('to stdout'); print('to stderr', file=sys.stderr)\n"
        "    return 0\n"
        "commands.call = call\n"
        "from lowland.cli import main; main()"
    )
    close = lambda: os.closerange(1, 3)  # noqa: E731
    assert end(python("-c", code, cwd=tmp_path, preexec_fn=close, stdout=None, stderr=None)).code == 0
    assert (tmp_path / "file").read_text() == ""


def without_reader():
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "wb")


def test_nobody_reads():
    with without_reader() as pipe:
        assert ended("--help", stdout=pipe) == (141, None, b"")
        assert ended("lst", stderr=pipe) == (141, b"", None)


def test_a_broken_pipe_within_is_no_reader_gone(lowland, monkeypatch):
    def call(_):
        raise BrokenPipeError(32, "Broken pipe", "/somewhere/else")

    monkeypatch.setattr("lowland.commands.call", call)
    monkeypatch.setattr("lowland.streams.reader_gone", lambda: False)
    outcome = lowland("list")
    assert outcome.code == 2
    assert "Broken pipe (/somewhere/else)" in outcome.err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk(unbuffered):
    with open("/dev/full", "wb") as full:
        code, _, err = ended("--help", stdout=full, environment={"PYTHONUNBUFFERED": unbuffered})
    assert code == 2
    assert b"No space left on device" in err
    assert err.count(b"\n") == 1
