"""A run's figure over two settings of a grid."""

from dataclasses import replace

import pytest

from lowland.report import draw_sweep, grid_panels
from lowland.training import Curve, Figure, Outcome
from lowland.training.sweep.cells import cells_of

from ..fakes import TOY as PLAIN
from ..training.sweep.grids import SETTINGS

NORMS = Figure(
    "norms", "Norm and edge", "norm", (Curve("norm", "Hessian norm"), Curve("edge", "edge", "--")),
    over_grid=("rho", "lr"),
)  # fmt: skip
TOY = replace(PLAIN, figures=(NORMS,), selection=None, outcomes=())


def runs(rhos=(0.0, 0.1), lrs=(0.1, 0.2, 0.4), seeds=(0,)):
    """A run for each setting, with norm ρ + 10 η + step; η = 0.4 diverges at step 7 after its first record."""
    arms = {}
    for rho in rhos:
        for lr in lrs:
            for seed in seeds:
                steps = (0,) if lr == 0.4 else (0, 10)
                records = [{"step": step, "norm": rho + 10 * lr + step, "edge": 2 / lr} for step in steps]
                settings = replace(SETTINGS, rho=rho, lr=lr, seed=seed)
                arms[f"{rho},{lr},{seed}"] = Outcome(settings, records, 7 if lr == 0.4 else None)
    return arms


@pytest.fixture
def canvas(monkeypatch):
    """The figure that is saved."""
    saved = []

    def keep(canvas, directory, name, save=grid_panels.save):
        saved.append(canvas)
        return save(canvas, directory, name)

    monkeypatch.setattr(grid_panels, "save", keep)
    return saved


def panels(canvas):
    """What each panel shows: the first line of its title → the curves' vertical positions."""
    return {axis.get_title().split("\n")[0]: [list(line.get_ydata()) for line in axis.lines] for axis in canvas.axes}


def said(axis):
    """The other lines of a panel's title."""
    return axis.get_title().split("\n")[1:]


def test_rows_and_columns_are_the_settings_and_share_their_axes(tmp_path, canvas):
    (path,) = draw_sweep(tmp_path, TOY, runs(), ("lr", "rho"))
    assert path.name == "norms-over-rho-and-lr.png"
    assert path.with_suffix(".pdf").exists()
    (drawn,) = canvas
    assert list(panels(drawn)) == [f"ρ = {rho}, η = {lr}" for rho in ("0", "0.1") for lr in (0.1, 0.2, 0.4)]
    assert panels(drawn)["ρ = 0.1, η = 0.2"] == [pytest.approx([2.1, 12.1]), [10.0, 10.0]]
    assert len({axis.get_xlim() for axis in drawn.axes}) == 1
    assert len({axis.get_ylim() for axis in drawn.axes}) == 1
    assert {axis.get_yscale() for axis in drawn.axes} == {"log"}
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["Hessian norm", "edge"]


def test_a_run_that_diverged_is_drawn_as_far_as_it_got_and_named(tmp_path, canvas):
    draw_sweep(tmp_path, TOY, runs(), ("lr", "rho"))
    (drawn,) = canvas
    for axis in drawn.axes:
        assert said(axis) == (["diverged at step 7"] if "η = 0.4" in axis.get_title() else [])
    assert panels(drawn)["ρ = 0, η = 0.4"] == [[4.0], [5.0]]


def test_every_seed_has_its_curves(tmp_path, canvas):
    draw_sweep(tmp_path, TOY, runs(seeds=(0, 1)), ("lr", "rho", "seed"))
    (drawn,) = canvas
    assert {len(curves) for curves in panels(drawn).values()} == {6}  # two seeds and their mean
    assert said(drawn.axes[2]) == ["2 of 2 diverged at step 7"]


def test_where_curves_coincide_a_second_figure_has_their_ratios(tmp_path, canvas):
    figure = replace(NORMS, against=("edge",))
    arms = {
        label: replace(arm, records=[{**record, "edge": 1.01 * record["norm"] if "0.2" in label else 1e3}
                                     for record in arm.records])
        for label, arm in runs().items()
    }  # fmt: skip
    paths = draw_sweep(tmp_path, replace(TOY, figures=(figure,)), arms, ("lr", "rho"))
    assert [path.stem for path in paths] == ["norms-over-rho-and-lr", "norms-over-rho-and-lr-ratios"]
    drawn = [axis for axis in canvas[1].axes if axis.get_visible()]
    assert [axis.get_title() for axis in drawn] == ["ρ = 0, η = 0.2", "ρ = 0.1, η = 0.2"]
    for axis in drawn:
        assert list(axis.lines[0].get_ydata()) == pytest.approx([1 / 1.01] * 2)
        assert axis.yaxis.label.get_text() == "norm\nratio to edge"


def test_a_hole_in_the_grid_is_left_empty(tmp_path, canvas):
    arms = runs()
    del arms["0.1,0.2,0"]
    draw_sweep(tmp_path, TOY, arms, ("lr", "rho"))
    assert [axis.get_visible() for axis in canvas[0].axes] == [True] * 4 + [False, True]


@pytest.mark.parametrize(("axes", "varied"), [({"rhos": (0.1,)}, ("lr", "rho")), ({"rhos": (0.1,)}, ("lr",))])
def test_a_grid_that_varies_one_of_them_alone_has_no_panels(tmp_path, axes, varied):
    assert grid_panels.draw_panels(tmp_path, cells_of(runs(**axes), varied), NORMS, None, "toy") == []
    assert grid_panels.draw_panels(tmp_path, [], NORMS, None, "toy") == []


def test_of_further_settings_those_of_the_best_are_drawn(tmp_path, canvas):
    arms = runs()
    longer = {f"{label}-longer": replace(arm, settings=replace(arm.settings, steps=80)) for label, arm in arms.items()}
    cells = cells_of(arms | longer, ("rho", "lr", "steps"))
    grid_panels.draw_panels(tmp_path, cells, NORMS, cells[-1], "toy")
    (drawn,) = canvas
    assert len(drawn.axes) == 6
    assert "steps = 80" in drawn.get_suptitle()
