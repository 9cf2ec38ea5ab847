"""The dial: ρ follows the learning rate and the Hessian norm asked for, and what it can't be asked."""

import copy
import math

import pytest
import torch

from lowland.curvature import rho_for_sharpness
from lowland.optim import presets
from lowland.optim.schedule import at_sharpness, geometric


def network():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2).double()


def one_step(model, optimizer):
    def closure():
        loss = model(torch.ones(4, 3).double()).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return optimizer.param_groups[0]["rho"]


def test_follows_a_schedule_of_the_learning_rate_and_one_of_its_own():
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    optimizer = presets.Dial(base, geometric(20, 5, steps=2), model=model)
    schedule = torch.optim.lr_scheduler.ExponentialLR(base, 0.5)
    for lr, sharpness in [(0.1, 20), (0.05, 10), (0.025, 5), (0.0125, 5)]:
        assert one_step(model, optimizer) == pytest.approx(rho_for_sharpness(sharpness, lr, 0.5))
        schedule.step()


def test_goes_on_from_its_state():
    results = []
    for stop in (False, True):
        model = network()
        optimizer = presets.Dial(torch.optim.SGD(model.parameters(), lr=0.1), geometric(20, 5, steps=6), model=model)
        for step in range(6):
            if stop and step == 3:
                saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
                model = network()
                fresh = torch.optim.SGD(model.parameters(), lr=0.1)
                optimizer = presets.Dial(fresh, geometric(20, 5, steps=6), model=model)
                model.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
            one_step(model, optimizer)
        results.append(model.weight.detach().clone())
    assert torch.equal(*results)


def test_stands_still_without_a_learning_rate_and_keeps_below_its_largest_radius():
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer = presets.Dial(base, 5.0, largest_rho=0.7, model=model)
    assert one_step(model, optimizer) == 0
    base.param_groups[0]["lr"] = 1e-3
    assert one_step(model, optimizer) == 0.7


def test_holds_a_quadratic_between_growth_and_decay():
    for h, grows in [(0.97, False), (1.03, True)]:
        w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        optimizer = presets.Dial(torch.optim.SGD([w], lr=0.3, momentum=0.4), 1.0)
        for _ in range(200):
            optimizer.zero_grad()
            for evaluation in optimizer.passes():
                with evaluation:
                    (h * w.square() / 2).sum().backward()
            optimizer.step()
        assert (w.abs().item() > 1) is grows


def test_is_refused_where_its_edge_is_not_known():
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    differ = torch.optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.2}], lr=0.1)
    with pytest.raises(ValueError, match="groups differ"):
        at_sharpness(differ, 5)
    with pytest.raises(ValueError, match="without dampening"):
        at_sharpness(torch.optim.SGD([p], lr=0.1, momentum=0.9, dampening=0.1), 5)
    with pytest.raises(TypeError, match="not Adam"):
        at_sharpness(torch.optim.Adam([p]), 5)
    with pytest.raises(ValueError, match=r"can't be held at lr = 0\.1"):
        presets.Dial(torch.optim.SGD([p], lr=0.1), 21)
    with pytest.raises(ValueError, match="largest_rho must be a number, at least 0"):
        at_sharpness(torch.optim.SGD([p], lr=0.1), 5, -1)


@pytest.mark.parametrize("bad", [(0, 1, 3), (1, 0, 3), (1, math.nan, 3), (1, 2, 0), (1, 2, 1.5)])
def test_ratios_that_lead_nowhere(bad):
    with pytest.raises(ValueError, match=r"above 0|not nan|counts steps"):
        geometric(*bad)
