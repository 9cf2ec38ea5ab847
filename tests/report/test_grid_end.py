"""Where a grid ends, and whether the best lies there."""

import pytest

from lowland.report.grid_end import best_at_end, ends, said_at_end
from lowland.training import Line, Panel


@pytest.mark.parametrize(
    ("values", "at_an_end"),
    [
        ([0.1, 0.2, 0.3], [0.1, 0.3]),
        ([0.0, 0.2, 0.3], [0.3]),
        ([1, 2, 4], [4]),
        ([1.0, 2.0, 4.0], [4.0]),
        ([1.0, 1.5], [1.0, 1.5]),
        ([0.1], []),
        (["adam", "sgd"], []),
        ([False, True], []),
    ],
)
def test_what_nothing_can_lie_beyond_is_no_end(values, at_an_end):
    assert [value for value in values if ends(values, value)] == at_an_end


def test_settings_at_an_end_are_said():
    grid = [{"lr": lr, "rho": rho} for lr in (0.1, 1.0) for rho in (0.0, 0.1, 0.3)]
    assert said_at_end({"lr": 1.0, "rho": 0.1}, grid) == (
        "It lies at the end of the grid in lr: a wider grid may have a better one."
    )
    assert "in LR and RHO:" in said_at_end({"lr": 0.1, "rho": 0.3}, grid, str.upper)
    assert said_at_end({"rho": 0.0}, grid) == ""


def best(x, y, better="lower", style="o-", against=()):
    return best_at_end(Line(x, y, "a", style), Panel("", "ρ", "error", [], better=better, against=against))


def test_the_best_at_an_end_is_found():
    assert best([0, 1.5, 3], [3, 2, 1]) == (3, 1)
    assert best([0, 1.5, 3], [3, 1, 2]) is None
    assert best([0, 1.5, 3], [1, 2, 3]) is None, "there is nothing below 0"
    assert best([0.5, 1.5, 3], [1, 2, 3]) == (0.5, 1)
    assert best([0.5, 1.5, 3], [1, 2, 3], against=["ρ = 0"]) is None
    assert best([0.5, 1.5, 3], [1, 2, 3], better="higher") == (3, 3)
    assert best([0.5, 1.5, 3], [1, 2, 3], better="") is None
    assert best([0.5, 1.5, 3], [1, 2, 3], style="-") is None
    assert best([0.5, 1.5, 3], [2, 1, None]) is None, "what diverged is part of the grid"
    assert best([0.5, 1.5, 3], [1, 1, 1]) is None
