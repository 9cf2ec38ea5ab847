"""What the campaign shares: its seed, and the count of its cases."""

import random
import time
from collections import Counter

import pytest

from tests.data.conftest import small  # noqa: F401

from .children import call
from .victims import COMMANDS, outcome


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="of what the hostile campaign draws")


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


def pytest_terminal_summary(terminalreporter):
    sums = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "cases" and report.when == "call":
                    sums[value[0]] += value[1]
    if sums:
        terminalreporter.section("hostile cases")
        for what, cases in sorted(sums.items()):
            terminalreporter.line(f"{cases:6} {what}")
        terminalreporter.line(f"{sum(sums.values()):6} in all")
