"""The networks on stacked images: data, checks, whole runs and a sweep."""

import json

import pytest
import torch
from torch.nn import functional as F

from lowland import features
from lowland.data import scale
from lowland.papers import find
from lowland.papers.springer2024.data import Sizes, _stacked_sets
from lowland.training import sweep
from lowland.training.randomness import seed_everything

CPU = torch.device("cpu")
NAMES = ("cifar-mnist", "fmnist-mnist")


def configured(name="cifar-mnist", arm="sam", **changes):
    given = {key: str(value) for key, value in changes.items()}
    return find(f"springer2024/{name}").configure("smoke", given)[arm]


def task_of(settings, name="cifar-mnist"):
    seed_everything(settings.seed)
    return find(f"springer2024/{name}").task(settings, CPU)


def test_probes_see_images_that_the_network_was_not_trained_on(small):
    settings = configured("fmnist-mnist", correlation=0.5)
    task = task_of(settings, "fmnist-mnist")
    sets = task.check.sets
    sizes = [len(split) for split in (sets.train, sets.validation, sets.test, sets.probe_train, sets.probe_test)]
    assert sizes == [40, 20, 50, 100, 50]
    below = {name: {image.numpy().tobytes() for image in getattr(sets, name).inputs[:, :, 32:]} for name in vars(sets)
             if name not in ("prepare", "easy", "hard")}  # fmt: skip
    assert not below["train"] & below["probe_train"]
    assert not below["probe_train"] & below["probe_test"]
    together = (sets.train.targets == sets.train.attributes).double().mean()
    apart = (sets.probe_test.targets == sets.probe_test.attributes).double().mean()
    assert together > apart


def test_the_mean_pixel_is_subtracted(small):
    sets = task_of(configured()).check.sets
    inputs = sets.prepare(sets.train.inputs)
    assert inputs.dtype == torch.float32
    assert inputs.mean((0, 2, 3)).abs().max() < 1e-6
    mean = scale(sets.train.inputs, 255).mean((0, 2, 3), keepdim=True)
    for split in (sets.train, sets.probe_test):
        assert torch.allclose(sets.prepare(split.inputs), scale(split.inputs, 255) - mean, atol=1e-6)


@pytest.mark.parametrize("method", ["sam", "lsam"])
def test_what_is_measured(small, method):
    settings = configured(arm=method)
    task = task_of(settings)
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    record = task.check(settings.steps, task.batch(0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
    sets, model = task.check.sets, task.model
    with torch.no_grad():
        for name in ("train", "validation", "test"):
            split = getattr(sets, name)
            output = model(sets.prepare(split.inputs))
            assert record[f"{name}_loss"] == pytest.approx(F.cross_entropy(output, split.targets).item(), rel=1e-5)
            assert record[f"{name}_error"] == pytest.approx((output.argmax(1) != split.targets).double().mean().item())
        hidden = {name: model[:-1](sets.prepare(getattr(sets, f"probe_{name}").inputs)) for name in ("seen", "test")}
        predicted = model(sets.prepare(sets.probe_test.inputs)).argmax(1)
    for feature, where in (("easy", "attributes"), ("hard", "targets")):
        found = features.probe(
            hidden["seen"], getattr(sets.probe_seen, where), Cs=(1e-4, 1e-3), show_progress=False,
            test=(hidden["test"], getattr(sets.probe_test, where)),
        )  # fmt: skip
        assert record[f"{feature}_error"] == pytest.approx(found.error, abs=0.021)
    groups = 2 * sets.probe_test.targets + sets.probe_test.attributes
    worst = features.worst_group_accuracy(predicted, sets.probe_test.targets, groups)
    assert record["worst_group_error"] == pytest.approx(1 - worst)
    batch = [(sets.prepare(sets.train.inputs[:20]), sets.train.targets[:20])]
    scope = model[-1] if method == "lsam" else None
    pulls = features.importance_weights(model, batch, settings.phantom_rho, scope=scope)
    assert record["gini_real"] == pytest.approx(features.gini(pulls.real), rel=1e-4)
    assert record["gini_phantom"] == pytest.approx(features.gini(pulls.phantom), rel=1e-4)
    assert len(record["lorenz_phantom"]) == 101


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs(small, lowland, undrawn, tmp_path, name):
    outcome = lowland("run", f"springer2024/{name}", "--scale", "smoke", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "phantom-scaling" in outcome.out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [row["name"] for row in summary["table"]] == ["sgd", "sam", "lsam", "phantom-weights", "phantom-scaling"]
    for arm in ("sgd", "phantom-weights"):
        assert summary["metrics"][arm]["status"] == "done"
        assert summary["metrics"][arm]["epoch"] == 2
    errors = {arm: summary["metrics"][arm]["train_loss"] for arm in summary["config"]["arms"]}
    assert len(set(errors.values())) == 5  # five methods


def test_a_sweep_selects_by_method_and_seed(undrawn, small, lowland, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "usable_cores", lambda: [0])  # in this process, which has the small images
    (tmp_path / "grid.json").write_text(json.dumps({"lr": [0.01, 0.1], "rho": [0, 0.1], "seed": [0, 1]}))
    outcome = lowland(
        "sweep", "springer2024/cifar-mnist", "--scale", "smoke", "--grid", tmp_path / "grid.json",
        "--engine", "vectorized", "--out", tmp_path / "out", "--set", "epochs=1",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "hard feature" in outcome.out
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "summary.json").read_text())["table"]}
    assert list(rows) == ["sgd", "sam"]
    assert all(set(row["runs"]) == {"0", "1"} for row in rows.values())
    assert all("rho=0.1" in label for label in rows["sam"]["runs"].values())


def test_bad_settings(small, refused):
    run = ("run", "springer2024/cifar-mnist", "--scale", "smoke", "--set")
    refused(*run, "correlation=-0.1", says="correlation")
    refused(*run, "batch_size=41", says=("batch_size", "40"))
    refused(*run, "examples=100000", says="100000")
    refused(*run, "method=lasam", says="lsam")


@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_real_images(name, data_root):
    sets = _stacked_sets(data_root, name, 0, 1.0, Sizes(100, 50, 50, 50, 50), CPU)
    assert torch.equal(sets.train.targets, sets.train.attributes)
    assert not torch.equal(sets.probe_test.targets, sets.probe_test.attributes)
    assert sets.train.inputs.shape == (100, 3, 64, 32)


def test_probes_on_training_images_see_those_images_paired_anew(small):
    sets = task_of(configured(probe_train_examples=200, examples=200)).check.sets
    trained = {image.numpy().tobytes() for image in sets.train.inputs[:, :, 32:]}
    seen = [image.numpy().tobytes() for image in sets.probe_seen.inputs[:, :, 32:]]
    assert set(seen) <= trained
    assert len(set(seen)) == 200
    assert not torch.equal(sets.probe_seen.targets, sets.probe_seen.attributes)


def test_curves_of_probes_at_the_end_and_of_the_network_as_drawn(small):
    settings = configured(arm="sgd", probe_train_examples=480, probe_examples=60)
    task = task_of(settings)
    record = task.check(0, task.batch(0))
    assert record["seen_sizes"] == [60, 120, 240, 480]
    assert record["held_out_sizes"] == [60]
    assert record["hard_error"] == record["seen_hard_errors"][-1] == record["hard_error_seen"]
    assert record["easy_error_held_out"] == record["held_out_easy_errors"][-1]
    task = task_of(configured(arm="sam"))
    assert "seen_sizes" not in task.check(0, task.batch(0))  # it is SGD's


def test_when_it_is_measured(small):
    settings = configured(epochs=50, check_epochs=25)
    assert [epoch for epoch in range(51) if settings.measures_at(epoch)] == [0, 1, 2, 4, 8, 16, 25, 32, 50]
    task = task_of(settings)
    batch = task.batch(0)
    between = task.check(3 * settings.check_every, batch)
    assert set(between) == {"epoch", "batch_loss"}
    with torch.no_grad():
        assert between["batch_loss"] == pytest.approx(F.cross_entropy(task.model(batch[0]), batch[1]).item())
    losses = task.check(4 * settings.check_every, batch)
    assert "gini_phantom" in losses
    assert "hard_error" not in losses


def test_bfloat16_is_of_the_passes_alone(small):
    assert task_of(configured()).autocast is None
    task = task_of(configured(precision="bfloat16"))
    assert task.autocast is torch.bfloat16
    assert {p.dtype for p in task.model.parameters()} == {torch.float32}
