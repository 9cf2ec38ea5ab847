"""What a program of several runs takes from one of them must be the same in all: else they are trained one by one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland import training
from lowland.data import WholeBatch
from lowland.optim import SAM
from lowland.training import Experiment, Task, defaults
from lowland.training.sweep.plan import can_vectorize
from lowland.training.vectorized import NotVectorizable, Runs, train_vectorized, unlike
from tests.fakes import Check

CPU = torch.device("cpu")
X, Y = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class Projected(nn.Module):
    """A linear layer behind what is no parameter and no buffer."""

    def __init__(self, seed):
        super().__init__()
        self.matrix = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        return self.linear(x @ self.matrix)


def experiment(model=lambda settings: nn.Linear(8, 3), loss=lambda model, settings: F.cross_entropy, schedule=None):
    """One whose network, loss and schedule each are made of the settings."""

    def build(settings):
        net = model(settings)
        loss_fn = loss(net, settings)
        factor = None if schedule is None else lambda step: schedule(step, settings)
        base = torch.optim.SGD(net.parameters(), lr=settings.lr)
        batch, check = WholeBatch(X, Y), Check(net, loss_fn)
        return Task(net, loss_fn, SAM(base, rho=settings.rho), batch, check, {"loss": "loss"}, factor)

    return Experiment(
        name="tests/alone", settings=defaults(lr=0.1, rho=0.05, steps=9, check_every=3), build=build,
        arms={"sam": {}}, selection=training.Selection("loss", on="training"),
    )  # fmt: skip


def points(made, **values):
    ((name, several),) = values.items()
    return {f"{name}={value}": made.configure("paper", {name: str(value)})["sam"] for value in several}


def decayed(model, settings):
    """With a term so small that the gradients hardly show it."""
    return lambda output, y: F.cross_entropy(output, y) + 1e-7 * sum(p.square().sum() for p in model.parameters())


def weighted(model, settings):
    weights = torch.rand(3, generator=torch.Generator().manual_seed(settings.seed))
    return lambda output, y: F.cross_entropy(output, y, weight=weights)


CASES = {
    "a loss that reads parameters": (experiment(loss=decayed), {"lr": (0.1, 0.2)}, "reads the parameter weight"),
    "a tensor in an attribute": (
        experiment(model=lambda settings: Projected(settings.seed)), {"seed": (0, 1)}, "plain attributes",
    ),
    "what a loss captured": (experiment(loss=weighted), {"seed": (0, 1)}, "what the loss captured"),
    "a schedule of its own": (
        experiment(schedule=lambda step, settings: 1 - settings.lr * step / 9), {"lr": (0.1, 0.2)}, "schedules",
    ),
    "a schedule that only one has": (
        experiment(schedule=lambda step, settings: 1.0 if settings.seed else 1 / (1 + step)), {"seed": (1, 0)},
        "schedules",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_the_same_for_all_is_refused_and_trained_one_by_one(case, tmp_path):
    made, grid, says = CASES[case]
    arms = points(made, **grid)
    assert says in can_vectorize(made, arms, "cpu")
    with (
        training.RunDirectory(tmp_path / "run", training.configuration(made, "paper", arms, CPU)) as directory,
        pytest.raises(NotVectorizable, match="use --engine process"),
    ):
        train_vectorized(made, arms, directory, CPU, show_progress=False)


def test_what_is_the_same_for_all_is_not(tmp_path):
    shared = torch.rand(3, generator=torch.Generator().manual_seed(1))
    made = experiment(
        model=lambda settings: Projected(7),
        loss=lambda model, settings: lambda output, y: F.cross_entropy(output, y, weight=shared),
        schedule=lambda step, settings: 1 - step / settings.steps,
    )
    arms = points(made, seed=(0, 1, 2))
    assert can_vectorize(made, arms, "cpu") == ""
    runs = Runs.prepare(made, list(arms.values()), CPU)
    before = {name: tensor.clone() for name, tensor in runs.tasks[0].model.state_dict().items()}
    assert unlike(runs, 9) == ""
    assert all(torch.equal(before[name], tensor) for name, tensor in runs.tasks[0].model.state_dict().items())
