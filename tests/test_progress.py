"""Where there is no terminal, a line now and then says how far something is."""

import os
import sys
import time
from types import SimpleNamespace

import pytest

from lowland import progress
from lowland.data.download import bars
from lowland.data.images import counting
from lowland.data.registry import DATASETS
from lowland.progress import left, lines
from lowland.training.progress import bar, fitting, waiting


@pytest.fixture
def said(monkeypatch, capsys):
    """The lines so far, once there is one at least."""
    monkeypatch.setattr(progress, "EVERY", 0.02)

    def lines():
        deadline, text = time.monotonic() + 10, ""
        while "\n" not in text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
            text += capsys.readouterr().err
        return text.splitlines()

    return lines


def test_a_run(said):
    with bar(900) as shown:
        shown.update(0, "sam")
        time.sleep(0.05)
        shown.update(300, "sam", {"loss": 0.125, "other": 3}, {"loss": "loss"})
        said()
        assert said()[-1].startswith("sam: 300 of 900 steps (33%), about ")
        assert said()[-1].endswith(" s left; loss 0.125")


def test_what_is_not_to_be_seen_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with bar(900, visible=False) as shown, bars(False), counting("x", 3, False), lines(lambda: "x", show=False):
        shown.update(3, "sam")
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("columns", "shown"), [(200, "loss 0.1  edge 2"), (62, "loss 0.1"), (40, "")])
def test_a_bar_shows_what_fits_whole(columns, shown):
    terminal = SimpleNamespace(console=SimpleNamespace(width=columns))
    assert fitting(["loss 0.1", "edge 2"], terminal, taken=50) == shown


def test_a_download(said):
    download = DATASETS["mnist"].downloads[0]
    with bars(True) as advance:
        advance(download, download.size // 2)
        said()
        assert said()[-1].startswith(f"{download.filename}: ")
        assert said()[-1].endswith(" MB (50%)")


def test_images_being_decoded(said):
    with counting("celeba train", 7, True) as advance:
        for _ in range(3):
            advance()
        said()
        assert said()[-1] == "celeba train: 3 of 7 images"


def test_something_of_unknown_length(said):
    with waiting("measuring weights.pt"):
        assert said()[-1].startswith("measuring weights.pt: for ")


def test_nothing_comes_after_the_end(said, capsys):
    with lines(lambda: "here"):
        said()
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_reader_who_is_gone_is_an_error_of_the_caller(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    read, write = os.pipe()
    os.close(read)
    gone = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stderr", gone)
    with lines(lambda: "here") as told:
        told._thread.join(10)
        with pytest.raises(BrokenPipeError):
            told.check()
    with pytest.raises(BrokenPipeError):
        gone.close()


@pytest.mark.parametrize(
    ("done", "total", "seconds", "says"),
    [
        (1, 10, 10, ", about 2 min left"),
        (5, 10, 10, ", about 10 s left"),
        (0, 10, 10, ""),
        (11, 10, 10, ""),
    ],
)
def test_time_left(done, total, seconds, says):
    assert left(done, total, seconds) == says
