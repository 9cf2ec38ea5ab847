"""Figures of any panels: what is drawn where, and in which colour."""

from dataclasses import replace

import pytest
from matplotlib.colors import to_hex

from lowland.report import plots
from lowland.training import Bars, Level, Line, Panel, Plot, over_seeds


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw panels; the axes of the figure, and its legend's texts."""

    def draw(*panels):
        kept = []
        real = plots.save
        monkeypatch.setattr(plots, "save", lambda canvas, *rest: kept.append(canvas) or real(canvas, *rest))
        path = plots.draw_plot(tmp_path, Plot("name", "What", lambda arms: panels), {}, "experiment")
        if path is None:
            return None
        assert path.exists()
        assert path.with_suffix(".pdf").exists()
        legends = [text.get_text() for legend in kept[0].legends for text in legend.get_texts()]
        return [axis for axis in kept[0].axes if axis.get_visible()], legends

    return draw


def test_one_label_has_one_colour_and_one_entry(drawn):
    lines = [Line([0, 1], [1, 2], "a"), Line([0, 1], [2, 3], "b"), Line([0, 1], [0, 1], beside="b"), Line([0], [0])]
    axes, legend = drawn(Panel("one", "x", "y", lines), Panel("two", "x", "y", [Line([0, 1], [5, 6], "b", "o")]))
    assert legend == ["a", "b"]
    a, b, thin, grey = axes[0].lines
    assert a.get_color() != b.get_color() == thin.get_color() == axes[1].lines[0].get_color()
    assert thin.get_linewidth() < b.get_linewidth()
    assert grey.get_color() == "#999999"
    assert [axis.get_title() for axis in axes] == ["one", "two"]


def test_what_has_no_place_on_a_logarithmic_axis_is_left_out(drawn):
    line = Line([0, 1, None, 3], [1e-3, 0.0, 2.0, 4.0])
    (axis,), legend = drawn(Panel("one", "x", "y", [line], logx=True, logy=True))
    x, y = axis.lines[0].get_data()
    assert [a for a, b in zip(x, y, strict=True) if a == a and b == b] == [3]
    assert legend == []
    assert axis.get_xscale() == axis.get_yscale() == "log"


def test_panels_without_lines_are_left_out(drawn):
    axes, _ = drawn(*(Panel(str(k), "x", "y", [Line([0], [1])] if k % 2 else []) for k in range(9)))
    assert [axis.get_title() for axis in axes] == ["1", "3", "5", "7"]
    assert drawn(Panel("one", "x", "y", [])) is None


def test_bars_stand_beside_each_other_with_their_errors(drawn):
    heights = {"a": [1.0, None, 2.0], "b": [0.5, 0.25, 0.0]}
    errors = {"a": [0.1, None, None], "b": [0.0, 0.2, None]}
    line = Panel("lines", "x", "y", [Line([0, 1], [0, 1], "b")])
    (bars, lines), legend = drawn(Bars("", "domain", "error", ["one", "two", "three"], heights, errors), line)
    assert legend == ["a", "b"]
    a, b = (each for each in bars.containers if each.get_label() in ("a", "b"))
    assert [bar.get_height() for bar in b] == [0.5, 0.25, 0.0]
    assert a[0].get_height() == 1.0
    assert a[1].get_height() != a[1].get_height()  # nothing there
    assert [bar.get_x() + bar.get_width() for bar in a] == pytest.approx([bar.get_x() for bar in b])
    assert [text.get_text() for text in bars.get_xticklabels()] == ["one", "two", "three"]
    assert b[0].get_facecolor() != a[0].get_facecolor()
    assert lines.lines[0].get_color() == "#D55E00"


def test_a_band_has_its_lines_colour_and_its_edges(drawn):
    line = Line([0, 1, 2], [1.0, 2.0, 3.0], "a", low=[0.5, None, 2.5], high=[1.5, None, 3.5])
    (axis,), legend = drawn(Panel("one", "x", "y", [line]))
    (band,) = axis.collections
    edges = {tuple(point) for path in band.get_paths() for point in path.vertices}
    assert {(0, 0.5), (0, 1.5), (2, 2.5), (2, 3.5)} <= edges
    assert not any(x == 1 for x, _ in edges)
    assert to_hex(band.get_facecolor()[0]) == to_hex(axis.lines[0].get_color())
    assert legend == ["a"]


def test_a_level_lies_across_with_one_entry_in_the_legend(drawn):
    levels = [Level(0.4, "ERM, paper"), Level(0.3, "SAM, paper", beside="a")]
    axes, legend = drawn(
        *(Panel(name, "x", "y", [Line([0, 1], [1, 2], "a")], levels=levels) for name in ("one", "two"))
    )
    assert sorted(legend) == ["ERM, paper", "SAM, paper", "a"]
    for axis in axes:
        ours, erm, sam = axis.lines
        assert (list(erm.get_ydata()), list(sam.get_ydata())) == ([0.4, 0.4], [0.3, 0.3])
        assert erm.get_color() == "#999999"
        assert sam.get_color() == ours.get_color()
        assert erm.get_linestyle() == ":"


def test_axes_with_the_same_label_show_the_same_range(drawn):
    axes, _ = drawn(
        Panel("one", "step", "error", [Line([0, 10], [0.1, 0.2], "a")], levels=[Level(0.9, "chance")]),
        Panel("two", "step", "error", [Line([5, 90], [0.5, 0.6], "a", low=[0.3, 0.4], high=[0.7, 0.8])]),
        Panel("three", "ρ", "loss", [Line([1, 2], [7.0, 8.0], "a")]),
        Panel("four", "step", "error", [Line([0, 9], [0.1, 0.2], "a")], logy=True),
    )
    first, second, other, logarithmic = axes
    assert first.get_ylim() == second.get_ylim() == pytest.approx((0.06, 0.94))
    assert first.get_xlim() == second.get_xlim() == logarithmic.get_xlim() == pytest.approx((-4.5, 94.5))
    assert other.get_ylim() == pytest.approx((6.95, 8.05))
    assert logarithmic.get_ylim()[1] < 0.3


def test_an_axis_by_nature_from_0_to_1_is_that(drawn):
    line = over_seeds({0: {0: 0.1, 1: 0.3}, 1: {0: 0.8, 1: 0.4}}, "a")
    (axis,), _ = drawn(Panel("one", "step", "|cos|", [line], bounds=(0, 1)))
    assert axis.get_ylim() == pytest.approx((0, 1.05))


def test_intervals_that_are_not_drawn_have_no_part_in_the_range(drawn):
    line = over_seeds({0: {0: 0.1, 1: 0.3}, 1: {0: 0.8, 1: 0.4}}, "a")
    (axis,), _ = drawn(Panel("one", "step", "error", [line]))
    assert axis.get_ylim() == pytest.approx((0.065, 0.835))


def test_an_axis_has_no_ticks_where_nothing_was_measured(drawn):
    (axis,), _ = drawn(Panel("one", "step", "loss", [Line([1], [2.30601], "a")], logy=True))
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["2.306"]
    assert axis.lines[0].get_marker() == "o"
    (axis,), _ = drawn(Panel("one", "step", "loss", [Line([0, 3], [0.1, 0.2], "a")]))
    assert all(float(tick).is_integer() for tick in axis.get_xticks())


def test_the_differences_of_a_row_stand_below_it(drawn):
    lines = [Line([0, 1, 2], [0.0, 0.5, 1.0], "a"), Line([0, 1, 2], [0.001, 0.502, 1.0], "b")]
    apart = [Line([0, 1, 2], [0.0, 0.5, 1.0], "a"), Line([0, 1, 2], [1.0, 0.5, 0.0], "b")]
    axes, legend = drawn(
        Panel("one", "x", "error", apart, against=["a"]), Panel("two", "x", "error", lines, against=["a"])
    )
    assert [axis.get_title() for axis in axes] == ["one", "two", "two"]
    assert axes[2].get_ylabel() == "error\ndifference to a"
    assert legend == ["a", "b", "no difference"]
    assert axes[2].lines[0].get_color() == axes[1].lines[1].get_color()
    position = [axis.get_subplotspec() for axis in axes]
    assert position[1].colspan == position[2].colspan


def test_equal_lines_are_named_in_the_heading(drawn):
    lines = [Line([0, 1], [1, 2], "a"), Line([0, 1], [1, 2], "b")]
    (axis,), legend = drawn(Panel("one", "x", "y", lines, note="a note"))
    assert axis.get_title() == "one\na note; b = a"
    assert legend == ["a"]


def test_up_to_twenty_seeds_are_drawn_one_by_one_and_more_as_a_band(drawn):
    for seeds, bands in ((3, 0), (21, 1)):
        line = over_seeds({seed: {0: 1.0 + seed, 1: 2.0 + seed} for seed in range(seeds)}, "a")
        (axis,), _ = drawn(Panel("one", "x", "y", [line]))
        assert len(axis.collections) == bands
        assert len(axis.lines) == (1 if bands else seeds + 1)


def test_marked_points_have_error_bars_beside_each_other(drawn):
    lines = [Line([0, 1], [1.0, 2.0], name, "o-", low=[0.5, None], high=[1.5, None]) for name in "ab"]
    lines[1] = replace(lines[1], y=[1.5, 2.0])
    (axis,), legend = drawn(Panel("one", "x", "y", lines))
    first, second = axis.containers
    (low, high) = first[2][0].get_segments()[0]
    assert (low[1], high[1]) == (0.5, 1.5)
    assert low[0] < 0 < second[2][0].get_segments()[0][0][0]
    assert legend == ["a", "b"]


def test_an_interval_that_reaches_below_0_is_cut_on_a_logarithmic_axis(drawn):
    line = Line([0, 1], [1.0, 2.0], "a", low=[-5.0, 1.0], high=[7.0, 3.0])
    (axis,), _ = drawn(Panel("one", "x", "y", [line], logy=True))
    lowest = min(point[1] for path in axis.collections[0].get_paths() for point in path.vertices)
    assert lowest == 0.5


def test_the_best_at_the_grids_end_is_ringed(drawn):
    lines = [Line([0, 0.1, 0.2], [3, 2, 1], "a", "o-"), Line([0, 0.1, 0.2], [3, 1, 2], "b", "o-")]
    (axis,), legend = drawn(Panel("one", "ρ", "error", lines, better="lower"))
    (ring,) = (line for line in axis.lines if line.get_label() == "best at the grid's end")
    assert ring.get_xydata().tolist() == [[0.2, 1]]
    assert legend == ["a", "b", "best at the grid's end"]


def test_a_line_without_a_point_on_the_axes_has_no_entry(drawn):
    lines = [Line([1, 10], [1, 2], "a"), Line([0], [3], "diverged")]
    _, legend = drawn(Panel("one", "step", "loss", lines, logx=True))
    assert legend == ["a"]


def test_a_level_far_from_the_curves_is_named_at_the_edge(drawn):
    levels = [Level(0.05, "SAM, paper", beside="a"), Level(0.9, "chance")]
    (axis,), _ = drawn(Panel("one", "x", "error", [Line([0, 1], [0.5, 0.6], "a")], levels=levels))
    assert axis.get_ylim() == pytest.approx((0.495, 0.605))
    below, above = axis.texts
    assert (below.get_text(), above.get_text()) == ("↓ SAM, paper: 0.05", "↑ chance: 0.9")
    assert below.get_color() == axis.lines[0].get_color()


def test_a_difference_is_drawn_beside_no_difference(drawn):
    level = Level(0.0, "no difference", within=True)
    (axis,), _ = drawn(Panel("one", "x", "y", [Line([0, 1], [0.50, 0.51], "a")], levels=[level]))
    assert axis.get_ylim()[0] < 0
    assert not axis.texts


def test_wide_intervals_do_not_squash_their_lines_and_the_heading_says_so(drawn):
    line = Line([0, 1], [1.0, 2.0], "a", low=[-40.0, 1.5], high=[42.0, 2.5])
    (axis,), legend = drawn(Panel("one", "x", "y", [line]))
    assert axis.get_ylim() == pytest.approx((0.4, 2.6))
    assert axis.get_title() == "one\nintervals reach beyond the axes"
    assert legend == ["a"]


def test_an_interval_of_what_is_never_negative_ends_at_0_but_that_of_a_difference_does_not(drawn):
    def reach(*levels):
        line = Line([0, 1], [0.1, 0.2], "a", low=[-0.03, 0.1], high=[0.2, 0.3])
        (axis,), _ = drawn(Panel("one", "x", "y", [line], levels=levels))
        return min(point[1] for path in axis.collections[0].get_paths() for point in path.vertices)

    assert reach() == 0
    assert reach(Level(0.0, "no difference", within=True)) == -0.03


def test_the_ticks_of_a_grid_are_its_values_where_they_have_room(drawn):
    def ticks(x, **how):
        (axis,), _ = drawn(Panel("one", "ρ", "y", [Line(x, range(len(x)), "a", "o-")], **how))
        return axis.get_xticks().tolist()

    assert ticks([0.05, 0.1, 0.4, 0.8], logx=True) == [0.05, 0.1, 0.4, 0.8]
    assert ticks([0.05, 0.06, 0.8], logx=True) != [0.05, 0.06, 0.8]
