"""What the page draws: groups, thinned curves, bands, differences, settings with their origin, claims."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from lowland.report.page.claims import claims_of
from lowland.report.page.comparison import comparable, differences
from lowland.report.page.curves import draw
from lowland.report.page.data import script_data
from lowland.report.page.groups import columns_of, groups_of, names_of
from lowland.report.page.reading import read_source
from lowland.report.page.settings import settings_of
from lowland.report.page.shown import ShownDirectory, ShownRun
from lowland.report.page.thinning import evenly, kept
from lowland.training.statistics import estimate

from . import made

VARIED = ("lr", "rho", "seed")


def read(*paths):
    sources = [read_source(path) for path in paths]
    names = names_of(paths)
    return sources, names, groups_of(sources, names)


def data_of(*paths):
    sources, names, groups = read(*paths)
    columns = columns_of(sources)
    return script_data(sources, names, groups, columns, draw(groups, list(columns)))


def test_thinning_keeps_ends_and_every_peak():
    values = [math.sin(index / 30) for index in range(5000)]
    values[1234], values[3456] = 9.0, -9.0
    indices = kept(values, 100)
    assert len(indices) <= 100
    assert indices == sorted(set(indices))
    assert {0, 1234, 3456, 4999} <= set(indices)


def test_thinning_keeps_gaps_and_leaves_short_curves_alone():
    assert kept([1.0, None, 3.0], 3) == [0, 1, 2]
    values = [1.0] * 100 + [None] * 100 + [1.0] * 100
    assert any(values[index] is None for index in kept(values, 30))
    assert evenly(3, 24) == [0, 1, 2]
    assert evenly(1000, 24)[0] == 0
    assert evenly(1000, 24)[-1] == 999
    assert len(evenly(1000, 24)) == 24


def test_runs_that_differ_in_the_seed_alone_are_a_group(tmp_path):
    _, _, groups = read(made.sweep(tmp_path, made.grid(), VARIED))
    assert len(groups) == 6
    assert groups[0].name == "η = 0.1, ρ = 0"
    assert [member.run.seed for member in groups[0].members] == [0, 1, 2]


def test_arms_of_several_seeds_are_a_group():
    runs = [
        ShownRun(f"{arm}-{seed}", {"rho": rho, "seeds": 2, "seed": seed}, [], "done", 0, 0)
        for arm, rho in (("erm", 0.0), ("sam", 0.1))
        for seed in (0, 1)
    ]
    source = ShownDirectory(Path("x"), {"experiment": "x"}, None, None, (), runs)
    assert [(group.name, len(group.members)) for group in groups_of([source], ["x"])] == [("erm", 2), ("sam", 2)]


def test_how_many_seeds_a_run_has_does_not_tell_it_from_a_sweep():
    def directory(seeds, config, varied=()):
        runs = [
            ShownRun(f"rho={rho}-{seed}", {"rho": rho, "seeds": seeds, "seed": seed}, [], "done", 0, 0)
            for rho in (0.0, 0.1)
            for seed in (0, 1)
        ]
        return ShownDirectory(Path("x"), {"experiment": "x", **config}, None, None, varied, runs)

    sources = [directory(2, {}), directory(1, {"sweep": True}, ("rho", "seed"))]
    groups = groups_of(sources, ["a", "b"])
    assert [(group.directory, dict(group.settings)) for group in groups] == [
        (number, {"rho": rho}) for number in (0, 1) for rho in (0.0, 0.1)
    ]
    [row] = [row for row in settings_of(sources) if row.name == "seeds"]
    assert [[value.text for value in cell] for cell in row.cells] == [["2"], []]
    assert "seeds" not in [row.name for row in settings_of(sources[1:])]


def test_directories_that_differ_in_the_seed_alone_are_drawn_as_one_group(tmp_path):
    _, _, groups = read(*(made.run(tmp_path / f"seed-{seed}", made.arms(seed)) for seed in range(3)))
    assert [(group.name, len(group.members)) for group in groups] == [("sam", 3), ("plain", 3)]


def test_the_same_arm_in_two_directories_is_told_apart(tmp_path):
    _, _, groups = read(made.run(tmp_path / "a", made.arms()), made.run(tmp_path / "b", made.arms()))
    assert [group.name for group in groups] == ["sam · a", "plain · a", "sam · b", "plain · b"]


def test_a_group_of_several_directories_says_how_many(tmp_path):
    paths = [
        made.run(tmp_path / f"{name}-{seed}", made.arms(seed, rho)) for name, rho in (("a", 0.1), ("b", 0.2))
        for seed in range(3)
    ]  # fmt: skip
    _, _, groups = read(*paths)
    assert {group.name for group in groups} == {f"{arm} · {of}-0 and 2 more" for arm in ("sam", "plain") for of in "ab"}


def test_names_are_as_long_as_it_takes(tmp_path):
    for name in ("x/run", "y/run"):
        (tmp_path / name).mkdir(parents=True)
    assert names_of([tmp_path / "x/run", tmp_path / "y/run"]) == ["x/run", "y/run"]
    assert names_of([tmp_path / "x"]) == ["x"]


def test_columns_are_numbers_and_those_the_experiment_names_come_first(tmp_path):
    sources, _, _ = read(made.run(tmp_path, made.arms()))
    assert list(columns_of(sources).items()) == [
        ("loss", "training loss"),
        ("error", "test error"),
        ("norm", "Hessian norm"),
        ("edge", "SAM edge"),
    ]


def test_bands_are_means_and_intervals_over_seeds(tmp_path):
    _, _, groups = read(made.sweep(tmp_path, made.grid(), VARIED))
    band = draw(groups, ["loss"]).bands[0]["loss"]
    found = estimate([member.run.records[2]["loss"] for member in groups[0].members])
    assert band["x"][2] == 10
    assert band["mean"][2] == pytest.approx(found.mean, rel=1e-4)
    assert (band["low"][2], band["high"][2]) == pytest.approx(found.interval, rel=1e-4)


def test_long_curves_are_thinned_and_the_rule_is_said(tmp_path):
    steps = range(3000)
    path = made.run(tmp_path, {"sam": made.outcome(replace(made.SETTINGS, steps=2999), steps)})
    _, _, groups = read(path)
    drawing = draw(groups, ["loss"])
    curve = drawing.runs[0][0]["curves"]["loss"]
    assert len(curve["x"]) == len(curve["y"]) <= 1000
    assert "3,000 records" in drawing.rule
    assert drawing.runs[0][0]["steps"] == []


def test_results_are_those_of_runs_that_are_done(tmp_path):
    outcomes = made.grid()
    first = next(iter(outcomes))
    outcomes[first] = replace(outcomes[first], diverged_at=7)
    data = data_of(made.sweep(tmp_path, outcomes, VARIED))
    assert data["groups"][0]["told"] == "2 done, 1 diverged"
    assert data["groups"][0]["diverged"] == 1
    mean, _, low, high, n, done = data["groups"][0]["finals"]["loss"]
    assert (n, done) == (2, 1)
    assert low < mean < high


def test_the_latest_values_stand_for_runs_under_way(tmp_path):
    data = data_of(made.run(tmp_path, {"sam": made.outcome(steps=(0, 10))}, finished=False))
    assert data["groups"][0]["told"] == "under way, step 10 of 40"
    assert data["groups"][0]["finals"]["norm"][::5] == [11, 0]


def test_the_selected_settings_are_those_of_the_summary(tmp_path):
    path = made.sweep(tmp_path, made.grid(), VARIED)
    source = read_source(path)
    data = data_of(path)
    chosen = data["groups"][data["directories"][0]["selected"]]["settings"]
    assert {name: chosen[name] for name in ("lr", "rho")} == source.summary["selection"]["selected"]


def test_differences_within_a_sweep_are_those_of_its_summary(tmp_path):
    path = made.sweep(tmp_path, made.grid(), VARIED)
    source = read_source(path)
    data = data_of(path)
    points = source.summary["differences"]["metrics"]["loss"]["points"]
    found = data["differences"]["loss"]
    assert len(found) == len(points) == 4
    for ours, theirs in zip(found, points, strict=True):
        assert ours["kind"] == "to ρ = 0"
        assert ours["mean"] == pytest.approx(theirs["difference"]["mean"], rel=1e-4)
        assert ours["interval"] == pytest.approx(theirs["difference"]["interval_95"], rel=1e-4)
        assert ours["p"] == pytest.approx(theirs["p_holm"], rel=1e-3)


def test_a_difference_of_rounding_is_none(tmp_path):
    outcomes = made.grid(lrs=(1.0,), rhos=(0.0, 0.1))
    for label, outcome in outcomes.items():
        last = {**outcome.records[-1], "loss": 0.1 + 0.2 if "rho=0.1" in label else 0.3}
        outcomes[label] = replace(outcome, records=[*outcome.records[:-1], last])
    (found,) = data_of(made.sweep(tmp_path, outcomes, VARIED))["differences"]["loss"]
    assert 0.1 + 0.2 != 0.3
    assert (found["mean"], found["interval"], found["p"]) == (0, None, None)


def test_differences_between_directories_are_to_the_first(tmp_path):
    one = made.sweep(tmp_path / "one", made.grid(rhos=(0.0,)), VARIED)
    other = {
        label: replace(outcome, records=[{**record, "loss": record["loss"] + 0.5} for record in outcome.records])
        for label, outcome in made.grid(rhos=(0.0,)).items()
    }
    two = made.sweep(tmp_path / "two", other, VARIED)
    found = data_of(one, two)["differences"]["loss"]
    assert [(row["group"], row["against"], row["n"]) for row in found] == [(2, 0, 3), (3, 1, 3)]
    assert [row["mean"] for row in found] == pytest.approx([0.5, 0.5])


def test_no_difference_is_taken_between_experiments(tmp_path):
    other = replace(made.EXPERIMENT, name="tests/other")
    one = made.run(tmp_path / "one", made.arms(rho=0.0))
    two = made.run(tmp_path / "two", made.arms(rho=0.0), experiment=other)
    sources, names, groups = read(one, two)
    assert differences(groups, ["loss"]) == {}
    said = " ".join(comparable(sources, names))
    assert "different experiments (tests/toy, tests/other)" in said
    assert "on the same axes: loss, error, norm, edge" in said


def test_settings_say_where_they_come_from_and_what_differs(tmp_path):
    one = made.run(tmp_path / "one", made.arms())
    two = made.run(tmp_path / "two", made.arms(rho=0.05))
    sources, _, _ = read(one, two)
    rows = {row.name: row for row in settings_of(sources)}
    assert [name for name, row in rows.items() if row.standing == "differs"] == ["rho"]
    assert next(iter(rows)) == "rho"
    assert rows["rho"].text == "radius ρ of the ascent step; 0 is plain gradient descent"
    first = {value.arms: (value.text, value.origin) for value in rows["rho"].cells[0]}
    assert first == {"sam": ("0.1", "set"), "plain": ("0", "arm")}
    assert {value.arms: value.origin for value in rows["rho"].cells[1]} == {"sam": "ours", "plain": "arm"}


def test_a_setting_of_many_arms_names_three(tmp_path):
    outcomes = {f"arm{rho}": made.outcome(replace(made.SETTINGS, rho=0.5)) for rho in range(5)}
    outcomes["other"] = made.outcome(replace(made.SETTINGS, rho=0.2))
    sources, _, _ = read(made.run(tmp_path, outcomes, experiment=replace(made.EXPERIMENT, claims=())))
    cells = {row.name: row.cells[0] for row in settings_of(sources)}
    assert [value.arms for value in cells["rho"]] == ["arm0, arm1, arm2 and 2 more", "other"]


def test_settings_of_a_sweep_are_its_grids(tmp_path):
    sources, _, _ = read(made.sweep(tmp_path, made.grid(), VARIED))
    rows = {row.name: row.cells[0][0] for row in settings_of(sources)}
    assert (rows["rho"].text, rows["rho"].origin) == ("0, 0.1, 0.3", "grid")
    assert rows["size"].origin == "ours"


def test_claims_have_verdicts_and_those_of_a_run_under_way_are_told_already(tmp_path):
    (claim,) = claims_of(read_source(made.run(tmp_path / "done", made.arms())))
    assert (claim.id, claim.verdict, claim.threshold) == ("learns", "holds", "< 1")
    assert float(claim.measured) == pytest.approx(made.arms()["sam"].records[-1]["loss"], rel=1e-3)
    (claim,) = claims_of(read_source(made.run(tmp_path / "begun", made.arms(), finished=False)))
    assert (claim.id, claim.verdict) == ("learns", "not judged yet")
    (claim,) = claims_of(read_source(made.sweep(tmp_path / "sweep", made.grid(), VARIED)))
    assert claim.over_grid.startswith("holds at ")


def test_panels_are_the_figures_and_the_other_columns(tmp_path):
    data = data_of(made.run(tmp_path, made.arms()))
    titles = [panel["title"] for panel in data["panels"]]
    assert titles == ["Hessian norm", "Loss", "test error", "Hessian norm", "SAM edge"]
    assert [curve["dash"] for curve in data["panels"][0]["curves"]] == ["solid", "dash"]
    assert data["open"] == [0, 1]


def test_what_a_run_took_is_gradients_so_far_and_seconds_where_they_are_known(tmp_path):
    arms = made.arms()
    arms["plain"] = replace(made.outcome(steps=(0, 5), settings=arms["plain"].settings), diverged_at=7)
    sam, plain = data_of(made.run(tmp_path / "run", arms))["groups"]
    assert (sam["gradients"], sam["seconds"]) == (80, 1)
    assert (plain["gradients"], plain["runs"][0]["gradients"], plain["seconds"]) == (7, 7, 1)
    open_ = made.run(tmp_path / "open", {"sam": made.outcome(steps=(0, 5))}, finished=False)
    (begun,) = data_of(open_)["groups"]
    assert (begun["gradients"], begun["seconds"]) == (10, None)


def test_settings_that_few_digits_write_alike_are_told_apart(tmp_path):
    path = made.sweep(tmp_path, made.grid(lrs=(0.12345, 0.12346), rhos=(0.0,), seeds=(0,)), VARIED)
    assert data_of(path)["axes"] == {"lr": "η"}


class Late(type(made.SETTINGS)):
    """SAM in a quarter of the steps."""

    gradients_a_step = 1.25


def test_a_run_took_the_gradients_that_its_settings_say(tmp_path):
    arms = made.arms()
    arms["sam"] = replace(arms["sam"], settings=Late(**vars(arms["sam"].settings)))
    sam, plain = data_of(made.run(tmp_path / "run", arms))["groups"]
    assert (sam["gradients"], plain["gradients"]) == (50, 40)
    half = {"sam": replace(made.outcome(steps=(0, 20)), settings=arms["sam"].settings)}
    (begun,) = data_of(made.run(tmp_path / "open", half, finished=False))["groups"]
    assert begun["gradients"] == 25


def test_a_sweep_names_the_arms_that_its_grid_has_no_point_for(tmp_path):
    experiment = replace(made.EXPERIMENT, arms={**made.EXPERIMENT.arms, "large": {"size": 9}, "none": {"rho": 0.0}})
    path = made.sweep(tmp_path / "sweep", made.grid(), VARIED, experiment=experiment)
    assert read_source(path).arms_beyond == ["large"]
    assert read_source(made.run(tmp_path / "run", made.arms(), experiment=experiment)).arms_beyond == []
