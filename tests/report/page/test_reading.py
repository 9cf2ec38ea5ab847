"""What is read of directories, whole and damaged, finished and under way."""

import json
from pathlib import Path

import pytest

from lowland.errors import RunError
from lowland.report.page.reading import read_source
from lowland.report.page.shown import ShownDirectory

from . import made

VARIED = ("lr", "rho", "seed")


def test_a_finished_run(tmp_path):
    source = read_source(made.run(tmp_path, made.arms()))
    assert source.finished
    assert source.told == "finished: 2 done"
    assert source.title == made.EXPERIMENT.title
    assert [run.label for run in source.runs] == ["sam", "plain"]
    assert source.runs[0].records[-1]["step"] == 40


def test_a_run_under_way_says_how_far_it_is(tmp_path):
    outcomes = {
        "sam": made.outcome(steps=range(0, 41, 10)),
        "plain": made.outcome(steps=(0, 10)),
        "late": made.outcome(steps=()),
    }
    progress = {"sam": {"finished": True, "diverged_at": None}, "plain": {"step": 17, "finished": False}}
    source = read_source(made.run(tmp_path, outcomes, finished=False, progress=progress))
    assert [run.told for run in source.runs] == ["done", "under way, step 17 of 40", "waiting"]
    assert source.share == pytest.approx((40 + 17) / 120)
    assert source.told == "under way, 48% of the steps: 1 done, 1 under way, 1 waiting"


def test_an_arm_that_diverged_while_others_go_on(tmp_path):
    outcomes = {"sam": made.outcome(steps=(0, 10)), "plain": made.outcome(steps=(0,))}
    progress = {"sam": {"step": 10, "finished": True, "diverged_at": 12}}
    source = read_source(made.run(tmp_path, outcomes, finished=False, progress=progress))
    assert [run.told for run in source.runs] == ["diverged at step 12", "under way, step 0 of 40"]


def test_a_run_of_an_earlier_version(tmp_path):
    source = read_source(made.run(tmp_path, made.arms(), described=False))
    assert source.title == made.EXPERIMENT.name
    assert source.finished


@pytest.mark.parametrize(
    ("name", "paper", "scale", "about"),
    [
        ("tests/toy", "a paper", "paper", "Sweep of tests/toy, paper scale"),
        ("tumours", "", "paper", "Sweep of tumours"),
        ("tumours", "", "smoke", "Sweep of tumours, smoke scale"),
        ("", "", "paper", "Sweep"),
    ],
)
def test_the_head_says_no_more_than_there_is(name, paper, scale, about):
    config = {"experiment": name, "scale": scale, "sweep": True}
    source = ShownDirectory(Path("x"), config, {"title": name, "paper": paper}, None, (), [])
    assert source.about == about
    assert source.title == name or source.title == "Sweep"


def test_a_line_that_is_just_being_written_is_passed_over(tmp_path):
    path = made.run(tmp_path, made.arms(), finished=False)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"arm": "sam", "st')
    assert len(read_source(path).runs[0].records) == 9


def test_a_finished_sweep(tmp_path):
    source = read_source(made.sweep(tmp_path, made.grid(), VARIED))
    assert source.varied == VARIED
    assert len(source.runs) == 18
    assert source.told == "finished: 18 done"
    assert source.runs[-1].settings["rho"] == 0.3


def test_a_sweep_under_way(tmp_path):
    outcomes = made.grid()
    labels = list(outcomes)
    outcomes[labels[1]] = made.outcome(outcomes[labels[1]].settings, steps=(0, 5))
    source = read_source(made.sweep(tmp_path, outcomes, VARIED, finished=False, begun=labels[:2]))
    assert [run.status for run in source.runs[:3]] == ["done", "under way", "waiting"]
    assert source.counts == {"done": 1, "under way": 1, "waiting": 16}


def test_a_sweep_whose_grid_has_grown_is_under_way_again(tmp_path):
    small, large = made.grid(seeds=(0,)), made.grid(seeds=(0, 1))
    made.sweep(tmp_path, small, VARIED, begun=small)
    assert read_source(tmp_path).finished
    made.sweep(tmp_path, large, VARIED, finished=False)
    source = read_source(tmp_path)
    assert not source.finished
    assert source.counts == {"done": 6, "waiting": 6}


def test_a_sweep_that_says_nothing_of_its_grid(tmp_path):
    outcomes = made.grid()
    path = made.sweep(tmp_path, outcomes, VARIED, finished=False, begun=list(outcomes)[:4])
    (path / "about.json").unlink()
    source = read_source(path)
    assert source.varied == ("rho", "seed")
    assert source.counts == {"done": 4}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: (path / "config.json").unlink(), "neither a run nor a sweep"),
        (lambda path: (path / "config.json").write_text("{"), "config.json is damaged"),
        (lambda path: (path / "config.json").write_text('{"experiment": "x", "scale": "paper"}'), "it lacks arms"),
        (lambda path: (path / "metrics.jsonl").unlink(), "metrics.jsonl is damaged"),
        (lambda path: (path / "metrics.jsonl").write_text("no record\n"), "metrics.jsonl is damaged"),
        (lambda path: (path / "summary.json").write_text("[]"), "summary.json is damaged"),
        (lambda path: (path / "about.json").write_text('{"title": 3}'), "about.json is damaged"),
    ],
)
def test_what_is_missing_or_damaged_is_said(tmp_path, spoil, says):
    whole = [made.run(tmp_path / "run", made.arms()), made.sweep(tmp_path / "sweep", made.grid(), VARIED)]
    for path in whole:
        spoil(path)
        with pytest.raises(RunError) as caught:
            read_source(path)
        assert says in str(caught.value)
        assert str(path) in str(caught.value)


def test_damage_in_a_part_of_a_sweep_is_said(tmp_path):
    outcomes = made.grid()
    path = made.sweep(tmp_path, outcomes, VARIED, finished=False, begun=list(outcomes)[:1])
    (path / "runs/part-0/metrics.jsonl").write_text("no record\n")
    with pytest.raises(RunError, match="line 1 is damaged"):
        read_source(path)


def test_a_summary_of_another_shape_is_said(tmp_path):
    path = made.sweep(tmp_path, made.grid(), VARIED)
    summary = json.loads((path / "summary.json").read_text())
    del summary["metrics"]["lr=0.1,rho=0.0,seed=0"]
    (path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match="metrics lacks"):
        read_source(path)


@pytest.mark.parametrize("kind", ["file", "nothing"])
def test_what_is_no_directory_is_refused(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("")
    with pytest.raises(RunError, match="name a directory"):
        read_source(path)
