"""Cases of one run by several processes; test_parallel.py runs them."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import lowland.training as training
from lowland import SAM
from lowland.errors import ElsewhereError, RunError, SettingError
from lowland.training import Alone, RunDirectory, configuration
from lowland.training.parallel import World
from tests.fakes import TOY, Check, toy

CPU = torch.device("cpu")
CHANGES = {"noisy": "false", "kind": "sgd"}


def double(settings, device, size=17, wrong=None):
    """The toy in float64 with batches of ``size``, each of which a step may find ``wrong``."""
    task = toy(settings, device)
    task.model.double()

    def batch(step):
        x = torch.randn(size, settings.size, generator=torch.Generator().manual_seed(step)).double()
        return wrong(step, x) if wrong else x, x.sum(1, keepdim=True)

    return replace(task, batch=batch)


class Disordered(nn.Module):
    """Its layers are used in another order than they are defined in."""

    def __init__(self, size):
        super().__init__()
        self.last, self.middle, self.first = nn.Linear(16, 1), nn.Linear(64, 16), nn.Linear(size, 64)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        return self.last(torch.tanh(self.dropout(self.middle(torch.tanh(self.first(x))))))


def disordered(settings, device):
    """The toy with such a model."""
    model = Disordered(settings.size)
    optimizer = SAM(torch.optim.Adam(model.parameters(), lr=settings.lr), rho=settings.rho)
    return replace(toy(settings, device), model=model, optimizer=optimizer, check=Check(model))


def run(name, processes, changes=CHANGES, prepare=double, until=None):
    """The toy's arms, and what their run recorded, under a ``name``."""
    experiment = replace(TOY, prepare=prepare)
    arms = experiment.configure("paper", changes)
    path = Path(name)
    directory = RunDirectory(path, configuration(experiment, "paper", arms, CPU, processes.count))
    with processes.inside(directory):
        trained = training.train(
            experiment, arms, directory, CPU, show_progress=False, processes=processes, until=until
        )
    return trained, directory


def one_does(action):
    """``action()`` in the first process; the others wait."""
    outcome = [action() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(outcome)
    return outcome[0]


def trains_as_one_process():
    """Float64, 17 examples over several processes: unequal shares."""
    for kind in ("sgd", "adam"):
        changes = CHANGES | {"kind": kind}
        together, _ = run(f"together-{kind}", World(), changes)
        alone = one_does(lambda: run(f"alone-{kind}", Alone(), changes)[0])  # noqa: B023
        for arm in ("sam", "plain"):
            for column in ("step", "loss", "weight", "calls"):
                ours, theirs = together[arm].column(column), alone[arm].column(column)
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert alone["sam"].records[-1]["weight"] != alone["plain"].records[-1]["weight"]


def every_process_has_its_own_masks_and_the_same_weights():
    world, seen, weights = World(), [], []

    def prepare(settings, device):
        task = toy(settings, device)
        task.model[1].register_forward_hook(lambda module, x, y: seen.append((y == 0).sum().item()))
        weights.append(task.model[0].weight)
        return task

    run("masks", world, {"noisy": "true"}, prepare)
    masks, finals = world.together(lambda: [None] * world.count), [None] * world.count
    dist.all_gather_object(masks, seen[1:40])
    dist.all_gather_object(finals, [weight.tolist() for weight in weights])
    assert masks[0] != masks[1]
    assert finals[0] == finals[1]


def resumes_to_the_same_bits():
    """Dropout in each; and in more than two processes, sums that depend on where in a bucket a gradient lies."""
    world = World()
    _, straight = run("straight", world, {"size": 2000}, disordered)
    for until in (0, 13, 33, None):
        _, paused = run("paused", world, {"size": 2000}, disordered, until)
        torch.manual_seed(0)  # whatever another process would start with
    assert one_does(lambda: paused.records() == straight.records())


def a_loss_that_is_not_finite_in_one_share_is_found_by_all():
    def poisoned(step, x):
        return torch.cat([x[:-1], x[-1:] * float("nan")]) if step == 10 else x  # in the last share alone

    changes = CHANGES | {"check_every": 40}
    together, _ = run("poisoned", World(), changes, partial(double, wrong=poisoned))
    alone = one_does(lambda: run("poisoned-alone", Alone(), changes, partial(double, wrong=poisoned))[0])
    for arm in ("sam", "plain"):
        assert together[arm].diverged_at == alone[arm].diverged_at == 10
        assert together[arm].records == alone[arm].records


def what_the_first_finds_all_know():
    world = World()

    def diverged():
        raise FloatingPointError("so much")

    with pytest.raises(FloatingPointError, match="so much"):
        world.first(diverged)
    for kind in (OSError, RunError):

        def fails(kind=kind):
            raise kind("no")

        assert raised(partial(world.first, fails)) is (kind if world.leads else ElsewhereError)
    last = world.count - 1
    failing = partial(world.together, lambda: 1 / (last - world.rank))
    assert raised(failing) is (ZeroDivisionError if world.rank == last else ElsewhereError)
    assert world.first(lambda: {"a": torch.tensor(3)}) == {"a": torch.tensor(3)}


def raised(action):
    """The type of what ``action()`` raises."""
    try:
        action()
    except Exception as error:
        return type(error)


def a_batch_too_small_to_share_is_refused_before_training():
    world = World()
    says = f"a batch of 1 example can't be shared by {world.count} processes" if world.leads else ""
    with pytest.raises(SettingError if world.leads else ElsewhereError, match=says):
        run("small", world, CHANGES, partial(double, size=1))
    assert not Path("small/metrics.jsonl").exists()


CASES = {
    2: [
        trains_as_one_process,
        every_process_has_its_own_masks_and_the_same_weights,
        resumes_to_the_same_bits,
        a_loss_that_is_not_finite_in_one_share_is_found_by_all,
        what_the_first_finds_all_know,
        a_batch_too_small_to_share_is_refused_before_training,
    ],
    3: [resumes_to_the_same_bits],
}
