"""Choosing ρ: the pick is the lowest mean of the validation error, and the same call goes on or does nothing."""

import csv
from statistics import fmean

import pytest
import torch

from lowland.errors import SettingError
from lowland.experiments import Experiment, defaults, supervised, tune
from lowland.models import mlp

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
    assert tuned.runs > 1
    assert tuned.figure.is_file()
    assert str(tuned).startswith(f"pick: rho = {tuned.rho:g}, by validation error")

    built.clear()
    again = tune(build, SETTINGS, grid={"rho": (0.0, 0.1, 3.0)}, seeds=2, out=tmp_path / "tune", device="cpu")
    assert again == tuned
    assert not built


def test_a_pick_at_the_end_of_the_grid_says_so(tmp_path):
    experiment = Experiment(name="mine", build=build, settings=defaults(**SETTINGS))
    tuned = tune(experiment, grid={"lr": (0.1,), "rho": (0.05, 0.05001)}, seeds=1, out=tmp_path / "tune", device="cpu")
    assert ("try larger ones" in str(tuned)) is (tuned.rho == 0.05001)
    assert tuned.gain is None  # there are no runs with ρ = 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"settings": None}, "say the settings"),
        ({"settings": {"lr": 0.1}}, "settings need rho"),
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


def test_an_experiment_has_its_own_settings(tmp_path):
    with pytest.raises(SettingError, match="leave settings out"):
        tune(Experiment(name="mine", build=build, settings=defaults(**SETTINGS)), SETTINGS, out=tmp_path / "tune")
