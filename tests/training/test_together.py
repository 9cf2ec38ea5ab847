"""Arms that are trained as one program of the experiment's own."""

import json

import pytest
import torch

import lowland.training as training
from lowland import experiments, report
from lowland.errors import SettingError
from lowland.training import Alone, RunDirectory, configuration, summarize
from tests.fakes import PAIR, Rows

CPU = torch.device("cpu")


def run(path, changes=None, until=None):
    arms = PAIR.configure("paper", changes or {})
    with RunDirectory(path, configuration(PAIR, "paper", arms, CPU)) as directory:
        return training.train(PAIR, arms, directory, CPU, show_progress=False, until=until), directory


def test_every_arm_is_checked_to_its_own_end(tmp_path):
    trained, directory = run(tmp_path)
    assert list(trained) == ["slow-0", "slow-1", "wild-0", "wild-1", "long-0", "long-1"]
    assert trained["slow-1"].column("step") == [0, 10, 20, 25]
    assert trained["long-0"].column("step") == [0, 10, 20, 25, 30, 32]
    assert trained["slow-1"].records[-1]["loss"] == pytest.approx((2 * 0.9**25) ** 2, rel=1e-12)
    assert trained["wild-0"].status == "diverged"
    assert trained["wild-0"].diverged_at == 10
    summary = summarize(PAIR, directory.config, trained, CPU)
    assert summary["metrics"]["last"]["slow-0"] == trained["slow-0"].records[-1]["loss"]
    assert set(summary["metrics"]) == {*trained, "last"}
    assert [path.name for path in report.draw_run(tmp_path / "figures", PAIR, trained)] == ["loss.png"]


def test_it_ends_where_all_have_stopped(tmp_path):
    trained, _ = run(tmp_path, {"lr": "0.5", "long.lr": "0.5"})
    assert trained["long-0"].column("step") == [0, 10, 20]


def test_runs_of_a_sweep_that_end_by_themselves_are_done(tmp_path):
    grid = {"lr": [0.1, 0.6]}
    swept = experiments.sweep(PAIR, grid=grid, out=tmp_path)  # it would warn of runs that failed
    ends = swept.summary["metrics"]
    assert [(end["status"], end["step"]) for end in ends.values()] == [("done", 25), ("done", 10)]
    assert ends["lr=0.6"]["loss"] == pytest.approx(0.4**20, rel=1e-12)
    checkpoint = next(tmp_path.glob("runs/lr=0.6-*/checkpoint.pt"))
    checkpoint.unlink()  # and they aren't trained again
    (tmp_path / "summary.json").unlink()
    assert experiments.sweep(PAIR, grid=grid, out=tmp_path).summary["metrics"] == ends
    assert not checkpoint.exists()


@pytest.mark.parametrize("crash", [1, 2, 3, 5])
def test_killed_it_ends_with_the_same_bits(tmp_path, interrupted, crash):
    run(tmp_path / "straight")
    interrupted(Rows, "train", crash)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    trained, _ = run(tmp_path / "killed")
    assert (tmp_path / "killed/metrics.jsonl").read_bytes() == (tmp_path / "straight/metrics.jsonl").read_bytes()
    assert trained["wild-0"].diverged_at == 10
    again, _ = run(tmp_path / "killed")
    assert again == trained


def test_paused_and_gone_on_it_is_the_same(tmp_path):
    run(tmp_path / "straight")
    for until in (4, 10, 13, None):
        run(tmp_path / "paused", until=until)
    assert (tmp_path / "paused/metrics.jsonl").read_bytes() == (tmp_path / "straight/metrics.jsonl").read_bytes()


def test_arms_that_cannot_be_checked_together_are_refused(tmp_path):
    with pytest.raises(SettingError, match="check_every"):
        run(tmp_path, {"slow.check_every": "5"})


def test_several_processes_are_refused(tmp_path):
    arms = PAIR.configure("paper", {})
    processes = Alone()
    processes.count = 2
    with (
        RunDirectory(tmp_path, configuration(PAIR, "paper", arms, CPU, 2)) as directory,
        pytest.raises(SettingError, match="without torchrun"),
    ):
        training.train(PAIR, arms, directory, CPU, processes=processes)


def test_seeds_count_from_the_one_asked_for():
    arms = PAIR.configure("paper", {"seed": "7", "slow.seeds": "1"})
    assert {name: arm.seed for name, arm in arms.items()} == {
        "slow": 7, "wild-0": 7, "wild-1": 8, "long-0": 7, "long-1": 8
    }  # fmt: skip
    assert json.dumps(configuration(PAIR, "paper", arms, CPU))
    with pytest.raises(SettingError, match="seed"):
        PAIR.configure("paper", {"seed": str(2**31 - 1)})
