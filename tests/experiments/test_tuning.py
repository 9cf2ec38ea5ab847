"""Choosing ρ: the pick is the lowest mean of the validation error, and the same call goes on or does nothing."""

import csv
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch

from lowland import experiments
from lowland.errors import SettingError
from lowland.experiments import Experiment, Tuned, defaults, supervised, tune
from lowland.models import mlp

from ..training.own_file import TEXT, write

SETTINGS = {"lr": 0.1, "rho": 0.05, "steps": 6, "batch_size": 10}
built = []


def build(settings):
    built.append((settings.rho, settings.seed))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator)
    return supervised(mlp([4, 3]), settings, (x, x[:, :3].argmax(1)))


def test_the_pick_has_the_lowest_mean_over_seeds(tmp_path):
    tuned = tune(build, SETTINGS, grid={"rho": (0.0, 0.1, 3.0)}, seeds=2, out=tmp_path / "tune", device="cpu")
    with (tmp_path / "tune/results.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 6
    means = {
        rho: fmean(float(run["validation_error"]) for run in runs if float(run["rho"]) == rho) for rho in (0, 0.1, 3)
    }
    assert {row["rho"]: row["validation_error"] for row in tuned.rows} == pytest.approx(means)
    assert means[tuned.rho] == min(means.values())
    assert tuned.metric == "validation_error"
    two = (1 + 2 + 2) * 2  # gradients a step of all runs
    assert tuned.runs == two / (2 if tuned.rho else 1)
    assert tuned.figure.is_file()
    by_rho = {row["rho"]: row for row in tuned.rows}
    value = "{validation_error:.3g} ± {standard_error:.2g}"
    assert str(tuned).startswith(
        f"Best by validation error: rho = {tuned.rho:g}, {value.format(**by_rho[tuned.rho])} ("
    )
    assert tuned.without_sam == by_rho[0]
    assert means[tuned.with_sam["rho"]] == min(means[0.1], means[3])
    assert [row["cost"] for row in tuned.rows] == [1, 2, 2]

    built.clear()
    again = tune(build, SETTINGS, grid={"rho": (0.0, 0.1, 3.0)}, seeds=2, out=tmp_path / "tune", device="cpu")
    assert again == tuned
    assert not built


def test_costs_are_counted_in_the_shortest_run_without_sam(tmp_path):
    grid = {"rho": (0.0, 0.1), "steps": (3, 6)}
    tuned = tune(build, {**SETTINGS, "check_every": 3}, grid=grid, seeds=1, out=tmp_path / "tune", device="cpu")
    costs = {(row["rho"], row["steps"]): row["cost"] for row in tuned.rows}
    assert costs == {(0.0, 3): 1, (0.0, 6): 2, (0.1, 3): 2, (0.1, 6): 4}


def test_a_pick_at_the_end_of_the_grid_says_so(tmp_path):
    experiment = Experiment(name="mine", build=build, settings=defaults(**SETTINGS))
    tuned = tune(experiment, grid={"lr": (0.1,), "rho": (0.05, 0.05001)}, seeds=1, out=tmp_path / "tune", device="cpu")
    assert ("try larger ones" in str(tuned)) is (tuned.rho == 0.05001)
    assert tuned.gain is None  # there are no runs with ρ = 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"settings": None}, r"say the settings of the runs: tune\(build, lr=0.1"),
        ({"settings": {"lr": 0.1}}, "settings need steps"),
        (
            {"settings": {"lr": 0.1, "steps": 6}, "grid": {"lr": (0.1, 0.2)}},
            "rho is neither in the grid, which varies lr,",
        ),
        ({"settings": {**SETTINGS, "names": ["a"]}}, "names is a list"),
        ({"seeds": 0}, "at least 1, not 0"),
        ({"grid": {"seed": (1, 2)}}, "the grid has no seeds"),
        ({"grid": {"rhoo": (0.1,)}}, "unknown setting rhoo"),
        ({"grid": {"rho": (-1.0,)}}, "at least 0"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, asked, says):
    with pytest.raises(SettingError, match=says):
        tune(build, **{"settings": SETTINGS, "out": tmp_path / "tune", **asked})
    assert not (tmp_path / "tune").exists()


def test_an_experiment_has_its_own_settings_and_name(tmp_path):
    experiment = Experiment(name="mine", build=build, settings=defaults(**SETTINGS))
    tuned = tune(experiment, grid={"rho": (0.0, 0.1)}, seeds=1, steps=3, out=tmp_path / "tune", device="cpu")
    assert experiments.open(tuned.directory).config["settings"]["steps"] == 3
    with pytest.raises(SettingError, match="leave name out"):
        tune(experiment, name="other")


def test_a_file_is_tuned_and_other_settings_go_to_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(tmp_path, TEXT.replace("Dropout(0.2)", "ReLU()"))
    asked = {"grid": {"rho": (0.0, 0.1)}, "seeds": 1, "device": "cpu"}
    first = tune("mine.py", epochs=1, **asked)
    assert first.directory.as_posix() == "runs/mine/tune-epochs=1"
    assert tune(tmp_path / "mine.py", {"epochs": 2}, **asked).directory.as_posix() == "runs/mine/tune-epochs=2"
    made = tune(build, lr=0.1, rho=0.05, steps=6, batch_size=10, name="clouds", **asked)
    assert made.directory.as_posix() == "runs/clouds/tune-batch_size=10-lr=0.1-rho=0.05-steps=6"
    assert experiments.open(made.directory).config["experiment"] == "clouds"
    assert tune(build, SETTINGS, **asked).directory.parts[:2] == ("runs", "test_tuning")
    many = {f"setting_{k}": k for k in range(20)}
    assert len(tune(build, {**SETTINGS, **many}, **asked).directory.name) == len("tune-") + 8


def tuned(*rows, gain=None, **more):
    metric, keys = "validation_error", ("rho", "validation_error", "standard_error", "cost")
    made = [dict(zip(keys, row, strict=True)) for row in rows]
    return Tuned({"rho": 0.1}, made, metric, gain, 4.13, Path("runs"), Path("runs/a.png"), **more)


def test_its_sentence():
    nan = float("nan")
    without = {"rho": 0.0, "validation_error": 0.0481, "standard_error": 0.002, "cost": 1.0}
    rows = [tuple(without.values()), (0.1, 0.0421, 0.003, 2.0), (0.2, 0.05, 0.001, 2.0)]
    sam = dict(zip(without, rows[1], strict=True))
    both = {"without_sam": without, "with_sam": sam}
    found = tuned(*rows, gain=(-0.006, -0.01, -0.002), **both)
    assert str(found).splitlines() == [
        "Best by validation error: rho = 0.1, 0.0421 ± 0.003 (no SAM: 0.0481 ± 0.002)",
        "validation error with SAM less without: -0.006 (95 % interval -0.01 to -0.002): lower with SAM",
        "A run with SAM takes 2 times the gradients of one without: compare at that cost, too.",
        "All runs together took 4.1 times the gradients of one run with rho = 0.1.",
        "figure: runs/a.png",
    ]
    assert "undecided" in str(tuned(*rows, gain=(-0.006, -0.01, 0.002), **both))
    assert "undecided, for want of seeds that differ" in str(tuned(*rows, **both))
    assert str(tuned(*rows, **both, tied="tied with rho = 0.2")).splitlines()[1] == "It is tied with rho = 0.2."
    plain = Tuned({"rho": 0.0}, found.rows, found.metric, None, 9.0, *[Path("a.png")] * 2, without, found.rows[1])
    assert str(plain).splitlines()[0] == (
        "Best by validation error: rho = 0, 0.0481 ± 0.002 (SAM at best: rho = 0.1, 0.0421 ± 0.003)"
    )
    alone = str(tuned((0.1, 0.0421, nan, nan)))
    assert alone.splitlines()[:2] == [
        "Best by validation error: rho = 0.1, 0.0421",
        "Nothing is said of SAM against training without it: the grid has no run with ρ = 0.",
    ]


def test_a_grid_of_rho_0_alone_says_that_nothing_is_compared(tmp_path):
    found = tune(build, {"lr": 0.1, "steps": 6}, grid={"rho": [0]}, seeds=2, out=tmp_path / "tune", device="cpu")
    assert "the grid has no run with ρ > 0." in str(found)
    assert "undecided" not in str(found)


def test_a_lambda_is_called_by_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = tune(lambda settings: build(settings), {"lr": 0.1, "steps": 2}, grid={"rho": [0]}, seeds=1, device="cpu")
    assert found.directory.parts[:2] == ("runs", "test_tuning")
