"""Where there is no terminal, a line now and then says how far something is."""

import os
import select
import sys
import time
from types import SimpleNamespace

import pytest

from lowland import patience
from lowland.data.download import bars
from lowland.data.images import counting
from lowland.data.registry import DATASETS
from lowland.patience import lines
from lowland.progress import left
from lowland.training.progress import bar, fitting, waiting


@pytest.fixture
def said(monkeypatch, capsys):
    """The lines so far, once there is one at least."""
    monkeypatch.setattr(patience, "EVERY", 0.02)

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
    monkeypatch.setattr(patience, "EVERY", 0.01)
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
    monkeypatch.setattr(patience, "EVERY", 0.01)
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


@pytest.fixture
def terminal(monkeypatch):
    """Call it to have a terminal as stderr, on which what takes 50 ms says so; it gives what was written so far."""
    above, below = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    text = []

    def written():
        while select.select([above], [], [], 0)[0]:
            text.append(os.read(above, 65536).decode())
        return "".join(text)

    with os.fdopen(below, "w") as stream:

        def begin():  # not in the fixture: pytest gives each phase of a test its own stderr
            monkeypatch.setattr(sys, "stderr", stream)
            return written

        yield begin
    os.close(above)


def eventually(written, text):
    deadline = time.monotonic() + 10
    while text not in written():
        assert time.monotonic() < deadline, written()
        time.sleep(0.02)


def test_what_takes_long_says_so_on_a_terminal(terminal):
    written = terminal()
    with patience.doing("eigenpairs") as now:
        eventually(written, "eigenpairs: 0 s")
        now.what = "eigenpairs, product 7"
        with patience.doing("gradient"):
            eventually(written, "eigenpairs, product 7, gradient: ")
    before = written()
    time.sleep(0.2)
    assert written() == before
    assert patience.under_way() == ""


def test_what_is_quick_says_nothing(terminal):
    written = terminal()
    for _ in range(3):
        with patience.doing("eigenpairs"):
            pass
    time.sleep(0.1)
    assert written() == ""


def test_a_bar_takes_the_place_of_what_was_said_before(terminal):
    written = terminal()
    with patience.doing("loading"):
        eventually(written, "loading: ")
        with bar(900) as shown:
            assert not patience._lates
            shown.update(3, "sam")
            with patience.doing("checking"):
                assert not patience._lates
                eventually(written, "loading, checking: ")


def test_a_bar_that_stands_still_says_for_how_long(terminal):
    written = terminal()
    with bar(900) as shown:
        shown.update(3, "sam", {"loss": 0.125}, {"loss": "loss"})
        eventually(written, "loss 0.125")
        eventually(written, "for 0 s")
        before = len(written())
        time.sleep(0.15)  # a bar is updated ten times a second at most
        shown.update(4, "sam")
        deadline = time.monotonic() + 10
        while "loss 0.125" not in written()[before:]:
            assert time.monotonic() < deadline


def test_a_program_that_draws_itself_can_have_it_silent(terminal, monkeypatch):
    written = terminal()
    monkeypatch.setattr(patience, "enabled", False)
    with patience.doing("eigenpairs"), patience.loading("torch"):
        time.sleep(0.2)
    assert written() == ""


def test_what_is_loaded_is_said_at_once_and_wiped_away(terminal):
    written = terminal()
    with patience.loading("torch"):
        assert written() == "\rloading torch ..." * 2
    assert written().endswith("\r" + " " * len("loading torch ...") + "\r")


def test_where_there_is_no_terminal_it_is_said_now_and_then_if_asked(said, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    with patience.doing("drawing figures", elsewhere=True):
        assert said()[-1] == "drawing figures: 0 s"


def test_where_there_is_no_terminal_a_library_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(patience, "EVERY", 0.01)
    with patience.doing("eigenpairs"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_lines_that_follow_on_others_keep_their_rhythm(monkeypatch, capsys):
    monkeypatch.setattr(patience, "EVERY", 0.5)
    monkeypatch.setattr(patience, "_BEGIN", 0.05)
    for _ in range(4):  # each shorter than the time between two lines
        with lines(lambda: "here"):
            time.sleep(0.2)
    assert capsys.readouterr().err == "here\n"
