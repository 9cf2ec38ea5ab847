"""Processes that were told of others who don't come: they say so, and Ctrl-C ends them."""

import signal
import socket
import time
from contextlib import closing

import pytest

from lowland.training import rendezvous
from tests.cases import free_port
from tests.forked import Command

RUN = ("run", "long2024/digits", "--scale", "smoke", "--set", "steps=4", "--set", "rh=0.1", "--out", "run")


def soon():
    rendezvous._SILENT = 0.3


def begin(rank, port, cwd, count=2, host="127.0.0.1"):
    """One of ``count`` processes, started by hand."""
    world = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": host, "MASTER_PORT": port}
    return Command(*RUN, setup=[(soon,)], cwd=cwd, environment=world)


def interrupted(process):
    """The line that it says while it waits; then Ctrl-C."""
    line = process.line()
    process.kill(signal.SIGINT)
    started = time.monotonic()
    ended = process.wait(30)
    assert time.monotonic() - started < 10
    assert (ended.code, ended.out) == (130, ""), ended
    assert "Traceback" not in ended.err
    return line, ended.err


def test_the_first_says_who_is_missing(tmp_path):
    port = free_port()
    line, err = interrupted(begin(0, port, tmp_path, count=3))
    assert "has waited" in line
    assert f"for 2 processes, 1 among them, of WORLD_SIZE=3 at 127.0.0.1:{port}" in line
    assert "stop with Ctrl-C" in line
    assert err.splitlines()[-1] == "lowland: interrupted; the same command goes on where it stopped"


def test_an_address_that_is_none(tmp_path):
    line, _ = interrupted(begin(1, free_port(), tmp_path, host="nowhere.invalid"))
    assert "for process 0 of WORLD_SIZE=2 at nowhere.invalid" in line


@pytest.mark.slow
def test_somebody_else_listens_there(tmp_path):
    """To the first it is an error; another can't tell at once, and says for whom it waits."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        first, other = (begin(rank, server.getsockname()[1], tmp_path) for rank in (0, 1))
        line, _ = interrupted(other)
        ended = first.wait(60)
    assert "for process 0 of WORLD_SIZE=2" in line
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert "choose another MASTER_PORT" in ended.err


@pytest.mark.slow
def test_started_by_hand_one_after_the_other(tmp_path):
    """They meet, and agree on what is wrong with the command."""
    port = free_port()
    second = begin(1, port, tmp_path)
    line = second.line()
    assert "for process 0 of WORLD_SIZE=2" in line
    assert "refused" in line
    first = begin(0, port, tmp_path)
    ended = first.wait(60)
    assert (ended.code, ended.out) == (2, ""), ended
    assert "Did you mean rho?" in ended.err.splitlines()[-1]
    ended = second.wait(30)
    assert (ended.code, ended.out) == (2, "")
