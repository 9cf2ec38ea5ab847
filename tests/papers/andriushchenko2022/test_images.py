"""The networks on images: batches, a step, a check, whole experiments, and weights measured by a command."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from lowland.data import scale
from lowland.papers import find
from lowland.papers.andriushchenko2022.task import ImageBatches, _schedule
from lowland.papers.figures import over_epochs
from lowland.torch_tools import evaluating
from lowland.training import Outcome
from lowland.training.environment import has_bfloat16
from lowland.training.randomness import seed_everything
from tests.optim import textbook

from .conftest import images

CPU = torch.device("cpu")
NAMES = ("cifar10", "cifar100", "label-noise", "convergence", "finetune", "late")


def configured(changes=None, name="cifar10", arm="sam"):
    return find(f"andriushchenko2022/{name}").configure("smoke", changes or {})[arm]


def task_of(settings, name="cifar10"):
    seed_everything(settings.seed)
    return find(f"andriushchenko2022/{name}").task(settings, CPU)


def test_batches_are_functions_of_the_step_and_drop_what_is_left():
    settings = configured()  # 36 images in batches of 16
    split = images(36, 10, 0)
    batches = ImageBatches(split, settings, channels_last=True)
    drawn = [batches(step) for step in range(4)]
    again = ImageBatches(split, settings, channels_last=False)
    for step in (3, 0, 2, 1):
        x, y = again(step)
        assert torch.equal(x, drawn[step][0])
        assert torch.equal(y, drawn[step][1])
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in drawn)
    assert all(x.shape == (16, 3, 8, 8) and x.min() >= 0 and x.max() <= 1 for x, _ in drawn)
    plain = ImageBatches(split, configured({"augment": "false"}), channels_last=False)
    epoch = torch.cat([plain(step)[0] for step in (0, 1)])
    found = (epoch[:, None] == scale(split.inputs, 255)[None]).flatten(2).all(2)
    assert (found.sum(1) == 1).all()  # each is one of the images,
    assert (found.sum(0) <= 1).all()  # and none comes twice in an epoch


def test_eta_falls_as_the_settings_say():
    settings = configured({"epochs": "20"})
    piecewise = [_schedule(settings)(step) for step in range(40)]
    assert piecewise == [1.0] * 20 + [0.1] * 10 + [0.01] * 10
    cosine = _schedule(configured({"epochs": "20", "schedule": "cosine"}))
    assert cosine(0) == 1.0
    assert cosine(20) == pytest.approx(0.5)
    assert cosine(39) < 0.01
    assert _schedule(configured({"schedule": "constant"}))(3) == 1.0


def follow_the_textbook(settings, task, model, steps, climbed):
    """Steps of ``task`` against the textbook's; ``climbed`` gives what the gradient of the ascent is of."""
    parameters = list(model.double().parameters())
    base = torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9)
    task.model.double()

    def loss_of(x, y):
        return textbook.penalized(lambda: F.cross_entropy(model(x), y), parameters, 0.1)

    for step in range(steps):
        task.optimizer.step(closure_of(task, step))
        x, y = task.batch(step)
        over = climbed(step, x.double(), y)
        found = textbook.gradient(
            loss_of(x.double(), y), parameters, settings.rho if over else 0.0, ascent=over and loss_of(*over)
        )
        textbook.descend(base, parameters, found)
    for p, q in zip(task.model.parameters(), parameters, strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("arm", ["erm", "sam"])
def test_a_step_is_the_textbook_one_with_the_l2_term_in_both_gradients(small, arm):
    settings = configured({"l2": "0.1", "norm": "group"}, arm=arm)
    task, other = task_of(settings), task_of(settings)
    follow_the_textbook(settings, task, other.model, 3, lambda _, x, y: (x, y) if arm == "sam" else None)


def test_n_sam_climbs_along_the_gradient_of_other_images_and_accumulates_it(small):
    settings = configured({"l2": "0.1", "norm": "group", "ascent_examples": "20", "ascent_batch": "8"}, arm="n-sam")
    task, other = task_of(settings), task_of(settings)
    task.optimizer.batches, batches = (as_double(task.optimizer.batches),) * 2

    def others(step, x, y):
        parts = list(batches(step))
        assert [len(labels) for _, labels in parts] == [8, 8, 4]
        seen = torch.cat([images for images, _ in parts])
        assert len(torch.unique(seen, dim=0)) == 20  # none twice
        return seen, torch.cat([labels for _, labels in parts])

    follow_the_textbook(settings, task, other.model, 2, others)


def as_double(batches):
    return lambda step: ((x.double(), y) for x, y in batches(step))


def test_the_images_of_the_ascent_are_drawn_apart_from_the_batch_and_from_the_step_alone(small):
    settings = configured({"augment": "false", "ascent_examples": "36"}, arm="n-sam")
    first, again = (task_of(settings).optimizer.batches for _ in range(2))
    drawn = {step: torch.cat([x for x, _ in first(step)]) for step in (1, 0)}
    for step in (0, 1):
        assert torch.equal(torch.cat([x for x, _ in again(step)]), drawn[step])
    assert not torch.equal(drawn[0], drawn[1])  # another order
    every = scale(task_of(settings).check.sets.train.inputs, 255)
    assert torch.equal(torch.unique(drawn[0], dim=0), torch.unique(every, dim=0))  # all of the training set


@pytest.mark.parametrize("statistics", ["w", "both"])
@pytest.mark.parametrize(("arm", "passes"), [("sam", 2), ("random", 1), ("n-sam", 3), ("erm", 1)])
def test_running_statistics_move_where_the_setting_says(small, statistics, arm, passes):
    task = task_of(configured({"statistics": statistics, "ascent_batch": "12"}, arm=arm))
    x, y = task.batch(0)

    def closure():
        loss = task.loss_fn(task.model(x), y)
        loss.backward()
        return loss

    task.optimizer.step(closure)
    (count,) = {m.num_batches_tracked.item() for m in task.model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    at_w = 2 if arm == "n-sam" else 1  # 24 images, 12 at a time
    assert count == (at_w if statistics == "w" else passes)


def test_a_random_perturbation_has_length_rho(small):
    task = task_of(configured({"rho": "3"}, arm="random"))
    x, y = task.batch(0)
    before = torch.cat([p.detach().flatten() for p in task.model.parameters()])
    away = []

    def closure():
        away.append(torch.cat([p.detach().flatten() for p in task.model.parameters()]) - before)
        loss = task.loss_fn(task.model(x), y)
        loss.backward()
        return loss

    task.optimizer.step(closure)
    assert [e.norm().item() for e in away] == [pytest.approx(3, rel=1e-4)]


@pytest.mark.parametrize(
    ("name", "changes"), [("cifar10", {}), ("late", {"epochs": "4", "last-tenth.sam_from": "0.7"})]
)
def test_the_cost_of_a_run_is_that_of_the_images_it_takes_gradients_of(small, name, changes):
    for settings in find(f"andriushchenko2022/{name}").configure("smoke", changes).values():
        task, seen = task_of(settings, name), []
        task.model.register_forward_hook(lambda model, given, output, seen=seen: seen.append(len(output)))

        def closure(x, y, task=task):
            loss = task.loss_fn(task.model(x), y)
            loss.backward()
            return loss

        for step in range(settings.steps):
            task.optimizer.step(partial(closure, *task.batch(step)))
        assert sum(seen) / settings.batch_size == pytest.approx(settings.steps * settings.gradients_a_step)


def test_groups_take_batch_norms_statistics_each_for_itself(small):
    """As a loop over the groups does, each with its own perturbation: m below the batch with batch norm."""
    settings = configured({"m": "8", "l2": "0", "momentum": "0"})
    task, other = task_of(settings), task_of(settings)
    model, parameters = other.model.double(), list(other.model.double().parameters())
    task.model.double()
    x, y = task.batch(0)
    x = x.double()
    task.optimizer.step(lambda: task.losses_fn(task.model(x), y))
    assert task.optimizer._own.engine.reason is None
    total = textbook.m_sam(lambda rows: F.cross_entropy(model(x[rows]), y[rows]), parameters, len(x), 8, settings.rho)
    for p, w, t in zip(task.model.parameters(), parameters, total, strict=True):
        assert torch.allclose(p, w - settings.lr * t, rtol=1e-7, atol=1e-10)


def closure_of(task, step, losses=False):
    """What the loop hands to the optimizer at a step; in float64."""
    x, y = task.batch(step)

    def closure():
        if losses:
            return task.losses_fn(task.model(x.double()), y)
        loss = task.loss_fn(task.model(x.double()), y)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("m", ["8", "6"])
def test_groups_one_after_another_are_the_same_step_and_move_statistics_in_each_pass(small, m):
    """The weights of m-SAM's exact step on the batch, l2 and momentum included; the last group of 6 has 4 images."""
    changes = {"m": m, "l2": "0.1"}
    task, other = (task_of(configured({**changes, "statistics": where})) for where in ("both", "w"))
    task.model.double()
    other.model.double()
    batch = task.optimizer.batch
    task.optimizer.batch = lambda step: (batch(step)[0].double(), batch(step)[1])
    for step in range(2):
        task.optimizer.step(closure_of(task, step))
        other.optimizer.step(closure_of(other, step, losses=True))
    for (name, p), q in zip(task.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-7, atol=1e-10), name
    groups = {"8": 2, "6": 3}[m]
    (count,) = {m.num_batches_tracked.item() for m in task.model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert count == 2 * 2 * groups
    first = next(m for m in task.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    theirs = next(m for m in other.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert not torch.allclose(first.running_mean, theirs.running_mean)


@pytest.mark.parametrize("m", [1, 2, 4, 16])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_groups_climb_in_one_pass(small, recwarn, name, m):
    """As the loop over groups would, which would say so."""
    task = task_of(configured({"norm": "group", "m": str(m), "batch_size": "18"}, name), name)
    x, y = task.batch(0)
    assert task.optimizer.l2 > 0
    task.optimizer.step(lambda: task.losses_fn(task.model(x), y))
    assert task.optimizer._own.engine.reason is None
    assert len(task.optimizer.last.losses) == -(-18 // m)
    assert not recwarn


@pytest.mark.slow
def test_groups_go_on_where_they_were_interrupted(small, quick, lowland, interrupted, tmp_path):
    command = ["run", "andriushchenko2022/cifar10", "--scale", "smoke", "--set", "norm=group", "--set", "m=1"]
    assert lowland(*command, "--out", tmp_path / "straight").code == 0
    interrupted(ImageBatches, "__call__", 8)
    assert lowland(*command, "--out", tmp_path / "killed").code != 0
    assert (tmp_path / "killed/metrics.jsonl").read_text().count("sam") == 1
    assert lowland(*command, "--out", tmp_path / "killed").code == 0
    paths = (tmp_path / name / "metrics.jsonl" for name in ("straight", "killed"))
    assert next(paths).read_bytes() == next(paths).read_bytes()


def test_a_check_measures_what_it_says(small):
    settings = configured({"sharpness_rho": "0.2"})
    task = task_of(settings)
    for step in range(2):
        x, y = task.batch(step)
        F.cross_entropy(task.model(x), y).backward()
        with torch.no_grad():
            for p in task.model.parameters():
                p -= 0.1 * p.grad
                p.grad = None
        task.average.update_parameters(task.model)
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    record = task.check(2, task.batch(2))
    assert task.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())

    sets = task.check.sets
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (36, 4, 16)
    with evaluating(task.model):
        for name, split in vars(sets).items():
            output = task.model(scale(split.inputs, 255))
            assert record[f"{name}_loss"] == pytest.approx(F.cross_entropy(output, split.targets).item(), rel=1e-5)
            wrong = (output.argmax(1) != split.targets).sum().item()
            assert record[f"{name}_error"] == pytest.approx(wrong / len(split))
        x, y = scale(sets.train.inputs[:16], 255), sets.train.targets[:16]
        params = list(task.model.parameters())

        def loss_fn():
            return F.cross_entropy(task.model(x), y)

        at_w, above = textbook.both(loss_fn, params, 0.2)
        moved = textbook.climb(at_w, 0.2)
        at_w, above = (torch.cat([g.flatten() for g in gradients]) for gradients in (at_w, above))
        rise = (textbook.at(loss_fn, params, moved, lambda f, _: f()) - loss_fn()).item()
    assert record["gradient_norm"] == pytest.approx(at_w.norm().item(), rel=1e-4)
    assert record["sharpness"] == pytest.approx(rise, rel=1e-3)
    assert record["sharpness_20"] >= 0.9 * record["sharpness"]
    assert record["cosine"] == pytest.approx((at_w @ above / at_w.norm() / above.norm()).item(), rel=1e-3)

    averaged = task.average.module
    assert averaged.training
    statistics = [m for m in averaged.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.num_batches_tracked == 3 for m in statistics)  # 36 images, 16 at a time, counted anew
    with evaluating(averaged):
        output = averaged(scale(sets.test.inputs, 255))
    wrong = (output.argmax(1) != sets.test.targets).float().mean().item()
    assert record["averaged_test_error"] == pytest.approx(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs(finished, name):
    run = finished(name)
    summary = json.loads((run / "summary.json").read_text())
    experiment = find(f"andriushchenko2022/{name}")
    assert set(summary["metrics"]) == {*experiment.arms, "over_seeds"}
    for arm in experiment.arms:
        metrics = summary["metrics"][arm]
        assert metrics["status"] == "done"
        assert 0 <= metrics["averaged_test_error"] <= 1
        estimate = {"mean": metrics["test_error"], "standard_error": None, "n": 1}
        assert summary["metrics"]["over_seeds"][arm]["test_error"] == estimate
    for figure in experiment.figures:
        assert (run / f"figures/{figure.name}.png").exists()


def test_wrong_labels_are_recorded_and_are_those_that_are_trained_on(finished):
    recorded = json.loads((finished("label-noise") / "flipped-symmetric-0.6-seed-0.json").read_text())
    assert len(recorded["training_images"]) == 24  # 0.6 of 40
    clean, noisy = (
        task_of(configured({"noise": noise}, "label-noise"), "label-noise").check.sets for noise in ("0", "0.6")
    )
    wrong = sum(
        (getattr(clean, part).targets != getattr(noisy, part).targets).sum().item() for part in ("train", "validation")
    )
    assert wrong == 24
    assert torch.equal(clean.test.targets, noisy.test.targets)


def test_tuning_starts_from_a_finished_run(finished, undrawn, lowland, tmp_path):
    first, whole = finished("cifar10"), finished("finetune")
    tuned = ("run", "andriushchenko2022/finetune", "--scale", "smoke")
    assert lowland(*tuned, "--out", tmp_path / "from", "--set", f"start={first}").code == 0
    records = {}
    for name, path in (("first", first), ("from", tmp_path / "from"), ("whole", whole)):
        for line in (path / "metrics.jsonl").read_text().splitlines():
            record = json.loads(line)
            records[name, record["arm"], record["step"]] = record["test_loss"]
    for arm in ("erm", "sam"):
        assert records["from", arm, 0] == records["first", arm, 4]
        assert records["whole", arm, 4] == records["first", arm, 4]
    assert records["from", "erm-to-sam", 2] == records["whole", "erm-to-sam", 2]
    summary = json.loads((tmp_path / "from/summary.json").read_text())
    line = summary["metrics"]["erm-to-sam"]
    assert line["line_t"] == [-1, 0, 1, 2]
    assert len(line["line_loss"]) == len(line["line_error"]) == 4
    assert line["epoch"] == 3  # two of ERM, one of SAM


def test_tuning_refuses_what_is_no_such_run(finished, undrawn, refused, lowland, tmp_path):
    def refuses(start, says):
        tuned = ("run", "andriushchenko2022/finetune", "--scale", "smoke", "--out", tmp_path / f"from-{start}")
        refused(*tuned, "--set", f"start={tmp_path / start}", says=says)

    refuses("none", "there is no run")
    finished("convergence")
    refuses("convergence", "not of andriushchenko2022/cifar10")
    lowland("run", "andriushchenko2022/cifar10", "--scale", "smoke", "--out", tmp_path / "seed", "--seed", "3")
    refuses("seed", "no arm erm with seed 0")
    lowland("run", "andriushchenko2022/cifar10", "--scale", "smoke", "--out", tmp_path / "more", "--set", "examples=50")
    refuses("more", "set examples=50")
    (tmp_path / "more/summary.json").unlink()
    refuses("more", "not finished")


def test_weights_are_measured_by_a_command(finished, lowland, refused, tmp_path):
    run = finished("cifar10")
    metrics = json.loads((run / "summary.json").read_text())["metrics"]["sam"]
    evaluate = ("evaluate", "andriushchenko2022/cifar10")
    outcome = lowland(*evaluate, run, "--arm", "sam", "--json")
    assert lowland(*evaluate, run).out.startswith(f"{run}, arm erm\n")
    measured = json.loads(outcome.out)
    for name in ("test_error", "test_loss", "train_loss", "sharpness_20", "cosine"):
        assert measured[name] == metrics[name]
    # A file in the layout of the authors' code.
    weights = torch.load(run / "checkpoint.pt")["arms"]["sam"]["model"]
    torch.save({"last": weights, "best": weights}, tmp_path / "file.pth")
    assert json.loads(lowland(*evaluate, tmp_path / "file.pth", "--scale", "smoke", "--json").out) == measured
    assert "test_error" in lowland(*evaluate, tmp_path / "file.pth", "--scale", "smoke", "--key", "best").out
    refused(*evaluate, tmp_path / "file.pth", "--scale", "smoke", "--key", "worst", says=("worst", "last"))
    wider = ("--scale", "smoke", "--set", "width=4")
    refused(*evaluate, tmp_path / "file.pth", *wider, says="another network's weights")
    refused("evaluate", "andriushchenko2022/cifar100", run, says="not of andriushchenko2022/cifar100")
    refused(*evaluate, run, "--arm", "erm-9", says="no arm erm-9")
    refused(*evaluate, tmp_path, says="no run directory")
    refused("evaluate", "andriushchenko2022/relu", run, says="keeps no network to evaluate")
    refused(*evaluate, tmp_path / "file.pth", "--arm", "all", says="unknown arm all")
    bad = {name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    torch.save(bad, tmp_path / "bad.pth")
    refused(*evaluate, tmp_path / "bad.pth", "--scale", "smoke", says="NaN")


def test_a_checkpoint_of_another_number_of_classes_is_named(small, refused, tmp_path):
    weights = task_of(configured()).model.state_dict()
    weights["linear.weight"], weights["linear.bias"] = torch.zeros(100, 16), torch.zeros(100)
    torch.save(weights, tmp_path / "hundred.pth")
    evaluate = ("evaluate", "andriushchenko2022/cifar10", tmp_path / "hundred.pth", "--scale", "smoke")
    refused(*evaluate, says="100 classes, the network 10")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_on_the_real_images(data_root, quick, lowland, tmp_path, name):
    dataset = find(f"andriushchenko2022/{name}").datasets[0]
    if not (data_root / dataset).exists():
        pytest.skip(f"no {dataset} under $LOWLAND_DATA")
    outcome = lowland("run", f"andriushchenko2022/{name}", "--scale", "smoke", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(0 <= record["test_error"] <= 1 and record["train_loss"] > 0 for record in records)


@pytest.mark.skipif(not has_bfloat16(), reason="bfloat16 takes minutes on this processor, which has none")
def test_in_mixed_precision_channels_last_and_compiled(small, quick, monkeypatch, lowland, tmp_path):
    """What is on by default on CUDA works on a CPU too, and ends near what float32 ends with."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend="eager"))  # traced, not translated
    command = ("run", "andriushchenko2022/cifar10", "--scale", "smoke", "--set", "epochs=1")
    switches = [part for name in ("amp", "channels_last", "compile") for part in ("--set", f"{name}=on")]
    assert lowland(*command, *switches, "--out", tmp_path / "on").code == 0
    assert lowland(*command, "--out", tmp_path / "off").code == 0
    on, off = (json.loads((tmp_path / path / "summary.json").read_text())["metrics"] for path in ("on", "off"))
    for arm in ("erm", "sam"):
        assert on[arm]["train_loss"] == pytest.approx(off[arm]["train_loss"], rel=0.05)
        assert on[arm]["train_loss"] != off[arm]["train_loss"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device(small, quick, lowland, tmp_path):
    command = ("run", "andriushchenko2022/cifar10", "--scale", "smoke")
    plain = ("--set", "amp=off", "--set", "compile=off")
    assert lowland(*command, "--device", "cuda", "--out", tmp_path / "fast").code == 0
    assert lowland(*command, "--device", "cuda", *plain, "--out", tmp_path / "cuda").code == 0
    assert lowland(*command, "--device", "cpu", "--out", tmp_path / "cpu").code == 0
    ends = [json.loads((tmp_path / path / "summary.json").read_text())["metrics"] for path in ("fast", "cuda", "cpu")]
    for arm in ("erm", "sam"):
        fast, cuda, cpu = (end[arm]["train_loss"] for end in ends)
        assert cuda == pytest.approx(cpu, rel=0.02)
        assert fast == pytest.approx(cpu, rel=0.1)


def test_a_value_that_was_not_finite_is_left_out_of_the_figure():
    settings = configured({"seeds": "1"})
    arms = {
        f"sam-{seed}": Outcome(
            replace(settings, seed=seed),
            [{"epoch": 0.0, "sharpness": 1.0 + seed}, {"epoch": 1.0, "sharpness": last}],
        )
        for seed, last in enumerate((2.0, None))
    }
    (panel,) = over_epochs("sharpness", "Sharpness", ("sam",), (("sharpness", "", "", True),)).panels(arms)
    (line,) = panel.lines
    assert (line.x, line.y, line.seeds) == ([0.0, 1.0], [1.5, None], {0: [1.0, 2.0], 1: [2.0, None]})


def test_what_happens_at_the_switch_is_seen_from_near():
    experiment = find("andriushchenko2022/finetune")
    configurations = experiment.configure("smoke", {"seeds": "1"})

    def arm(kind, epochs):
        records = [{"epoch": float(epoch), "test_error": 0.9 - epoch / 20, "train_error": 0.0} for epoch in epochs]
        return Outcome(configurations[kind], records)

    arms = {kind: arm(kind, range(11)) for kind in ("erm", "sam")}
    arms |= {kind: arm(kind, (10, 11)) for kind in ("erm-to-sam", "sam-to-erm", "erm-to-erm")}
    switch = next(figure for figure in experiment.figures if figure.name == "switch")
    test, training, near = switch.panels(arms)
    assert [line.x[0] for line in test.lines] == [0, 0, 10, 10, 10]
    assert [line.x for line in near.lines] == [[8, 9, 10]] * 2 + [[10, 11]] * 3
    assert near.lines[0].y == pytest.approx([0.5, 0.45, 0.4])
    assert {level.label for level in near.levels} == {"erm-to-sam, paper", "sam-to-erm, paper", "erm-to-erm, paper"}
    assert not test.levels  # five per cent would squash what is drawn from 90 % on
    assert near.ylabel not in (test.ylabel, training.ylabel)  # or they would share an axis
    begun = {kind: one for kind, one in arms.items() if kind in ("erm", "sam")}
    assert len(switch.panels(begun)) == 2


def verdict_of(experiment, claim, arms):
    return next(c for c in find(f"andriushchenko2022/{experiment}").claims if c.id == claim).decide(arms)


def runs(experiment, ends, **changes):
    """Arms of two seeds from the last records of each kind, one number for both seeds or two."""
    configurations = find(f"andriushchenko2022/{experiment}").configure("smoke", {"seeds": "2", **changes})
    return {
        f"{kind}-{k}": Outcome(
            configurations[f"{kind}-{k}"], [{"step": 0}, *({"step": 1 + n, **r} for n, r in enumerate(records[k]))]
        )
        for kind, records in ends.items()
        for k in range(2)
    }


def test_sam_must_fit_the_noise_where_erm_does():
    def verdict(sam, erm):
        arms = runs("label-noise", {"sam": [[{"noisy_error": sam}]] * 2, "erm": [[{"noisy_error": erm}]] * 2})
        return verdict_of("label-noise", "fits-noise", arms)

    assert verdict(0.09, 0.0).passed is True
    assert verdict(0.3, 0.0).passed is False
    undecided = verdict(0.3, 0.5)
    assert undecided.passed is None
    assert undecided.reason == (
        "ERM's error on the wrongly labelled images at the end is 0.5, and the claim is about networks that get to 0.15"
    )


def test_sam_must_converge_in_twice_as_long_as_erm_takes():
    def verdict(claim, sam, erm):
        """Of losses at epochs 0, 1, 2, ...; the gradient norm is their square root."""
        arms = {
            kind: Outcome(
                find("andriushchenko2022/convergence").configure("smoke", {"seeds": "1"})[kind],
                [{"epoch": n, "train_loss": loss, "gradient_norm": loss**0.5} for n, loss in enumerate(losses)],
            )
            for kind, losses in (("sam", sam), ("erm", erm))
        }
        return verdict_of("convergence", claim, arms)

    erm = [2.3, 0.5, 0.01, 0.003, 0.001]
    for claim in ("zero-loss", "gradient-vanishes"):
        assert verdict(claim, [2.3, 0.9, 0.1, 0.02, 0.009], erm).passed is True
        assert verdict(claim, [2.3, 0.9, 0.5, 0.3, 0.2], erm).passed is False
        short = verdict(claim, [2.3, 0.9, 0.5, 0.3, 0.2], [2.3, 0.5, 0.03, 0.01, 0.001])
        assert short.passed is None
        assert short.reason == (
            "ERM's training loss is 0.03 after half of the epochs, and the claim is about runs twice as long as ERM "
            "takes to get to 0.01"
        )
        assert short.measured is not None


def test_early_stopping_looks_at_the_noisy_validation_images_after_the_first_step():
    def curve(best, end):
        early = {"validation_error": 0.6, "test_error": best, "noisy_error": 0.9}
        return [early, {"validation_error": 0.8, "test_error": end, "noisy_error": 0.0}]

    sam, erm = [curve(0.1, 0.43), curve(0.11, 0.431)], [curve(0.2, 0.49), curve(0.2, 0.488)]
    arms = runs("label-noise", {"sam": sam, "erm": erm})
    for arm in arms.values():
        arm.records[0] |= {"validation_error": 0.1, "test_error": 0.9}  # as drawn: none to stop at
    found = {c: verdict_of("label-noise", c, arms) for c in ("early-stopping", "sam-overfits", "erm-overfits")}
    assert found["early-stopping"].measured == pytest.approx(-0.095)
    assert found["sam-overfits"].measured == pytest.approx(-0.3255)
    assert found["erm-overfits"].measured == pytest.approx(-0.289)
    assert all(verdict.passed for verdict in found.values())


def test_tuning_is_judged_against_erm_for_as_long():
    """The paper's errors in percent, with a little scatter: 0.45 of 0.7 is more than half."""
    errors = {"erm-to-erm": 4.65, "erm-to-sam": 4.2, "sam-to-erm": 3.95, "erm": 4.8}
    arms = runs(
        "finetune",
        {
            kind: [[{"test_error": error + d, "train_error": 0.0}] for d in (-0.001 * number, 0.1 + 0.001 * number)]
            for number, (kind, error) in enumerate(errors.items())
        },
    )
    found = verdict_of("finetune", "recovers", arms)
    assert found.passed is True
    assert found.measured == pytest.approx(0.35 - 0.45)
    assert found.reason.startswith("it brings 0.64 of SAM's gain")
    kept = verdict_of("finetune", "keeps", arms)
    assert (kept.passed, kept.measured) == (True, pytest.approx(-0.7))
    untrained = {
        name: Outcome(arm.settings, [{**arm.records[-1], "train_error": 0.3}]) if name.startswith("erm-") else arm
        for name, arm in arms.items()
    }
    undecided = verdict_of("finetune", "recovers", untrained)
    assert undecided.passed is None
    assert "training error is 0.3" in undecided.reason


def test_the_barrier_is_that_between_the_two_networks():
    arms = runs("finetune", {"erm-to-sam": [[{"line_t": [-1, 0, 0.5, 1, 2], "line_loss": [9, 1, 2.5, 3, 9]}]] * 2})
    claim = next(c for c in find("andriushchenko2022/finetune").claims if c.id == "connected")
    assert claim.judge(arms).measured == pytest.approx(0.5)


def grid_of_methods(errors, validation=None):
    """Runs by label: (ascent, ρ) → test error of seed 0; seeds differ by 0.01 in all alike, and a little in each."""
    arms = {}
    for number, ((ascent, rho), error) in enumerate(errors.items()):
        for seed in range(3):
            settings = configured({"seed": str(seed), "rho": str(rho or 1), "ascent_examples": "24"}, arm={
                "batch": "sam", "training": "n-sam", "random": "random"}[ascent] if rho else "erm")  # fmt: skip
            end = {
                "test_error": error + 0.01 * seed + 0.0005 * ((number * 5 + 1) * (seed + 1) ** 2 % 7),
                "validation_error": (validation or {}).get((ascent, rho), error),
                "validation_loss": 1.0,
                "train_error": 0.0,
            }
            arms[f"{ascent},{rho},{seed}"] = Outcome(settings, [end])
    return arms


FIGURE_1 = {
    ("batch", 0): 0.30,
    ("batch", 0.1): 0.25, ("batch", 0.2): 0.20, ("batch", 0.4): 0.10,
    ("training", 0.1): 0.31, ("training", 0.2): 0.295,
    ("random", 0.1): 0.30, ("random", 6.4): 0.29,
}  # fmt: skip


def test_figure_1_is_judged_at_the_rho_that_validation_selects():
    arms = grid_of_methods(FIGURE_1, validation={("batch", 0.4): 0.9})  # best in test, not in validation
    found = {c: verdict_of("cifar10", c, arms) for c in ("sam-beats-erm", "n-sam-gains-little", "random-gains-little")}
    assert all(verdict.passed for verdict in found.values())
    assert found["sam-beats-erm"].measured == pytest.approx(-0.1, abs=0.003)
    assert found["sam-beats-erm"].reason.startswith("ρ = 0.2; over 3 seeds")
    assert found["n-sam-gains-little"].measured == pytest.approx(0.005 - 0.05, abs=0.003)
    assert "at ρ = 0.2 and 0.2" in found["n-sam-gains-little"].reason
    assert "at ρ = 6.4 and 0.2" in found["random-gains-little"].reason
    as_good = grid_of_methods({**FIGURE_1, ("training", 0.2): 0.19})
    assert verdict_of("cifar10", "n-sam-gains-little", as_good).passed is False


def test_a_radius_where_a_run_diverged_is_not_selected_and_the_others_are_judged():
    arms = grid_of_methods(FIGURE_1)
    lost = "batch,0.4,1"
    arms[lost] = Outcome(arms[lost].settings, arms[lost].records, diverged_at=5)
    assert verdict_of("cifar10", "sam-beats-erm", arms).measured == pytest.approx(-0.1, abs=0.003)


def test_figure_1_of_networks_that_do_not_fit_is_undecided():
    arms = grid_of_methods(FIGURE_1)
    for arm in arms.values():
        arm.records[-1]["train_error"] = 0.67
    verdict = verdict_of("cifar10", "sam-beats-erm", arms)
    assert verdict.passed is None
    assert verdict.reason == "ERM's training error is 0.67, and the claim is about networks that get to 0.02"


def test_figure_1_is_drawn_with_intervals_beside_the_papers():
    (plot, by_m) = find("andriushchenko2022/cifar10").sweep_figures
    (panel, theirs) = plot.panels(grid_of_methods(FIGURE_1))
    assert [line.label for line in panel.lines] == ["128-SAM", "n-SAM", "random", "ERM"]
    sam = panel.lines[0]
    assert list(sam.x) == [0.1, 0.2, 0.4]
    assert sam.y[1] == pytest.approx(21.1, abs=0.2)
    assert all(low < y < high for low, y, high in zip(sam.low, sam.y, sam.high, strict=True))
    erm = panel.lines[3]
    assert list(erm.x) == [0.025, 0.05, 0.1, 0.2, 0.4, 6.4, 33, 100]
    assert erm.y == [pytest.approx(31, abs=0.2)] * 8
    assert erm.low[0] < erm.y[0] < erm.high[0]
    assert (list(panel.against), panel.better) == (["ERM"], "lower")
    assert panel.ylabel != theirs.ylabel  # a range of its own: these networks err ten times as often
    assert by_m.panels(grid_of_methods(FIGURE_1)) == []


@pytest.mark.parametrize(
    ("name", "erm", "best", "lines", "levels"),
    [
        ("cifar10", 5.15, (0.2, 4.3), {"random": (0.025, 33, 5.1, 5.3)}, {"n-SAM": [5.1, 5.3]}),
        ("cifar100", 22.8, (0.4, 20.2), {"n-SAM": (0.025, 0.4, 22.8, 23.2)}, {"random": [22.2]}),
    ],
)
def test_figure_1_shows_what_is_read_off_the_papers(name, erm, best, lines, levels):
    """Of each method what the paper has, in the colour of ours: points, a band up to some ρ, or levels."""
    (ours, theirs) = find(f"andriushchenko2022/{name}").sweep_figures[0].panels(grid_of_methods(FIGURE_1))
    sam, band, across = theirs.lines
    assert (len(sam.x), min(zip(sam.y, sam.x, strict=True))) == (5, best[::-1])
    assert {band.tint: (*band.x, band.low[0], band.high[1])} == lines
    assert (list(across.x), list(across.y)) == ([0.025, 100], [erm] * 2)
    shown = {}
    for level in theirs.levels:
        shown.setdefault(level.beside, []).append(level.value)
    assert shown == levels
    assert {line.colour for line in theirs.lines} | set(shown) == {line.colour for line in ours.lines}


@pytest.mark.parametrize(
    ("name", "dataset", "expected"),
    [
        ("finetune", "cifar-10", {"erm-to-erm": [0.0465], "erm-to-sam": [0.042], "sam-to-erm": [0.0395]}),
        ("finetune", "cifar-100", {"erm-to-erm": [0.2085], "erm-to-sam": [0.198], "sam-to-erm": [0.19]}),
        ("label-noise", "cifar-10", {"erm": [0.2, 0.49], "sam": [0.1, 0.43]}),
        ("label-noise", "cifar-100", {"erm": [0.58, 0.64], "sam": [0.48, 0.585]}),
    ],
)
def test_figures_9_and_12_show_the_papers_values_of_their_dataset(name, dataset, expected):
    record = {"epoch": 1.0, "test_error": 0.5, "train_error": 0.1, "noisy_error": 0.2, "validation_error": 0.6}
    arms = runs(name, {kind: [[record]] * 2 for kind in expected}, dataset=dataset)
    panels = {panel.title: panel for panel in find(f"andriushchenko2022/{name}").figures[0].panels(arms)}
    test = panels["test, around the switch" if name == "finetune" else "test, right labels"]
    shown = {}
    for level in test.levels:
        shown.setdefault(level.beside, []).append(pytest.approx(level.value))
    assert shown == expected
    assert all(level.beside in test.labels for level in test.levels)
    if name == "label-noise":
        noisy = panels["training, wrongly labelled images"].levels
        assert [level.value for level in noisy] == ([0, 0.09] if dataset == "cifar-10" else [])


def test_the_error_on_wrong_labels_is_of_those_images_alone(small):
    settings = configured(name="label-noise", arm="erm")
    task = task_of(settings, "label-noise")
    record = task.check(0, task.batch(0))
    train = task.check.sets.train
    right = task_of(configured({"noise": "0"}, "label-noise", "erm"), "label-noise").check.sets.train
    wrong = train.targets != right.targets
    with evaluating(task.model):
        missed = task.model(scale(train.inputs, 255)).argmax(1) != train.targets
    assert record["noisy_error"] == pytest.approx(missed[wrong].float().mean().item())
    assert record["clean_error"] == pytest.approx(missed[~wrong].float().mean().item())
    clean = task_of(configured({"noise": "0"}, "label-noise", "erm"), "label-noise")
    assert clean.check(0, clean.batch(0))["noisy_error"] is None


@pytest.mark.parametrize("name", ["label-noise", "finetune"])
def test_the_other_dataset_has_the_other_network(small, name):
    ten, hundred = (task_of(configured({"dataset": d}, name, "erm"), name) for d in ("cifar-10", "cifar-100"))
    assert ten.model.linear.out_features == 10
    assert hundred.model.linear.out_features == 100


def test_tuning_has_a_radius_of_its_own(small):
    experiment = find("andriushchenko2022/finetune")
    arms = experiment.configure("smoke", {"rho": "0.1", "tune_rho": "0.4"})
    found = {name: experiment.task(s, CPU).optimizer.param_groups[0]["rho"] for name, s in arms.items()}
    assert found == {"erm": 0, "sam": 0.1, "erm-to-sam": 0.4, "sam-to-erm": 0, "erm-to-erm": 0}
