"""Figures of a sweep: which are drawn, and what stands in them."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from lowland.report import draw_sweep, grid_lines, heat_map
from lowland.report.canvas import COLOURS
from lowland.training import Curve, Outcome, Selection, chance

from ..fakes import RELAY, TOY
from ..training.sweep.grids import grid

TOY = replace(
    TOY,
    selection=Selection("loss", "training"),
    outcomes=(Curve("hessian_norm", "Hessian norm"), Curve("loss", "training loss")),
)
GRID = {"lr": [0.1, 1.0], "rho": [0.0, 0.1, 0.3], "seed": [0, 1, 2]}
VARIED = ("lr", "rho", "seed")


def usual(lr, rho, seed, **_):
    """The best: lr 1, rho 0.1. The smallest norm is a hundredth of the largest."""
    return {"loss": 1 - lr / 10 + abs(rho - 0.1) + 0.01 * seed, "hessian_norm": lr / (0.1 + rho) * (1 + 0.1 * seed)}


def with_divergence(lr, rho, seed):
    """Some at lr 1, rho 0.3; all at lr 0.1, rho 0."""
    diverges = (lr, rho) == (0.1, 0.0) or (lr, rho, seed) == (1.0, 0.3, 1)
    return {**usual(lr, rho, seed), **({"diverged_at": 3} if diverges else {})}


@pytest.fixture
def canvases(monkeypatch):
    """The figures that are saved, by name."""
    saved = {}
    for module in (grid_lines, heat_map):

        def keep(canvas, directory, name, save=module.save):
            saved[name] = canvas
            return save(canvas, directory, name)

        monkeypatch.setattr(module, "save", keep)
    return saved


def names(paths):
    return [path.stem for path in paths]


def texts(canvas):
    return [text.get_text() for axis in canvas.axes for text in axis.texts]


def legend(canvas):
    return [text.get_text() for each in canvas.legends for text in each.get_texts()]


def bars(axis):
    """Where each line with error bars has its points, and the half lengths of its bars."""
    found = []
    for container in axis.containers:
        line, _, (lengths,) = container
        ends = [segment for segment in lengths.get_segments() if len(segment)]
        found.append((line.get_xydata(), [(top[1] - bottom[1]) / 2 for bottom, top in ends]))
    return found


def test_draws_each_outcome_and_a_map_twice(tmp_path):
    paths = draw_sweep(tmp_path / "figures", TOY, grid(usual, **GRID), VARIED)
    assert names(paths) == ["hessian-norm-by-rho", "loss-by-rho", "loss-over-lr-and-rho", "differences"]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_draws_the_same_bytes_twice(tmp_path):
    for name in ("first", "second"):
        draw_sweep(tmp_path / name, TOY, grid(with_divergence, **GRID), VARIED)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_lines_are_means_with_standard_errors(tmp_path, canvases):
    draw_sweep(tmp_path, TOY, grid(usual, **GRID), VARIED)
    canvas = canvases["loss-by-rho"]
    (axis,) = canvas.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "0.1", "0.3"]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_yscale()) == ("ρ", "training loss", "linear")
    assert legend(canvas) == ["η = 0.1", "η = 1", "selected"]
    first, second = bars(axis)
    for (points, errors), lr in ((first, 0.1), (second, 1.0)):
        assert points[:, 1] == pytest.approx([1.11 - lr / 10, 1.01 - lr / 10, 1.21 - lr / 10])
        assert np.abs(points[:, 0] - [0, 1, 2]).max() < 0.1
        assert errors == pytest.approx([0.01 / 3**0.5] * 3)
    assert canvases["hessian-norm-by-rho"].axes[0].get_yscale() == "log"


def test_what_diverged_is_counted_and_not_averaged(tmp_path, canvases):
    draw_sweep(tmp_path, TOY, grid(with_divergence, **GRID), VARIED)
    canvas = canvases["loss-by-rho"]
    above, axis = canvas.axes
    assert above.get_ylabel() == "diverged"
    counted = [(text.get_text(), text.xy[0], to_hex(text.get_color()).upper()) for text in above.texts]
    assert counted == [("3/3", 0, COLOURS[0]), ("1/3", 2, COLOURS[1])]
    (gone, _), (kept, _) = bars(axis)
    assert math.isnan(gone[0, 1])
    assert kept[2, 1] == pytest.approx(1.11)  # seeds 0 and 2
    assert legend(canvas)[-2:] == ["some seeds missing", "selected"]


def test_the_map_shows_means_marks_divergence_and_frames_the_selected(tmp_path, canvases):
    draw_sweep(tmp_path, TOY, grid(with_divergence, **GRID), VARIED)
    canvas = canvases["loss-over-lr-and-rho"]
    axis = canvas.axes[0]
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("η", "ρ")
    shown = {text.get_position(): text.get_text() for text in axis.texts}
    assert shown == {
        (0, 0): "diverged", (1, 0): "1", (2, 0): "1.2",
        (0, 1): "1.01", (1, 1): "0.91", (2, 1): "1.11\n1/3 diverged",
    }  # fmt: skip
    patches = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    assert [(patch.get_x(), patch.get_y()) for patch in patches if patch.get_hatch()] == [(-0.5, -0.5), (1.5, 0.5)]
    (frame,) = (patch for patch in patches if not patch.get_fill())
    assert frame.get_x() + frame.get_width() / 2 == pytest.approx(1)
    assert frame.get_y() + frame.get_height() / 2 == pytest.approx(1)
    assert legend(canvas) == ["selected: η = 1, ρ = 0.1 (where the grid of η ends)", "with runs that diverged"]
    (arrow,) = axis.lines
    assert (arrow.get_marker(), *arrow.get_xydata()[0]) == ("^", 1, 1.5)


def test_many_lines_share_a_grey_but_the_best(tmp_path, canvases):
    lrs = [round(0.05 * number, 2) for number in range(1, 13)]
    draw_sweep(tmp_path, TOY, grid(usual, **{**GRID, "lr": lrs}), VARIED)
    entries = legend(canvases["loss-by-rho"])
    assert len(entries) == len(COLOURS) + 2
    assert entries[-3:] == ["η = 0.6", "5 other settings", "selected"]


@pytest.mark.parametrize(
    ("rhos", "label"),
    [
        ([0.0, 0.1, 0.3], "selected"),
        ([0.0, 0.1], "selected, at the grid's end"),
        ([0.1, 0.2], "selected, at the grid's end"),
        ([0.0, 5.0], "selected"),
    ],
)
def test_the_selected_settings_are_ringed_and_the_grids_end_named(tmp_path, canvases, rhos, label):
    draw_sweep(tmp_path, TOY, grid(usual, **{**GRID, "rho": rhos}), VARIED)
    canvas = canvases["loss-by-rho"]
    assert legend(canvas)[-1] == label
    ring = canvas.axes[0].lines[-1]
    best = min(rhos, key=lambda rho: abs(rho - 0.1))
    assert ring.get_markerfacecolor() == "none"
    assert ring.get_xydata()[0] == pytest.approx([rhos.index(best), 0.91 + abs(best - 0.1)], abs=0.05)


def test_a_level_is_drawn_across(tmp_path, canvases):
    experiment = replace(TOY, outcomes=(Curve("loss", "loss", level=chance(2)),))
    draw_sweep(tmp_path, experiment, grid(usual, **GRID), VARIED)
    axis = canvases["loss-by-rho"].axes[0]
    assert "chance" in legend(canvases["loss-by-rho"])
    assert [list(line.get_ydata()) for line in axis.lines if line.get_label() == "chance"] == [[0.5, 0.5]]
    assert axis.get_ylim()[0] > 0.5  # which would squash the means
    assert [text.get_text() for text in axis.texts] == ["↓ chance: 0.5"]


def test_further_settings_are_panels(tmp_path, canvases):
    sizes = list(range(1, 9))
    axes = {"lr": [0.1, 1.0], "rho": [0.0, 0.1], "size": sizes, "seed": [0]}
    arms = grid(lambda size, **point: {**usual(**point), "loss": 10.0 - size}, **axes)
    draw_sweep(tmp_path, TOY, arms, ("lr", "rho", "size", "seed"))
    canvas = canvases["loss-over-lr-and-rho"]
    titles = [axis.get_title() for axis in canvas.axes if axis.get_title()]
    assert titles == ["size = 1", "size = 2", "size = 3", "size = 4", "size = 5", "size = 8"]  # the best is there
    assert "6 of 8 panels" in canvas.get_suptitle()


@pytest.mark.parametrize(
    ("axes", "drawn"),
    [
        ({"rho": [0.0, 0.1], "seed": [0, 1]}, ["hessian-norm-by-rho", "loss-by-rho"]),
        ({"lr": [0.1, 0.2], "seed": [0]}, ["hessian-norm-by-lr", "loss-by-lr"]),
        ({"size": [1, 2], "lr": [0.1, 0.2]}, ["hessian-norm-by-size", "loss-by-size", "loss-over-size-and-lr"]),
        ({"kind": ["adam", "sgd"], "rho": [0.0, 0.1]}, ["hessian-norm-by-rho", "loss-by-rho"]),
        ({"noisy": [True, False]}, []),
        ({"seed": [0, 1, 2]}, []),
    ],
)
def test_what_varies_decides_what_is_drawn(tmp_path, axes, drawn):
    arms = grid(lambda **point: usual(**{"lr": 0.1, "rho": 0.1, "seed": 0, **point}), **axes)
    assert names(draw_sweep(tmp_path, TOY, arms, tuple(axes))) == drawn


def test_without_a_selection_the_map_is_of_the_first_outcome(tmp_path, canvases):
    drawn = draw_sweep(tmp_path, replace(TOY, selection=None), grid(usual, **GRID), VARIED)
    assert names(drawn)[-2:] == ["hessian-norm-over-lr-and-rho", "differences"]
    assert legend(canvases["hessian-norm-over-lr-and-rho"]) == []
    assert draw_sweep(tmp_path, replace(TOY, selection=None, outcomes=()), grid(usual, **GRID), VARIED) == []


def test_the_metric_of_the_selection_is_drawn_even_where_it_is_no_outcome(tmp_path):
    experiment = replace(TOY, outcomes=TOY.outcomes[:1])
    assert "loss-by-rho" in names(draw_sweep(tmp_path, experiment, grid(usual, **GRID), VARIED))


def test_what_no_run_recorded_is_left_out(tmp_path):
    def nothing(**point):
        return {"loss": math.nan, "hessian_norm": 1.0}

    drawn = draw_sweep(tmp_path, TOY, grid(nothing, **GRID), VARIED)
    assert names(drawn) == ["hessian-norm-by-rho", "differences"]
    assert draw_sweep(tmp_path, TOY, grid(lambda **point: {"diverged_at": 0, "steps": ()}, **GRID), VARIED) == []
    assert draw_sweep(tmp_path, TOY, {}, VARIED) == []


@pytest.mark.parametrize("label", ["loss", "test error, averaged weights"])
def test_the_heading_fits_above_the_narrowest_figure(tmp_path, canvases, label):
    experiment = replace(TOY, outcomes=(Curve("loss", label),))
    draw_sweep(tmp_path, experiment, grid(usual, lr=[0.1], rho=[0.0, 0.1], seed=list(range(10))), VARIED)
    canvas = canvases["loss-by-rho"]
    above = canvas._suptitle.get_window_extent()
    assert above.x0 > 0
    assert above.x1 < canvas.bbox.x1


def test_labels_do_not_overlap_where_there_are_many(tmp_path, canvases):
    arms = grid(usual, lr=[0.1, 1.0], rho=[round(0.0123 * number, 4) for number in range(25)], seed=[0])
    draw_sweep(tmp_path, TOY, arms, VARIED)
    for canvas in canvases.values():
        axis = canvas.axes[0]
        boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
        slanted = axis.get_xticklabels()[0].get_rotation() == 45
        gap = min(second.x1 - first.x1 for first, second in pairwise(boxes))
        assert slanted or all(first.x1 < second.x0 for first, second in pairwise(boxes))
        assert gap > 9  # a line of slanted text, in pixels


def test_outcomes_are_drawn_against_m_where_it_varies(tmp_path):
    base = RELAY.configure("paper", {"seeds": "1"})["grouped"]
    points = [(0.0, 4), *((0.1, m) for m in (1, 2, 4))]
    arms = {f"rho={rho},m={m}": Outcome(replace(base, rho=rho, m=m), [{"step": 9, "loss": 1 / m}]) for rho, m in points}
    experiment = replace(RELAY, outcomes=(Curve("loss", "training loss"),))
    assert names(draw_sweep(tmp_path, experiment, arms, ("rho", "m"))) == [
        "loss-by-rho", "loss-by-m", "loss-over-rho-and-m"
    ]  # fmt: skip
