"""The loop: records, checkpoints, resuming to the same bits, divergence."""

import dataclasses
import itertools
import json

import pytest
import torch

import lowland.training as training
from lowland.errors import RunError
from lowland.training import RunDirectory, configuration, drive, summarize
from lowland.training.run import Run
from tests.fakes import TOY

CPU = torch.device("cpu")


def run(path, changes=None, scale="paper", **options):
    arms = TOY.configure(scale, changes or {})
    with RunDirectory(path, configuration(TOY, scale, arms, CPU)) as directory:
        return training.train(TOY, arms, directory, CPU, show_progress=False, **options), directory


def test_records_every_check_of_every_arm(tmp_path):
    trained, _ = run(tmp_path)
    steps = [0, 7, 14, 21, 28, 35, 40]
    for arm in ("sam", "plain"):
        assert trained[arm].column("step") == steps
        assert trained[arm].column("calls") == list(range(1, 8))
        assert trained[arm].late("step") == [21, 28, 35, 40]
        assert trained[arm].status == "done"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines] == ["sam"] * 7 + ["plain"] * 7
    assert trained["sam"].records[0]["weight"] == trained["plain"].records[0]["weight"]  # one initialization
    assert trained["sam"].records[-1]["weight"] != trained["plain"].records[-1]["weight"]


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path, monkeypatch, every):
    """A crash at every place where time passes: in a step, in a check, and while a checkpoint is written."""
    expected, _ = run(tmp_path / "straight")
    whole = (tmp_path / "straight/metrics.jsonl").read_bytes()
    monkeypatch.setattr(drive, "_SECONDS", 0.0)
    monkeypatch.setattr(drive, "_SHARE", 1e9)
    saves = itertools.count()
    real_may, real_train, real_check = drive.Drive._may_save, Run.train, Run.check
    monkeypatch.setattr(drive.Drive, "_may_save", lambda self: next(saves) % every == 0 and real_may(self))
    crashes = iter([5, 9, 14, 11, 30, 2, 8])
    left = next(crashes)

    def crashing(real):
        def call(self, argument):
            nonlocal left
            left -= 1
            if left == 0:
                left = next(crashes, 10**6)
                real(self, argument)
                raise MemoryError
            return real(self, argument)

        return call

    monkeypatch.setattr(Run, "train", crashing(real_train))
    monkeypatch.setattr(Run, "check", crashing(real_check))
    for _ in range(8):
        try:
            resumed, _ = run(tmp_path / "crashed")
            break
        except MemoryError:
            torch.manual_seed(0)  # whatever another process would start with
    assert (tmp_path / "crashed/metrics.jsonl").read_bytes() == whole
    assert {name: arm.records for name, arm in resumed.items()} == {n: a.records for n, a in expected.items()}
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["arms"] for name in ("crashed", "straight")
    )
    for arm in ours:
        for name, weight in ours[arm]["model"].items():
            assert torch.equal(weight, theirs[arm]["model"][name])


def test_a_diverged_arm_is_a_result_and_the_others_go_on(tmp_path):
    trained, directory = run(tmp_path, {"sam.lr": "1e30", "kind": "sgd"})
    assert trained["sam"].status == "diverged"
    assert 0 < trained["sam"].diverged_at < 7
    assert trained["sam"].column("step") == [0]
    assert trained["plain"].status == "done"
    summary = summarize(TOY, directory.config, trained, CPU)
    assert summary["metrics"]["sam"]["diverged_at"] == trained["sam"].diverged_at
    again, _ = run(tmp_path, {"sam.lr": "1e30", "kind": "sgd"})
    assert again["sam"].diverged_at == trained["sam"].diverged_at


@pytest.fixture
def poisoned(monkeypatch):
    """The batch of step 10 is not finite."""
    real = Run._train

    def poisoned(self, batch):
        if self.step == 10:
            x, y = batch
            batch = x * float("nan"), y
        real(self, batch)

    monkeypatch.setattr(Run, "_train", poisoned)


def test_divergence_just_before_a_pause_is_the_end(tmp_path, poisoned):
    run(tmp_path, until=11)
    trained, _ = run(tmp_path)
    assert trained["sam"].diverged_at == 10
    assert trained["sam"].column("step") == [0, 7]


def test_divergence_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, poisoned):
    monkeypatch.setattr(drive, "_SECONDS", 0.0)
    monkeypatch.setattr(drive, "_SHARE", 1e9)
    monkeypatch.setattr(training.run, "LOOK_EVERY", 1)
    trained, _ = run(tmp_path)
    assert trained["sam"].diverged_at == 10
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["arms"]["sam"]
    assert state["step"] == 10
    assert all(weight.isfinite().all() for weight in state["model"].values())


def test_summary(tmp_path):
    trained, directory = run(tmp_path)
    summary = summarize(TOY, directory.config, trained, CPU)
    assert set(summary) == {"experiment", "scale", "seed", "config", "metrics", "claims", "environment"}
    (claim,) = summary["claims"]
    assert set(claim) == {
        "id",
        "text",
        "source",
        "measured",
        "interval_95",
        "threshold",
        "passed",
        "reason",
        "reference",
        "decided_by",
    }
    assert claim["passed"] in (True, False)
    clocks = [key for key, value in summary["metrics"]["sam"].items() if "seconds" in key]
    assert len(clocks) == 2
    trained, directory = run(tmp_path / "smoke", scale="smoke")
    (claim,) = summarize(TOY, directory.config, trained, CPU)["claims"]
    assert claim["passed"] is None
    assert claim["reason"]


def config(**changes):
    return {"experiment": "a", "seed": 0, "arms": {"sam": {"lr": 0.1, **changes}}}


def test_directories_that_cannot_be_used(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(RunError, match="file in its place"), RunDirectory(path, config()):
            pass
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"thesis\.tex"), RunDirectory(strange, config()):
        pass
    with RunDirectory(tmp_path / "run", config()):
        with pytest.raises(RunError, match="in use"), RunDirectory(tmp_path / "run", config()):
            pass
    (tmp_path / "run/checkpoint.pt").write_bytes(b"")  # without one there would be nothing to keep
    with pytest.raises(RunError, match=r"arms\.sam\.lr is 0\.1 there, 0\.2 here"):
        RunDirectory(tmp_path / "run", config(lr=0.2)).__enter__()
    with RunDirectory(tmp_path / "run", config()):  # the refusal let go of the lock
        pass
    (tmp_path / "run/config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        RunDirectory(tmp_path / "run", config()).__enter__()


def test_other_damage_is_named(tmp_path):
    with RunDirectory(tmp_path, config()) as directory:
        directory.save({"arms": {}})
        for content in (b"", b"PK"):  # an empty file is what a power cut leaves
            (tmp_path / "checkpoint.pt").write_bytes(content)
            with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
                directory.load(CPU)
        for content in ("[]", "{}", "{"):
            (tmp_path / "summary.json").write_text(content)
            with pytest.raises(RunError, match=r"summary\.json is damaged"):
                directory.summary()
        for line in (b"\xff\xfe\n", b'{"step": 1}\n', b"3\n"):
            (tmp_path / "metrics.jsonl").write_bytes(line)
            with pytest.raises(RunError, match="line 1 is damaged"):
                training.read_records(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        RunDirectory(tmp_path, config()).__enter__()


@pytest.mark.parametrize("damage", ["checkpoint", "records", "line"])
def test_damaged_runs_are_named(tmp_path, damage):
    with RunDirectory(tmp_path, config()) as directory:
        directory.append({"arm": "sam", "step": 0})
        directory.save({"arms": {}})
        file = tmp_path / {"checkpoint": "checkpoint.pt"}.get(damage, "metrics.jsonl")
        content = file.read_bytes()
        file.write_bytes(b"x" * len(content) if damage == "line" else content[: len(content) // 2])
        with pytest.raises(RunError, match=file.name):  # noqa: PT012 - whichever of the two reads it
            directory.load(CPU)
            directory.records()


def test_records_after_the_checkpoint_are_cut(tmp_path):
    with RunDirectory(tmp_path, config()) as directory:
        directory.append({"arm": "sam", "step": 0, "loss": float("nan")})
        directory.save({"arms": {}})
        directory.append({"arm": "sam", "step": 1})
        (tmp_path / "metrics.jsonl").open("a").write('{"arm": "sa')
        state = directory.load(CPU)
        assert state.pop("metrics_sha256")
        assert state.pop("made_with")
        assert state == {"arms": {}, "metrics_bytes": 40}
        assert directory.records() == {"sam": [{"arm": "sam", "step": 0, "loss": None}]}


def test_a_schedule_multiplies_the_step_size_and_resumes(tmp_path):
    """Against torch's own scheduler; and paused in the middle, to the same bits."""

    def halving(step):
        return 0.5 ** (step // 3)

    def prepare(settings, device):
        task = TOY.prepare(settings, device)
        task.schedule = halving
        return task

    experiment = dataclasses.replace(TOY, prepare=prepare)
    arms = {"sam": TOY.configure("paper", {"noisy": "false", "kind": "sgd"})["sam"]}

    def train(path, **options):
        with RunDirectory(path, configuration(experiment, "paper", arms, CPU)) as directory:
            return training.train(experiment, arms, directory, CPU, show_progress=False, **options)["sam"].records

    records = train(tmp_path / "whole")
    assert train(tmp_path / "paused", until=10)[-1]["step"] == 7
    assert train(tmp_path / "paused") == records

    torch.manual_seed(3)
    task = TOY.prepare(arms["sam"], CPU)
    scheduler = torch.optim.lr_scheduler.LambdaLR(task.optimizer, halving)
    for step in range(40):
        x, y = task.batch(step)

        def closure(x=x, y=y):
            loss = task.loss_fn(task.model(x), y)
            loss.backward()
            return loss

        task.optimizer.step(closure)
        scheduler.step()
    assert task.check(40, task.batch(40))["loss"] == records[-1]["loss"]
