"""What the campaign shares: its seed, and the count of its cases."""

import random
import time
from collections import Counter

import pytest

from tests.data.conftest import small  # noqa: F401

from . import counts
from .children import call
from .victims import COMMANDS, outcome


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="of what the hostile campaign draws")
    parser.addoption("--record", action="store_true", help="write how many cases there were to tests/hostile/README.md")


@pytest.fixture
def draw(request):
    """A generator of random numbers: other ones for each test and each --seed."""
    return random.Random(f"{request.config.getoption('--seed', 0)} {request.node.nodeid}")


@pytest.fixture
def count(record_property):
    """Count cases, by what is tried; the whole campaign prints the sums."""
    return lambda what, cases=1: record_property("cases", (what, cases))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """What a command leaves, and the seconds it takes, by the kind of command."""
    folder, known = tmp_path_factory.mktemp("undisturbed"), {}

    def find(kind):
        if kind not in known:
            call(*COMMANDS[kind], "--out", f"{kind} first", cwd=folder)  # what is loaded once
            started = time.monotonic()
            ended = call(*COMMANDS[kind], "--out", kind, cwd=folder)
            assert ended.code == 0, ended
            known[kind] = outcome(folder / kind), time.monotonic() - started
        return known[kind]

    return find


def pytest_terminal_summary(terminalreporter, config):
    stats = terminalreporter.stats
    files = counts.counted(stats)
    if not files:
        return
    kinds = sum((one.kinds for one in files.values()), Counter())
    terminalreporter.section("hostile cases")
    for what, cases in sorted(kinds.items()):
        terminalreporter.line(f"{cases:6} {what}")
    terminalreporter.line("")
    for line in counts.rows(files, config.getoption("--seed", 0), counts.commit()).values():
        terminalreporter.line(line)
    if config.getoption("--record", False):
        if stats.get("deselected"):
            terminalreporter.line("not recorded: only files that are run whole are")
        else:
            counts.record(files, config.getoption("--seed", 0))
