"""Grids from files, and what they refuse."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowland.errors import SettingError
from lowland.experiments import sweeping
from lowland.papers import find
from lowland.training.sweep import make_grid, read_grid
from tests.fakes import NETWORKS, TOY

BASE = NETWORKS.configure("paper", {})["sam"]


def grid_of(*parts):
    return make_grid(NETWORKS, BASE, parts)


def test_every_combination_in_order():
    grid = grid_of({"lr": [0.1, 0.3], "seed": [0, 1]})
    assert grid.varied == ("lr", "seed")
    assert list(grid.points) == ["lr=0.1,seed=0", "lr=0.1,seed=1", "lr=0.3,seed=0", "lr=0.3,seed=1"]
    assert [(s.lr, s.seed, s.rho) for s in grid.points.values()] == [
        (0.1, 0, 0.05),
        (0.1, 1, 0.05),
        (0.3, 0, 0.05),
        (0.3, 1, 0.05),
    ]


def test_parts_with_other_settings_say_all_of_them():
    grid = grid_of({"rho": [0.1]}, {"network": ["mlp"], "momentum": [0.9]})
    assert list(grid.points) == ["rho=0.1,network=mlp,momentum=0", "rho=0.05,network=mlp,momentum=0.9"]


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5, unique=True),
    st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
)
def test_as_many_points_as_combinations(rates, seeds):
    grid = grid_of({"lr": rates, "seed": seeds})
    assert [(s.lr, s.seed) for s in grid.points.values()] == [(lr, seed) for lr in rates for seed in seeds]
    assert len(set(grid.points)) == len(rates) * len(seeds)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"lr": []}], "no values for lr"),
        ([{"rh": [1]}], "unknown setting rh. Did you mean rho"),
        ([{"lr": [0.1, 1e-1]}], "the point lr=0.1 twice"),
        ([{"rho": [0, 0.0]}], "the point rho=0 twice"),
        ([{"rho": [0.0, -0.0]}], "the point rho=0 twice"),
        ([{"seed": [10**400]}], "whole number"),
        ([{"seed": list(range(1000)), "lr": list(range(1, 1001))}], "1000000 points"),
        ([{"lr": [0.1]}, {"lr": [0.1]}], "twice"),
        ([{"lr": ["fast"]}], "must be a number"),
        ([{"lr": [None]}], "must be a number"),
        ([{"lr": [[0.1]]}], "must be a number"),
        ([{"lr": [-1]}], "at least"),
        ([{"seed": [0.5]}], "whole number"),
    ],
)  # fmt: skip
def test_bad_grids(parts, message):
    with pytest.raises(SettingError, match=message):
        grid_of(*parts)


def test_files(tmp_path):
    file = tmp_path / "grid.json"
    file.write_text(json.dumps({"rho": [0, 0.1], "lr": 0.2}))
    assert read_grid(file) == [{"rho": [0, 0.1], "lr": [0.2]}]
    file.write_text(json.dumps([{"rho": [0]}, {"lr": [1]}]))
    assert read_grid(file) == [{"rho": [0]}, {"lr": [1]}]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "3", '[{"rho": [0]}, 3]', '{"rho": [0], "rho": [1]}', '{"lr": NaN}', "\x00"]
)
def test_bad_files(tmp_path, text):
    file = tmp_path / "grid.json"
    file.write_text(text)
    with pytest.raises(SettingError, match=r"grid|finite"):
        grid_of(*read_grid(file))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingError, match=r"there is no grid file.*`lowland show` prints, or a file"):
        read_grid(tmp_path / "none.json")
    with pytest.raises(SettingError, match="can't be read"):
        read_grid(tmp_path)


def test_a_grid_file_that_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingError, match=r"pipe can't be read: it is a named pipe, no file"):
        read_grid(tmp_path / "pipe")
    with pytest.raises(SettingError, match="a device"):
        read_grid(Path("/dev/zero"))


def test_the_first_grid_is_called_own_or_paper_after_whose_it_is():
    toy = replace(TOY, grid={"rho": (0.0, 0.1)}, more_grids={"m": ({"lr": (0.1,)},)})
    base = sweeping.base_settings(toy, "paper", {})
    assert list(toy.grids) == ["own", "m"]
    assert next(iter(find("long2024/digits").grids)) == "paper"
    first = sweeping.choose_grid(toy, None, base, {})
    assert [at.rho for at in first.points.values()] == [0.0, 0.1]
    assert sweeping.choose_grid(toy, "own", base, {}).points == first.points
    with pytest.warns(DeprecationWarning, match="the grid of tests/toy is called own, no longer paper"):
        assert sweeping.choose_grid(toy, "paper", base, {}).points == first.points
