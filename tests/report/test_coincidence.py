"""Curves that lie on each other: equal ones are named, near ones get a panel of their difference."""

from dataclasses import replace

import pytest

from lowland.report.coincidence import difference, without_equals
from lowland.training import Line, Panel, over_seeds
from lowland.training.statistics import estimate

X = [0, 1, 2, 3]


def panel(*lines, **more):
    return Panel("title", "x", "y", lines, **more)


def test_equal_lines_are_left_out_and_named():
    a, b = Line(X, [1, 2, 3, 4], "a"), Line(X, [1, 2, 3, 5], "b")
    cleared, said = without_equals(panel(a, b, Line(X, [1, 2, 3, 4], "c"), Line([0], [9], beside="c")))
    assert (list(cleared.lines), said) == ([a, b], "c = a")
    cleared, said = without_equals(panel(a, *(Line(X, [1, 2, 3, 4], name) for name in "bc")))
    assert (list(cleared.lines), said) == ([a], "all 3 are the same")
    cleared, said = without_equals(panel(a, b))
    assert (len(cleared.lines), said) == (2, "")


def test_single_points_are_not_called_equal():
    assert without_equals(panel(Line([1], [2], "a"), Line([1], [2], "b")))[1] == ""


def test_lines_of_different_seeds_are_not_equal_even_if_their_means_are():
    first = over_seeds({0: {0: 1.0, 1: 2.0}, 1: {0: 3.0, 1: 2.0}}, "a")
    second = over_seeds({0: {0: 2.0, 1: 2.0}, 1: {0: 2.0, 1: 2.0}}, "b")
    assert first.y == second.y
    assert without_equals(panel(first, second))[1] == ""


def test_of_lines_apart_there_is_no_difference():
    lines = Line(X, [0, 0, 0, 0], "a"), Line(X, [1, 1, 1, 1], "b")
    assert difference(panel(*lines, against=["a"]), (0, 1)) is None
    near = Line(X, [0.01, 0.01, 1, 1], "b")
    assert difference(panel(lines[0], near), (0, 1)) is None, "they are compared with nothing"
    assert difference(panel(lines[0], near, against=["a"]), (0, 1)) is not None


def test_a_difference_has_what_is_near_and_leaves_out_the_rest():
    lines = [Line(X, [0, 1, 2, 3], "a"), Line(X, [0.01, 1.01, 2.5, 3.5], "b"), Line(X, [3, 2, 1, 0], "c")]
    found = difference(panel(*lines, against=["a"]), (0, 3.5))
    assert [line.label for line in found.lines] == ["b"]
    assert list(found.lines[0].y) == pytest.approx([0.01, 0.01, 0.5, 0.5])
    assert found.ylabel == "y\ndifference to a"
    assert [level.value for level in found.levels] == [0]


def test_on_a_logarithmic_axis_it_is_a_ratio():
    lines = [Line(X, [1, 10, 100, 1000], "a"), Line(X, [1.01, 10.2, 101, 900], "b")]
    found = difference(panel(*lines, against=["a"], logy=True), (1, 1000))
    assert list(found.lines[0].y) == pytest.approx([1.01, 1.02, 1.01, 0.9])
    assert (found.ylabel, found.logy, found.levels[0].value) == ("y\nratio to a", False, 1)


def test_the_first_reference_on_which_a_line_lies_is_taken_of_its_own_tint():
    edges = [Line(X, [5, 5, 5, 5], "a: edge", tint="a"), Line(X, [9, 9, 9, 9], "a: limit", tint="a")]
    others = [Line(X, [9, 9, 9, 9.1], "a: norm", tint="a"), Line(X, [5, 5, 5, 5.1], "b: norm", tint="b")]
    names = ["a: edge", "a: limit"]
    found = difference(panel(*edges, *others, against=names), (5, 9.1))
    assert [line.label for line in found.lines] == ["a: norm"]
    assert found.ylabel == "y\ndifference to limit"


def test_means_over_seeds_are_paired_by_seed():
    curves = {seed: {0: seed + 1.0, 1: seed + 2.0} for seed in range(5)}
    moved = {seed: {x: y + 0.01 * (1 + seed) for x, y in curve.items()} for seed, curve in curves.items()}
    found = difference(panel(over_seeds(curves, "a"), over_seeds(moved, "b"), against=["a"]), (0, 6))
    (line,) = found.lines
    expected = estimate([0.01, 0.02, 0.03, 0.04, 0.05])
    assert list(line.y) == pytest.approx([0.03, 0.03])
    assert (line.low[0], line.high[0]) == pytest.approx(expected.interval)
    assert line.seeds == {}
    shifted = {seed + 5: curve for seed, curve in moved.items()}  # no seed in common
    found = difference(panel(over_seeds(curves, "a"), over_seeds(shifted, "b"), against=["a"]), (0, 4))
    assert found.lines[0].low == ()


def test_differences_of_few_seeds_are_drawn_seed_by_seed():
    curves = {seed: {0: seed + 1.0, 1: seed + 2.0} for seed in range(3)}
    moved = {seed: {x: y * 1.01**seed for x, y in curve.items()} for seed, curve in curves.items()}
    lines = over_seeds(curves, "a"), over_seeds(moved, "b")
    (line,) = difference(panel(*lines, against=["a"]), (0, 4)).lines
    assert (line.low, line.high) == ((), ())
    assert {seed: list(ys) for seed, ys in line.seeds.items()} == {
        seed: pytest.approx([moved[seed][x] - curves[seed][x] for x in (0, 1)]) for seed in range(3)
    }
    (line,) = difference(replace(panel(*lines, against=["a"]), logy=True), (1, 4)).lines
    assert {seed: list(ys) for seed, ys in line.seeds.items()} == {
        seed: pytest.approx([1.01**seed] * 2) for seed in range(3)
    }


def test_lines_with_few_points_in_common_are_not_compared():
    lines = Line([k / 100 for k in range(101)], [k / 100 for k in range(101)], "curve"), Line([0, 1], [0, 1], "even")
    assert difference(panel(*lines, against=["curve"]), (0, 1)) is None
