"""Figures of any panels: what is drawn where, and in which colour."""

import pytest
from matplotlib.colors import to_hex

from lowland.report import plots
from lowland.training import Bars, Level, Line, Panel, Plot


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
