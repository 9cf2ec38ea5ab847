"""Sweeps of a small experiment: vectorized and one by one, interrupted, grown, halved."""

import json
from dataclasses import replace

import pytest
import torch

from lowland.errors import RunError, SettingError
from lowland.training.outcome import Outcome
from lowland.training.sweep import can_vectorize, here, make_grid, sweep
from lowland.training.sweep.directory import find_parts
from lowland.training.sweep.halving import losers, rungs
from lowland.training.sweep.job import News
from tests.fakes import NETWORKS

from ..vectorized.test_vectorized import same

RATES = {"lr": [0.01, 0.02], "rho": [0, 0.05], "seed": [0, 1]}


def run(path, grid=RATES, vectorized=True, engine=here, experiment=NETWORKS, halving=None, **changes):
    base = experiment.configure("paper", changes)["sam"]
    path.mkdir(exist_ok=True)
    return sweep(
        experiment, "paper", make_grid(experiment, base, [grid]), path, "cpu", engine,
        vectorized=vectorized, halving=halving, show_progress=False,
    )  # fmt: skip


def files(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.name in ("metrics.jsonl", "config.json")}


def test_stacked_and_one_by_one_give_the_same(tmp_path):
    together, alone = run(tmp_path / "a"), run(tmp_path / "b", vectorized=False)
    same(together, alone)
    assert list(together)[:2] == ["lr=0.01,rho=0,seed=0", "lr=0.01,rho=0,seed=1"]
    assert [part.vectorized for part in find_parts(tmp_path / "a", NETWORKS)] == [
        True,
        True,
    ]  # with an ascent, without
    assert len(find_parts(tmp_path / "b", NETWORKS)) == 8


@pytest.mark.parametrize("vectorized", [True, False])
def test_a_finished_sweep_trains_nothing(tmp_path, vectorized):
    """Also where only its records are left, as `results/under-way` keeps them."""
    once = run(tmp_path, vectorized=vectorized)
    for path in tmp_path.glob("runs/*/checkpoint.pt"):
        path.unlink()

    def idle(jobs, hear):
        raise AssertionError(jobs)

    assert run(tmp_path, vectorized=vectorized, engine=idle) == once


@pytest.mark.parametrize("vectorized", [True, False])
def test_interrupted_it_goes_on_with_what_is_missing(tmp_path, vectorized):
    run(tmp_path / "whole", vectorized=vectorized)

    class Killed(Exception):
        pass

    def dying(jobs, hear):
        here(jobs[:1], hear)
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            run(tmp_path / "killed", vectorized=vectorized, engine=dying)
    run(tmp_path / "killed", vectorized=vectorized)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_sweep_begun_by_one_engine_is_ended_by_another(tmp_path):
    def first_only(jobs, hear):
        here([replace(jobs[0], until=3)], hear)

    begun = run(tmp_path / "a", engine=first_only)
    assert {arm.records[-1]["step"] for arm in begun.values() if arm.records} == {0}
    assert {arm.status for arm in begun.values()} == {"failed"}
    same(run(tmp_path / "a", vectorized=False), run(tmp_path / "b"))


@pytest.mark.parametrize("vectorized", [True, False])
def test_a_grown_grid_adds_only_the_new_runs(tmp_path, vectorized):
    run(tmp_path, vectorized=vectorized)
    before = files(tmp_path)
    trained = []

    def noting(jobs, hear):
        trained.extend(settings for job in jobs for settings in job.arms.values())
        here(jobs, hear)

    grown = run(tmp_path, {**RATES, "lr": [0.005, 0.01, 0.02]}, vectorized, noting)
    assert {settings.lr for settings in trained} == {0.005}
    assert len(grown) == 12
    assert files(tmp_path).items() >= before.items()
    more = run(tmp_path, {**RATES, "momentum": [0, 0.9]}, vectorized)
    assert more["lr=0.01,rho=0,seed=0,momentum=0"] == grown["lr=0.01,rho=0,seed=0"]


def test_a_run_that_diverges_is_a_result(tmp_path):
    arms = run(tmp_path, {**RATES, "lr": [0.01, 1e25]})
    assert [arm.status for arm in arms.values()] == ["done"] * 4 + ["diverged"] * 4


def test_a_run_that_fails_is_marked_and_tried_again(tmp_path):
    def failing(jobs, hear):
        hear(jobs[0], News(ended=True, error="the node burned down"))
        here(jobs[1:], hear)

    arms = run(tmp_path, vectorized=False, engine=failing)
    assert [arm.status for arm in arms.values()] == ["failed"] + ["done"] * 7
    assert next(iter(arms.values())).error == "the node burned down"
    assert {arm.status for arm in run(tmp_path, vectorized=False).values()} == {"done"}


def test_here_reports_what_the_user_can_mend_and_goes_on(tmp_path):
    path = tmp_path / "sweep"
    run(path, vectorized=False)
    parts = find_parts(path, NETWORKS)
    (parts[0].path / "ended.json").unlink()
    (parts[0].path / "checkpoint.pt").write_bytes(b"rubbish")
    (parts[1].path / "ended.json").unlink()
    arms = run(path, vectorized=False)
    assert sorted(arm.status for arm in arms.values()) == ["done"] * 7 + ["failed"]
    assert any("checkpoint.pt is damaged" in arm.error for arm in arms.values())


@pytest.mark.parametrize("vectorized", [True, False])
def test_a_torn_line_of_an_unfinished_run_is_cut(tmp_path, vectorized):
    def first_only(jobs, hear):
        here([replace(jobs[0], until=5)], hear)

    run(tmp_path / "whole", vectorized=vectorized)
    run(tmp_path / "torn", vectorized=vectorized, engine=first_only)
    [file] = tmp_path.glob("torn/runs/*/metrics.jsonl")
    with file.open("a") as records:
        records.write('{"arm": "lr=0.0')
    run(tmp_path / "torn", vectorized=vectorized)
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


def test_a_finished_run_without_its_records_is_found_out(tmp_path):
    run(tmp_path, vectorized=False)
    part = find_parts(tmp_path, NETWORKS)[0].path
    (part / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match="lacks records of a finished run: remove it"):
        run(tmp_path, vectorized=False)


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content * 2,  # every line is there, twice
        lambda content: content + content[: content.index(b"\n") + 1],
        lambda content: content.replace(b'"loss": ', b'"loss": 1', 1),
        lambda content: content.replace(b'"loss": ', b'"loss": null, "was": ', 1),
        lambda content: content[content.index(b"\n") + 1 :],
        lambda content: bytes(len(content)),
        lambda content: content[: len(content) // 2] + b"\n",
    ],
)
def test_damaged_records_of_a_finished_part_are_noticed(tmp_path, vectorized, damage):
    run(tmp_path, vectorized=vectorized)
    file = find_parts(tmp_path, NETWORKS)[0].path / "metrics.jsonl"
    content = file.read_bytes()
    assert damage(content) != content
    file.write_bytes(damage(content))
    with pytest.raises(RunError, match=r"remove .*again"):
        run(tmp_path, vectorized=vectorized)


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize(
    "changed",
    [
        {"arms": None}, {"arms": {"a": None}}, {"arms": {"a": {}}}, {"arms": {"a": {"lr": None}}}, {"arms": [[[]]]},
        {"alike": "many"}, {"alike": 0}, {"alike": 1e400}, {"stacked": "yes"}, {"stacked": [1]},
    ],
)  # fmt: skip
def test_a_part_of_another_shape_is_refused(tmp_path, vectorized, changed):
    run(tmp_path, vectorized=vectorized)
    file = find_parts(tmp_path, NETWORKS)[0].path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(RunError, match=r"holds no run of tests/networks .*remove .*trained again"):
        run(tmp_path, vectorized=vectorized)


@pytest.mark.parametrize(
    "how",
    [
        None, [], 3, {"diverged_at": "never"}, {"diverged_at": -1}, {"diverged_at": None, "train_seconds": "long"},
        {"diverged_at": None, "train_seconds": None}, {"diverged_at": None, "records_sha256": 3},
    ],
)  # fmt: skip
def test_an_end_of_another_shape_is_refused(tmp_path, how):
    run(tmp_path, vectorized=False)
    file = find_parts(tmp_path, NETWORKS)[0].path / "ended.json"
    label = next(iter(json.loads(file.read_text())))
    for content in ({label: how}, {"another": {"diverged_at": None}}):
        file.write_text(json.dumps(content))
        with pytest.raises(RunError, match=r"ended\.json is damaged .*trained again"):
            run(tmp_path, vectorized=False)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("stacks", None), ("stacks", 3), ("stacks", [{}]), ("stacks", [{"names": ["a"]}]), ("stacks", "twice"),
        ("step", -1), ("step", 10**9), ("step", "first"), ("runs", None), ("runs", {}), ("checks", []), ("random", [1]),
        ("seconds", None), ("compiled", None), ("arms", {"a": None}),
    ],
)  # fmt: skip
def test_a_stack_of_another_shape_is_refused(tmp_path, entry, value):
    def first_only(jobs, hear):
        here([replace(jobs[0], until=5)], hear)

    run(tmp_path, engine=first_only)
    [file] = tmp_path.glob("runs/*/checkpoint.pt")
    state = torch.load(file, weights_only=True)
    if entry in state:
        state[entry] = state["stacks"] * 2 if value == "twice" else value
    else:
        state["stacks"][0][entry] = value
    torch.save(state, file)
    arms = run(tmp_path)
    if entry == "compiled":
        assert {arm.status for arm in arms.values()} == {"done"}
    else:
        assert {arm.status for arm in arms.values()} >= {"failed"}
        assert all("checkpoint.pt" in arm.error for arm in arms.values() if arm.error)


def test_damaged_parts_are_named(tmp_path):
    run(tmp_path)
    part = find_parts(tmp_path, NETWORKS)[0].path
    (part / "ended.json").write_text("{")
    with pytest.raises(RunError, match=r"ended.json is damaged"):
        run(tmp_path)
    (part / "ended.json").unlink()
    config = json.loads((part / "config.json").read_text())
    (part / "config.json").write_text(json.dumps(config | {"arms": {"a": {"lr": 1}}}))
    with pytest.raises(RunError, match="holds no run of tests/networks"):
        run(tmp_path)
    (part / "config.json").write_text(json.dumps(config | {"arms": [1]}))
    with pytest.raises(RunError, match="holds no run of tests/networks"):
        run(tmp_path)
    (part / "config.json").write_text(json.dumps(config))
    (part / "ended.json").write_text('{"a": 1}')
    with pytest.raises(RunError, match=r"ended.json is damaged"):
        run(tmp_path)


# Successive halving.

HALVED = {"lr": [0.001, 0.01, 0.02, 0.03], "seed": [0, 1]}


def test_rungs_are_steps_of_checks():
    settings = NETWORKS.configure("paper", {"steps": 100, "check_every": 10})["sam"]
    assert rungs(settings, 2) == [10, 20, 50]  # 12 and 25 are no checks
    assert rungs(settings, 3) == [10, 30]
    assert rungs(settings, 20) == []


def arm(lr, seed, loss, **more):
    settings = NETWORKS.configure("paper", {"lr": lr, "seed": seed})["sam"]
    return Outcome(settings, [{"step": 4, "loss": loss}], **more)


def test_losers_are_settings_and_not_runs():
    arms = {
        "a0": arm(0.1, 0, 1.0), "a1": arm(0.1, 1, 5.0),
        "b0": arm(0.2, 0, 2.0), "b1": arm(0.2, 1, 2.0),
        "c0": arm(0.3, 0, 0.1), "c1": arm(0.3, 1, 0.1, diverged_at=7),
    }  # fmt: skip
    assert losers(arms, NETWORKS.selection, 4, 3) == {"a0", "a1", "b0", "b1"}  # c diverged only afterwards
    assert losers(arms, NETWORKS.selection, 4, 2) == {"a0", "a1"}
    early = {**arms, "c1": arm(0.3, 1, 0.1, diverged_at=4)}
    assert losers(early, NETWORKS.selection, 4, 2) == {"c0", "c1"}


def test_of_settings_with_the_same_mean_the_earlier_goes_on():
    values = {0.1: (0.1, 0.2, 0.3), 0.2: (0.2, 0.2, 0.2)}  # the means differ by their rounding
    for rates in ((0.1, 0.2), (0.2, 0.1)):
        arms = {f"{lr},{seed}": arm(lr, seed, loss) for lr in rates for seed, loss in enumerate(values[lr])}
        assert losers(arms, NETWORKS.selection, 4, 2) == {f"{rates[1]},{seed}" for seed in range(3)}


@pytest.mark.parametrize("vectorized", [True, False])
def test_halving_gives_the_hopeless_up(tmp_path, vectorized):
    arms = run(tmp_path / "halved", HALVED, vectorized, halving=2)
    whole = run(tmp_path / "whole", HALVED, vectorized)
    statuses = {}
    for one in arms.values():
        statuses.setdefault(one.settings.lr, set()).add((one.status, one.stopped_at))
    assert sum(s == {("done", None)} for s in statuses.values()) == 2  # one rung, at step 4
    assert sum(s == {("stopped", 4)} for s in statuses.values()) == 2
    kept = {label: one for label, one in arms.items() if one.status == "done"}
    same(kept, {label: whole[label] for label in kept})


@pytest.mark.parametrize("vectorized", [True, False])
def test_what_was_given_up_can_be_trained_after_all(tmp_path, vectorized):
    run(tmp_path / "halved", HALVED, vectorized, halving=2)
    same(run(tmp_path / "halved", HALVED, vectorized), run(tmp_path / "whole", HALVED, vectorized))


@pytest.mark.parametrize("vectorized", [True, False])
def test_halving_goes_on_alike_wherever_it_was_killed(tmp_path, vectorized):
    whole = run(tmp_path / "whole", HALVED, vectorized, halving=2, steps=24)
    calls = 0

    class Killed(Exception):
        pass

    for deadly in range(1, 4):
        calls = 0

        def dying(jobs, hear, deadly=deadly):
            nonlocal calls
            calls += 1
            if calls == deadly:
                here(jobs[:1], hear)
                raise Killed
            here(jobs, hear)

        path = tmp_path / str(deadly)
        with pytest.raises(Killed):
            run(path, HALVED, vectorized, dying, halving=2, steps=24)
        again = run(path, HALVED, vectorized, halving=2, steps=24)
        for label, one in whole.items():
            assert (again[label].status, again[label].stopped_at, again[label].records) == (
                one.status, one.stopped_at, one.records,
            )  # fmt: skip


def test_what_can_not_be_halved(tmp_path):
    with pytest.raises(SettingError, match="no metric"):
        run(tmp_path, halving=2, experiment=replace(NETWORKS, selection=None))
    with pytest.raises(SettingError, match="compares nothing"):
        run(tmp_path, halving=5)
    with pytest.raises(SettingError, match="must not vary steps"):
        run(tmp_path, {"steps": [10, 20]}, halving=2)


def test_whether_runs_can_be_one_program_is_seen_by_preparing_each_once():
    prepared = []

    def prepare(settings, device):
        prepared.append(settings)
        return NETWORKS.prepare(settings, device)

    experiment = replace(NETWORKS, prepare=prepare)
    base = experiment.configure("paper", {})["sam"]
    points = make_grid(experiment, base, [{"rho": [0.05], "seed": [0, 1, 2, 3]}]).points
    assert can_vectorize(experiment, points, "cpu") == ""
    assert [settings.seed for settings in prepared] == [0, 2, 3]
