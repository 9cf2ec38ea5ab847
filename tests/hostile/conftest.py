"""What the campaign shares: its seed, and the count of its cases."""

import random
from collections import Counter

import pytest


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
