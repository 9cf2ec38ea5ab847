"""Models that reach their weights past themselves, or write to them: refused, or left without a trace."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import Hessian, Monitor, average_sharpness, sharpness


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.way = nn.Linear(3, 4), nn.Linear(4, 3), forward
        self.double()
        self.listed, self.view = [self.a.weight], self.a.weight.data.view(4, 3)

    def forward(self, x):
        return self.way(self, x)


def listed(net, x):
    return net.b(F.linear(x, net.listed[0], net.a.bias).tanh())


def listed_and_detached(net, x):
    return net.b(net.a(x).tanh()) * (1 + F.linear(x, net.listed[0]).detach().mean())


def a_view(net, x):
    return net.b(F.linear(x, net.view, net.a.bias).tanh() + net.a(x))


def usual(net, x):
    return net.b(net.a(x).tanh())


X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [(X, torch.arange(20) % 3)]
MEASURES = {
    "sharpness": lambda net, batches: sharpness(net, F.cross_entropy, batches, rho=0.3),
    "average_sharpness": lambda net, batches: average_sharpness(net, F.cross_entropy, batches, rho=0.1, draws=8),
    "eigenpairs": lambda net, batches: Hessian(net, F.cross_entropy, batches).eigenpairs(),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("forward", [listed, listed_and_detached, a_view])
def test_weights_that_are_reached_past_the_model_are_refused(forward, measure):
    net = Net(forward)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    with pytest.raises(ValueError, match="doesn't ask the model for"):
        MEASURES[measure](net, BATCHES)
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("measure", MEASURES)
def test_others_are_measured_and_a_graph_of_ones_own_stays_good(measure, dtype):
    net = Net(usual).to(dtype)
    batches = [(X.to(dtype), BATCHES[0][1])]
    loss = F.cross_entropy(net(batches[0][0]), batches[0][1])
    MEASURES[measure](net, batches)
    loss.backward()


@pytest.mark.parametrize("measure", [*MEASURES, "monitor"])
def test_a_forward_pass_that_writes_to_its_weights_leaves_no_trace(measure):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 3, max_norm=1.0), nn.Flatten(), nn.Linear(9, 3)).double()
    batches = [(torch.randint(4, (20, 3)), BATCHES[0][1])]
    before = {name: p.clone() for name, p in net.state_dict().items()}
    if measure == "monitor":
        Monitor(torch.optim.SGD(net.parameters(), lr=0.1), net, F.cross_entropy, batches).check()
    else:
        MEASURES[measure](net, batches)
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
