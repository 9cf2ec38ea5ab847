"""Sweeps through the command line: what comes out, going on, growing, and what is refused."""

import csv
import json
import signal

import pytest

from .forked import Command, save_every, undrawn
from .processes import until

SMOKE = ("sweep", "long2024/digits", "--scale", "smoke")
SHORT = ("--set", "steps=4", "--set", "tol=0.1")
GRID = {"rho": [0, 0.1], "seed": [0, 1]}
LABELS = ["rho=0,seed=0", "rho=0,seed=1", "rho=0.1,seed=0", "rho=0.1,seed=1"]


@pytest.fixture
def grid_file(tmp_path):
    """Write a grid file, by its content, and give its name."""

    def write(content, name="grid.json"):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return name

    return write


def rows(directory):
    """The table, but for what the clock says."""
    with (directory / "results.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in csv.DictReader(file)]


def contents(directory):
    """Every file under it: when it was written, and its bytes. A lock is touched by whoever looks."""
    return {
        path.relative_to(directory): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.slow
def test_what_comes_out_and_the_same_command_again(lowland, grid_file, tmp_path):
    command = (*SMOKE, *SHORT, "--grid", grid_file(GRID), "--engine", "vectorized", "--out", "here")
    first = lowland(*command)
    assert first.code == 0
    assert "4 runs, engine vectorized" in first.err
    assert "4 runs: 4 done" in first.out
    assert "a smoke sweep judges no claims" in first.out
    here = tmp_path / "here"

    table = rows(here)
    assert [row["run"] for row in table] == LABELS
    assert [(float(row["rho"]), int(row["seed"])) for row in table] == [(0, 0), (0, 1), (0.1, 0), (0.1, 1)]
    assert {row["status"] for row in table} == {"done"}
    assert {(row["steps"], row["step"], row["error"]) for row in table} == {("4", "4", "")}

    summary = json.loads((here / "summary.json").read_text())
    assert set(summary) >= {"config", "totals", "selection", "claims", "settings", "metrics", "environment"}
    assert list(summary["metrics"]) == LABELS
    assert [summary["totals"][key] for key in ("runs", "done", "diverged", "stopped", "failed")] == [4, 4, 0, 0, 0]
    assert summary["selection"]["selected"] in [entry["settings"] for entry in summary["settings"]]
    ends = "It lies at the end of the grid in rho: a wider grid may have a better one." in first.out
    assert ends == (summary["selection"]["selected"] == {"rho": 0.1})
    assert summary["selection"]["on"] == "training"
    assert summary["config"]["grid"]["varied"] == ["rho", "seed"]

    records = [json.loads(line) for line in (here / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(record["arm"] for record in records)) == LABELS
    drawn = {path.name for path in (here / "figures").iterdir()}
    assert drawn == {f"{name}-by-rho.{kind}" for name in ("loss", "hessian-norm") for kind in ("png", "pdf")}

    before = contents(here)
    again = lowland(*command)
    assert again.code == 0
    assert "is finished" in again.out
    assert contents(here) == before
    del summary["selection"]["test"]  # of another version: what is printed must be there
    (here / "summary.json").write_text(json.dumps(summary))
    assert lowland(*command).code == 0
    assert "test" in json.loads((here / "summary.json").read_text())["selection"]


@pytest.mark.slow
def test_a_grown_grid_adds_the_new_runs_and_leaves_the_others(undrawn, lowland, grid_file, tmp_path):
    small = grid_file({"rho": [0, 0.1], "seed": [0]}, "small.json")
    command = (*SMOKE, *SHORT, "--engine", "vectorized", "--out", "here")
    assert lowland(*command, "--grid", small).code == 0
    runs = tmp_path / "here/runs"
    before, known = contents(runs), rows(tmp_path / "here")
    grown = lowland(*command, "--grid", grid_file(GRID))
    assert grown.code == 0
    assert "4 runs: 4 done" in grown.out
    after = contents(runs)
    assert {path: after[path] for path in before} == before
    configs = [json.loads(path.read_text()) for path in runs.glob("*/config.json")]
    assert sorted(label for config in configs for label in config["arms"]) == sorted(LABELS)
    table = rows(tmp_path / "here")
    assert [row["run"] for row in table] == LABELS
    assert [table[0], table[2]] == known


@pytest.mark.slow
def test_killed_in_mid_sweep_it_ends_like_an_undisturbed_one(grid_file, tmp_path):
    two = grid_file({"rho": 0.1, "seed": [0, 1]})
    longer = ("--set", "steps=25", "--set", "tol=0.1", "--engine", "vectorized", "--grid", two)
    sweep = Command(*SMOKE, *longer, "--out", "killed", cwd=tmp_path, setup=[(save_every, 0.02)])
    until(lambda: sum(path.read_bytes().count(b"\n") for path in _records(tmp_path)) >= 3)
    sweep.kill()
    assert sweep.wait().code == -signal.SIGKILL
    assert not (tmp_path / "killed/summary.json").exists()

    for out in ("killed", "straight"):
        ended = Command(*SMOKE, *longer, "--out", out, cwd=tmp_path, setup=[(undrawn,)]).wait()
        assert ended.code == 0, ended
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    assert (killed / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    assert rows(killed) == rows(straight)
    assert [row["status"] for row in rows(killed)] == ["done"] * 2
    ours, theirs = (sorted(path.name for path in (out / "runs").iterdir()) for out in (killed, straight))
    assert ours == theirs


def _records(folder):
    return folder.glob("killed/runs/*/metrics.jsonl")


@pytest.mark.parametrize(
    ("grid", "options", "says"),
    [
        ({"rh": [0.1]}, (), "Did you mean rho?"),
        ({"rho": []}, (), ("rho", "empty")),
        ({"rho": [0.1, 0.1]}, (), "rho=0.1 twice"),
        ([{"rho": [0, 0.1]}, {"rho": [0.1]}], (), "rho=0.1 twice"),
        ('{"rho": [0], "rho": [0.1]}', (), "rho stands there twice"),
        ('{"rho": [0', (), ("grid.json", "can't be read")),
        ([], (), "must hold"),
        ({}, (), "must hold"),
        ({"rho": [-1]}, (), "at least 0"),
        ({"rho": ["much"]}, (), "must be a number"),
        ({"rho": None}, (), "must be a number"),
        ({"rho": [[1]]}, (), "must be a number"),
        ({"rho": {"a": 1}}, (), "must be a number"),
        ({"seed": [0.5]}, (), "whole number"),
        (GRID, ("--set", "rho=0.1"), "by the grid and by --set"),
        (GRID, ("--set", "sam.lr=1"), "leave the arm out"),
        (GRID, ("--engine", "vectorised"), "Did you mean vectorized?"),
        (GRID, ("--engine", "ray", "--workers", "2"), "--workers belongs to --engine process"),
        (GRID, ("--engine", "process", "--address", "localhost:1"), "--address belongs to --engine ray"),
        (GRID, ("--workers", "0"), "--workers"),
        (GRID, ("--halving", "1"), "--halving"),
        (GRID, ("--out", ""), "--out needs"),
    ],
)
def test_refuses_in_one_line(refused, grid_file, grid, options, says):
    refused(*SMOKE, "--grid", grid_file(grid), *options, says=says)


def test_an_apple_gpu_trains_no_sweeps(refused, monkeypatch, grid_file):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    refused(*SMOKE, "--grid", grid_file(GRID), "--device", "mps", says=("--device mps", "lowland run"))


def test_no_worker_processes_on_windows(refused, monkeypatch, grid_file):
    monkeypatch.delattr("signal.pthread_sigmask")
    options = ("--device", "cpu", "--grid", grid_file(GRID), "--engine", "process")
    refused(*SMOKE, *options, says=("--engine process needs Linux or macOS", "--engine vectorized"))


def test_no_grid_file(refused):
    refused(
        *SMOKE,
        "--grid",
        "nowhere.json",
        says=("no grid file nowhere.json", "--grid takes one that `lowland show` prints"),
    )


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"experiment": "long2024/mnist"}, "experiment is long2024/mnist there, long2024/digits here"),
        ({"scale": "laptop"}, "scale is laptop there, smoke here"),
        ({"settings": {"steps": 30}}, "there holds a run of another configuration"),
    ],
)
def test_a_directory_of_something_else(refused, grid_file, tmp_path, there, says):
    settings = {"lr": 0.3, "rho": 0.1, "steps": 20, "check_every": 5, "seed": 0, "eps": 1e-05, "tol": 0.001}
    config = {
        "experiment": "long2024/digits", "scale": "smoke", "device": "cpu", "sweep": True,
        **there, "settings": settings | there.get("settings", {}),
    }  # fmt: skip
    part = tmp_path / "there/runs/one"
    part.mkdir(parents=True)
    for path in (tmp_path / "there", part):
        (path / "config.json").write_text(json.dumps(config))
    (part / "checkpoint.pt").write_bytes(b"")  # without any, nothing would be lost
    refused(
        *SMOKE, "--device", "cpu", "--grid", grid_file(GRID), "--out", "there", says=("another configuration", says)
    )
