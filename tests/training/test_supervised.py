"""Networks and data of one's own: what is trained, and what is recorded of it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lowland
from lowland.data import WholeBatch
from lowland.errors import SettingError
from lowland.training import Experiment, RunDirectory, Task, configuration, defaults, supervised, train
from lowland.training.drive import Pace

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(120, 4, generator=GENERATOR)
Y = (X.sum(1) > 0).long() + (X[:, 0] > 1).long()
VALUES = {"lr": 0.1, "rho": 0.1, "steps": 12, "batch_size": 10, "momentum": 0.9, "weight_decay": 1e-3, "check_every": 5}


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 3))


def experiment(build=None, **values):
    return Experiment(
        name="mine",
        settings=defaults(**{**VALUES, **values}),
        build=build or (lambda settings: supervised(network(), settings, (X[:90], Y[:90]), test=(X[90:], Y[90:]))),
    )


def run(mine, path, until=None):
    arms = mine.configure("paper", {})
    with RunDirectory(path, configuration(mine, "paper", arms, CPU)) as directory:
        return train(mine, arms, directory, CPU, show_progress=False, until=until)


def test_a_check_is_what_it_says_in_evaluation_mode():
    mine = experiment()
    task = mine.task(mine.configure("paper", {})["sam"], CPU)
    record = task.check(9, task.batch(0))
    task.model.eval()
    output = task.model(X[90:])
    assert record["test_loss"] == pytest.approx(F.cross_entropy(output, Y[90:]).item(), rel=1e-6)
    assert record["test_error"] == pytest.approx((output.argmax(1) != Y[90:]).float().mean().item())
    assert record["epoch"] == 1  # of 81 examples: 9 were held out
    assert set(record) == {"epoch", *(f"{s}_{m}" for s in ("train", "validation", "test") for m in ("loss", "error"))}
    task.model.train()
    task.check(0, task.batch(0))
    assert task.model.training


def test_the_optimizer_is_sam_around_sgd_with_the_settings_that_there_are():
    mine = experiment(m=5)
    optimizer = mine.task(mine.configure("paper", {"m": "2"})["sam"], CPU).optimizer
    assert isinstance(optimizer, lowland.SAM)
    assert (optimizer.m, type(optimizer.base)) == (2, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert [group[key] for key in ("lr", "rho", "momentum", "weight_decay")] == [0.1, 0.1, 0.9, 1e-3]
    plain = experiment().task(experiment().configure("paper", {})["sgd"], CPU).optimizer
    assert plain.m is None
    assert plain.param_groups[0]["rho"] == 0


LOADERS = {
    "tensors": lambda: (X, Y),
    "dataset": lambda: TensorDataset(X, Y),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=10, shuffle=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("m", [None, 2])
def test_a_run_that_paused_goes_on_to_the_same_bits(kind, m, tmp_path, monkeypatch):
    monkeypatch.setattr(Pace, "due", lambda self: True)
    mine = experiment(lambda settings: supervised(network(), settings, LOADERS[kind]()), **({"m": m} if m else {}))
    whole = run(mine, tmp_path / "whole")
    for until in (3, 8, None):
        parts = run(mine, tmp_path / "parts", until)
    assert {name: outcome.records for name, outcome in whole.items()} == {
        name: outcome.records for name, outcome in parts.items()
    }
    assert whole["sam"].records[-1]["train_loss"] < whole["sam"].records[0]["train_loss"]


def test_another_loss_another_error_another_optimizer():
    targets = X.sum(1, keepdim=True)
    made = []

    def build(settings):
        model = nn.Linear(4, 1)
        base = torch.optim.Adam(model.parameters(), lr=settings.lr)
        made.append(lowland.optim.presets.ASAM(base, rho=settings.rho, model=model))
        return supervised(
            model, settings, (X[:60], targets[:60]), (X[60:90], targets[60:90]), loss_fn=F.mse_loss, optimizer=made[-1]
        )

    mine = experiment(build)
    task = mine.task(mine.configure("paper", {})["sam"], CPU)
    assert task.optimizer is made[-1]
    record = task.check(0, task.batch(0))
    assert set(record) == {"epoch", "train_loss", "validation_loss"}
    assert record["validation_loss"] == pytest.approx(F.mse_loss(task.model(X[60:90]), targets[60:90]).item())
    task = supervised(nn.Linear(4, 1), mine.configure("paper", {})["sam"], (X, targets), loss_fn=F.mse_loss,
                      error=lambda output, y: (output - y).abs())  # fmt: skip
    assert task.check(0, None)["train_error"] > 0


def test_more_can_be_measured():
    def measure(model):
        assert not model.training
        return {"norm": sum(p.square().sum().item() for p in model.parameters())}

    mine = experiment(lambda settings: supervised(network(), settings, (X, Y), measure=measure))
    task = mine.task(mine.configure("paper", {})["sam"], CPU)
    assert task.check(0, None)["norm"] == measure(task.model.eval())["norm"]


def test_targets_may_be_probabilities():
    soft = F.one_hot(Y, 3).float()
    mine = experiment(lambda settings: supervised(nn.Linear(4, 3), settings, (X, soft), (X, Y)))
    task = mine.task(mine.configure("paper", {})["sam"], CPU)
    record = task.check(0, None)
    assert record["train_error"] == record["validation_error"]


def test_a_loss_that_is_not_finite_is_a_run_that_diverged(tmp_path):
    outcomes = run(experiment(lr=1e30), tmp_path)
    assert outcomes["sgd"].status == "diverged"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"examples": 82},
            "examples is 82, and there are 81 training examples when a tenth is held out for validation: set examples "
            "to at most 81",
        ),
        ({"batch_size": 100}, "between 1 and all 81 examples, not 100"),
    ],
)
def test_what_does_not_fit(values, says):
    mine = experiment(**values)
    with pytest.raises(SettingError, match=says):
        mine.task(mine.configure("paper", {})["sam"], CPU)


def test_epochs_that_come_to_other_steps():
    settings = defaults(lr=0.1, rho=0.1, epochs=2, batch_size=10, examples=75)
    whole = DataLoader(TensorDataset(X, Y), batch_size=10, shuffle=True, drop_last=True)
    mine = Experiment(name="mine", settings=settings, build=lambda s: supervised(network(), s, whole, (X, Y)))
    with pytest.raises(SettingError, match="2 epochs are 14 steps of these batches, and the settings come to 16"):
        mine.task(mine.configure("paper", {})["sam"], CPU)


META = torch.device("meta")  # a device that every machine has, without numbers


@pytest.mark.parametrize("kind", LOADERS)
def test_a_task_that_was_built_on_the_cpu_is_taken_to_its_device(kind):
    mine = experiment(lambda settings: supervised(network(), settings, LOADERS[kind](), test=(X, Y)))
    task = mine.task(mine.configure("paper", {})["sam"], META)
    assert {tensor.device for tensor in (*task.model.parameters(), *task.model.buffers())} == {META}
    assert [part.device for part in task.batch(3)] == [META, META]
    assert [len(part) for part in task.batch(3)] == [10, 10]
    checked = [batch for examples in task.check.sets.values() for batch in examples.batches()]
    assert {part.device for batch in checked for part in batch} == {META}
    again = mine.task(mine.configure("paper", {})["sgd"], META)
    if kind == "tensors":
        assert again.batch.x is task.batch.x  # runs side by side share their data


def test_batches_and_checks_of_ones_own_are_taken_along():
    class Check:
        def __call__(self, step, batch):
            return {}

    model = network()
    draws = {"pair": lambda step: (X, {"labels": Y, "step": step}), "whole": WholeBatch(X, Y)}
    for draw in draws.values():
        task = Task(model, F.cross_entropy, None, draw, Check())
        assert task.to(CPU) is task
        moved = task.to(META)
        x, y = moved.batch(3)
        assert x.device == (y["labels"] if isinstance(y, dict) else y).device == META
        assert not isinstance(y, dict) or y["step"] == 3
        assert moved.check is task.check
