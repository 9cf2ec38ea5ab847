"""Runs side by side against each of them alone."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from lowland.errors import SettingError
from lowland.optim import SAM, presets
from lowland.training import RunDirectory, Task, configuration, drive, train
from lowland.training.vectorized import (
    NotVectorizable,
    chunk_size,
    cost,
    program,
    program_key,
    step,
    too_large,
    train_vectorized,
)
from lowland.training.vectorized.batches import VectorizedBatches
from lowland.training.vectorized.program import SideBySide
from lowland.training.vectorized.runs import Runs
from tests.fakes import NETWORKS

CPU = torch.device("cpu")
NAMES = ("mlp", "norm_cnn", "strided_cnn", "transformer")


def settings(**changes):
    return NETWORKS.configure("paper", changes)["sam"]


def run(function, path, arms, experiment=NETWORKS, **options):
    with RunDirectory(path, configuration(experiment, "paper", arms, CPU)) as directory:
        return function(experiment, arms, directory, CPU, show_progress=False, **options)


def same(stacked, alone, tolerance=1e-9):
    assert list(stacked) == list(alone)
    for name, arm in alone.items():
        ours = stacked[name]
        assert (ours.status, ours.diverged_at) == (arm.status, arm.diverged_at)
        assert [record["step"] for record in ours.records] == [record["step"] for record in arm.records]
        for one, other in zip(ours.records, arm.records, strict=True):
            assert one.keys() == other.keys()
            for key, value in other.items():
                if isinstance(value, float):
                    assert one[key] == pytest.approx(value, rel=tolerance, abs=1e-12), (name, key)
                elif key != "products":  # a count, that a rounding may change
                    assert one[key] == value, (name, key)


def grid(**fixed):
    arms = {}
    # Steps so small that a rounding is not amplified: at large ones the layer norms of these networks are chaotic.
    for lr, rho, seed in ((0.01, 0.02, 0), (0.02, 0.05, 0), (0.01, 0.02, 1)):
        arms[f"{lr},{rho},{seed}"] = settings(lr=lr, rho=rho, seed=seed, **fixed)
    return arms


@pytest.mark.parametrize("network", NAMES)
@pytest.mark.parametrize("batches", ["whole", "shuffled", "own"])
def test_each_run_is_what_it_is_alone(tmp_path, network, batches):
    arms = grid(network=network, batches=batches)
    same(run(train_vectorized, tmp_path / "stack", arms), run(train, tmp_path / "alone", arms))


@pytest.mark.slow
@pytest.mark.parametrize("network", NAMES)
def test_curvature_is_that_of_each_run_alone(tmp_path, network):
    arms = grid(network=network, checked="together")
    same(run(train_vectorized, tmp_path / "stack", arms), run(train, tmp_path / "alone", arms), 1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_decay_and_schedule_of_each_run(tmp_path, nesterov):
    arms = {
        str(momentum): replace(a, momentum=momentum, weight_decay=decay)
        for a, momentum, decay in zip(
            grid(decaying=True, nesterov=nesterov).values(), (0.5, 0.9, 0.7), (0.1, 0.0, 0.01), strict=True
        )
    }
    same(run(train_vectorized, tmp_path / "stack", arms), run(train, tmp_path / "alone", arms))


def test_without_an_ascent_there_is_one_gradient(tmp_path):
    arms = {name: replace(a, rho=0.0) for name, a in grid().items()}
    same(run(train_vectorized, tmp_path / "stack", arms), run(train, tmp_path / "alone", arms))


def test_a_compiler_that_errs_is_found_out(tmp_path, monkeypatch):
    """With this network and these types torch 2.13 errs by itself; here it does so with every version."""
    monkeypatch.setattr(cost, "_COMPILE_SECONDS", 0.0)

    def wrong(function, **options):
        def call(params, *rest):
            function(params, *rest)
            next(iter(params.values())).mul_(1.5)

        return call

    monkeypatch.setattr(torch, "compile", wrong)
    monkeypatch.setattr(step, "_compiled", {})
    arms = grid()
    with pytest.warns(UserWarning, match="wrong program"):
        stacked = run(train_vectorized, tmp_path / "stack", arms)
    same(stacked, run(train, tmp_path / "alone", arms))


def test_networks_that_look_alike_are_compiled_each_for_itself(tmp_path, monkeypatch):
    """Two heads of 4, four of 2: the same parameters, printed the same."""
    monkeypatch.setattr(cost, "_COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    for heads in (2, 4):
        arms = {"a": settings(network="transformer", heads=heads, steps=2, batches="whole")}
        stacked = run(train_vectorized, tmp_path / f"stack{heads}", arms)
        same(stacked, run(train, tmp_path / f"alone{heads}", arms))
    with pytest.raises(NotVectorizable, match="networks differ"):
        Runs.prepare(NETWORKS, [settings(network="transformer", heads=heads) for heads in (2, 4)], CPU)


@pytest.mark.slow
def test_many_programs_are_compiled_in_one_process(tmp_path, monkeypatch):
    """More than torch allows for one function."""
    monkeypatch.setattr(cost, "_COMPILE_SECONDS", 0.0)
    with torch._dynamo.config.patch(recompile_limit=1):
        for count in (1, 2):
            arms = {str(seed): settings(seed=seed, steps=2, batches="whole") for seed in range(count)}
            trained = run(train_vectorized, tmp_path / str(count), arms)
            assert all(arm.status == "done" and arm.seconds["compile_seconds"] > 0 for arm in trained.values())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "transformer"])  # compiling takes its time
def test_compiled_it_is_the_same(tmp_path, network, monkeypatch):
    monkeypatch.setattr(cost, "_COMPILE_SECONDS", 0.0)
    batches = "shuffled" if network == "mlp" else "whole"  # every size of a batch is compiled
    arms = grid(network=network, batches=batches, momentum=0.9, decaying=True)
    stacked = run(train_vectorized, tmp_path / "stack", arms)
    assert all(arm.seconds["compile_seconds"] > 0 for arm in stacked.values())
    same(stacked, run(train, tmp_path / "alone", arms))


@pytest.mark.parametrize("checked", ["alone", "together"])
def test_a_run_that_diverges_is_frozen_and_the_others_do_not_notice(tmp_path, checked):
    arms = grid(checked=checked, steps=30)
    wild = {"wild": replace(settings(lr=1e25, steps=30, checked=checked), seed=5), **arms}
    together = run(train_vectorized, tmp_path / "wild", wild)
    assert together["wild"].status == "diverged"
    assert together["wild"].diverged_at == run(train, tmp_path / "alone", wild)["wild"].diverged_at
    quiet = run(train_vectorized, tmp_path / "quiet", arms)
    for name in arms:
        assert together[name].status == "done"
    same({name: together[name] for name in arms}, quiet, 1e-12)


def test_when_all_have_diverged_training_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "_LOOK_EVERY", 5)
    monkeypatch.setattr(cost, "_COMPILE_SECONDS", float("inf"))
    arms = {
        "a": settings(lr=1e25, steps=10**6, check_every=10**6),
        "b": settings(lr=1e25, seed=1, steps=10**6, check_every=10**6),
    }
    trained = run(train_vectorized, tmp_path, arms)
    assert all(arm.status == "diverged" and len(arm.records) == 1 for arm in trained.values())


@pytest.mark.slow
@pytest.mark.parametrize("checked", ["alone", "together"])
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path, monkeypatch, checked):
    monkeypatch.setattr(drive.Pace, "due", lambda self: True)
    arms = grid(momentum=0.9, checked=checked)
    run(train_vectorized, tmp_path / "whole", arms)
    whole = (tmp_path / "whole/metrics.jsonl").read_bytes()

    class Killed(BaseException):
        pass

    def dying_at(real, count):
        def call(*args, **named):
            nonlocal count
            count -= 1
            if count == 0:
                raise Killed
            return real(*args, **named)

        return call

    for count in range(1, 14):
        for owner, name in ((SideBySide, "train"), (SideBySide, "check"), (drive.Drive, "_save")):
            path = tmp_path / f"{name}{count}"
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, dying_at(getattr(owner, name), count))
                with contextlib.suppress(Killed):
                    run(train_vectorized, path, arms)
            run(train_vectorized, path, arms)
            assert (path / "metrics.jsonl").read_bytes() == whole, (name, count)


def test_a_stack_pauses_and_goes_on_with_some_of_its_runs(tmp_path):
    arms = grid(momentum=0.9)
    first, *rest = arms
    paused = run(train_vectorized, tmp_path / "paused", arms, until=5)
    assert {arm.records[-1]["step"] for arm in paused.values()} == {4}
    ended = run(train_vectorized, tmp_path / "paused", arms, without=[first])
    assert [record["step"] for record in ended[first].records] == [0, 4]
    alone = run(train, tmp_path / "alone", arms)
    same({name: ended[name] for name in rest}, {name: alone[name] for name in rest})


def test_a_finished_stack_is_left_alone(tmp_path):
    arms = grid()
    once = run(train_vectorized, tmp_path, arms)
    content = (tmp_path / "metrics.jsonl").read_bytes()
    again = run(train_vectorized, tmp_path, arms)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content
    assert again == once


def altered(change):
    def prepare(given, device):
        task = NETWORKS.prepare(given, device)
        return change(task, given) or task

    return replace(NETWORKS, prepare=prepare)


def with_model(layer):
    def change(task, given):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), layer, nn.Linear(3, 2)).double()
        return Task(model, task.loss_fn, SAM(torch.optim.SGD(model.parameters(), lr=0.1)), task.batch, task.check)

    return change


def with_optimizer(make):
    def change(task, given):
        task.optimizer = make(task.model)

    return change


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (with_model(nn.Dropout(0.5)), "dropout"),
        (with_model(nn.BatchNorm1d(3)), "batch norm"),
        (with_optimizer(lambda m: SAM(torch.optim.Adam(m.parameters()))), "only SGD"),
        (with_optimizer(lambda m: presets.ASAM(sgd(m), model=m)), "plain SAM"),
        (with_optimizer(lambda m: SAM(sgd(m), m=2, model=m)), "no m"),
        (with_optimizer(lambda m: SAM(sgd(m), l2=0.1)), "l2="),
        (with_optimizer(lambda m: SAM(sgd(m), rho=lambda step: 0.1)), "schedule of rho"),
        (with_optimizer(lambda m: SAM(sgd(m, momentum=0.9, dampening=0.1))), "dampening"),
        (with_optimizer(lambda m: SAM(torch.optim.SGD([m[-1].weight], lr=0.1))), "other parameters"),
        (
            with_optimizer(lambda m: SAM(torch.optim.SGD([{"params": [p]} for p in m.parameters()], lr=0.1))),
            "parameter groups",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_stacked_is_refused(tmp_path, change, why):
    with pytest.raises(NotVectorizable, match=f"{why}.*--engine process"):
        run(train_vectorized, tmp_path, grid(), altered(change))


def test_runs_of_other_networks_are_refused():
    with pytest.raises(NotVectorizable, match="networks differ"):
        Runs.prepare(NETWORKS, [settings(), settings(network="norm_cnn")], CPU)


def test_the_same_program():
    same_program = settings(lr=0.5, rho=0.2, seed=3)
    assert program_key(settings()) == program_key(same_program)
    assert program_key(settings()) != program_key(settings(rho=0.0))
    assert program_key(settings()) != program_key(settings(steps=13))


def test_the_size_of_a_stack_follows_from_the_memory_of_one_run(monkeypatch):
    one = Runs.prepare(NETWORKS, [settings(network="norm_cnn")], CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    size = chunk_size(one, CPU)
    assert size > 10
    monkeypatch.setattr(cost, "_CACHED", cost._CACHED // 2)
    assert chunk_size(one, CPU) == pytest.approx(size / 2, abs=1)
    assert too_large(one, CPU) == ""
    monkeypatch.setattr(cost, "_CACHED", 1000)
    assert chunk_size(one, CPU) == 2  # one a thread
    assert "keeps a core busy" in too_large(one, CPU)
    monkeypatch.setattr(cost, "_free_bytes", lambda device: 1000)
    with pytest.raises(SettingError, match="even one at a time"):
        chunk_size(one, CPU)


def test_the_peak_of_a_step_is_that_of_its_tensors():
    """One linear layer: inputs 11 × 4, weights 2 × 4."""
    one = Runs.prepare(NETWORKS, [settings(network="mlp", batches="whole")], CPU)
    counted = cost.Cost(one, VectorizedBatches(one.tasks))
    weights = sum(p.nbytes for p in one.params.values())
    activations = 11 * (6 + 2) * 8
    assert activations + weights < counted.peak < 20 * (activations + weights)
    assert counted.operations > 20
