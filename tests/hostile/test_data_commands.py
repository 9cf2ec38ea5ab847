"""The data commands on what is hostile: one line on stderr, exit code 2, and no traceback."""

import os

import pytest

from tests.data.layouts import draw_domains, draw_waterbirds
from tests.hostile.data_tools import special, within


def spoil(what, small, monkeypatch):
    """Make it so; which dataset it is."""
    if what == "unknown user":
        monkeypatch.setenv("LOWLAND_DATA", "~nobody-of-that-name/data")
    elif what == "no home":
        for variable in ("HOME", "LOWLAND_DATA", "XDG_CACHE_HOME"):
            monkeypatch.delenv(variable, raising=False)

        def nobody(_):
            raise KeyError("uid not found")

        monkeypatch.setattr("pwd.getpwuid", nobody)
    elif what == "pipe for a root":
        special(small.root, "fifo")
    elif what == "pipe for a file":
        special(small.write("mnist") / "train-images-idx3-ubyte", "fifo")
    elif what == "device for an archive":
        special(small.write("mnist", packed=True) / "train-labels-idx1-ubyte.gz", "device")
    elif what == "PostScript":
        (draw_domains(small.root, n=1) / "photo" / "dog" / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
        return "pacs"
    elif what == "folder of an odd name":
        folder = draw_domains(small.root, n=1) / "photo" / "\udcff\n\x1b[31m"
        folder.mkdir()
        return "pacs"
    elif what == "name with a NUL":
        table = draw_waterbirds(small.root) / "metadata.csv"
        table.write_text(table.read_text().replace("001.Some", "0\0001.Some"))
        return "waterbirds"
    elif what == "stray quote":
        table = draw_waterbirds(small.root) / "metadata.csv"
        table.write_text(table.read_text().replace("/o/ocean/00000001", '"/o/ocean/00000001'))
        return "waterbirds"
    return "mnist"


CASES = (
    "unknown user", "no home", "pipe for a root", "pipe for a file", "device for an archive", "PostScript",
    "folder of an odd name", "name with a NUL", "stray quote",
)  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_verify(small, monkeypatch, lowland, what):
    name = spoil(what, small, monkeypatch)
    with within(10):
        outcome = lowland("data", "verify", name)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert (outcome.out + outcome.err).replace("\n", "").isprintable()
    assert "Traceback" not in outcome.err
    if "for a file" in what or "archive" in what:  # to fetch alone would change nothing
        assert "remove what is damaged and run `lowland data fetch" in outcome.err


@pytest.mark.parametrize("what", ["unknown user", "no home", "pipe for a root"])
@pytest.mark.parametrize("command", ["status", "fetch"])
def test_status_and_fetch(small, monkeypatch, lowland, what, command, tmp_path):
    spoil(what, small, monkeypatch)
    outcome = lowland("data", command)
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1
    assert "$LOWLAND_DATA" in outcome.err
    assert not os.path.exists(tmp_path / "~")
