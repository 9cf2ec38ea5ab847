"""What docs/exact-m-sam.md says goes by the loop does, and what it says to write instead goes by the one pass."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .against_the_definition import check, optimizer_of

B = 6
rand = torch.Generator().manual_seed(0)
X1, X2 = (torch.randn(B, 5, generator=rand, dtype=torch.float64) for _ in range(2))
MASK, Y = torch.arange(B) % 3 > 0, torch.arange(B) % 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 4)
        self.double()

    def f(self, x):
        return self.first(x).tanh()

    def forward(self, x):
        return self.last(self.f(x))

    @staticmethod
    def entropy(z):
        return F.cross_entropy(z, Y, reduction="none")

    @staticmethod
    def apart(a, b):
        return -F.cosine_similarity(a, b, dim=-1)


def put(net):
    features = net.f(X1)
    out = torch.zeros_like(features)
    out[MASK] = features[MASK]
    return net.entropy(net.last(out))


SIZES = torch.tensor([3, 1, 4, 2, 2, 3])  # nodes of graphs
OWNERS = torch.arange(B).repeat_interleave(SIZES)
NODES = torch.randn(len(OWNERS), 5, generator=rand, dtype=torch.float64)
FIRST = SIZES.cumsum(0) - SIZES  # the number of each graph's first node
EDGES = torch.stack([torch.arange(len(OWNERS)), FIRST[OWNERS]])  # from each node to the first of its graph


def of_graphs(net):
    """The graphs' nodes one behind the other."""
    features = net.f(NODES)
    passed = torch.zeros_like(features).index_add(0, EDGES[1], features[EDGES[0]]) + features
    return net.entropy(torch.zeros(B, 4).double().index_add(0, OWNERS, net.last(passed).tanh()))


def of_padded_graphs(net):
    """A matrix of edges and as many nodes for each graph."""
    nodes, real = torch.zeros(B, 4, 5).double(), torch.zeros(B, 4, 1).double()
    edges = torch.eye(4, dtype=torch.float64).repeat(B, 1, 1)
    for i, count in enumerate(SIZES.tolist()):
        nodes[i, :count], real[i, :count] = NODES[i == OWNERS], 1.0
        edges[i, 0, :count] += 1.0
    return net.entropy((net.last(edges @ (net.f(nodes) * real)).tanh() * real).sum(1))


def bags(net, offsets):
    """Words of several lengths, and what they look up in a table of the model's."""
    words = OWNERS * 5 % 7 % 5 + 1
    if offsets:
        return F.embedding_bag(words, net.last.weight.T, FIRST, mode="sum", padding_idx=0)
    padded = torch.zeros(B, 4, dtype=torch.long)
    for i, count in enumerate(SIZES.tolist()):
        padded[i, :count] = words[i == OWNERS]
    return F.embedding_bag(padded, net.last.weight.T, mode="sum", padding_idx=0)


#: By what the loop says: as it is written, and otherwise.
CASES = {
    "rows of some of the examples": (
        lambda net: net.apart(*net(torch.cat([X1, X2])).chunk(2)),
        lambda net: net.apart(*net(torch.stack([X1, X2], 1).flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)),
    ),
    "depends on repeat": (
        lambda net: net.entropy(net.last(net.f(X1).repeat(2, 1)).view(2, B, 4).mean(0)),
        lambda net: net.entropy(net.last(net.f(X1).repeat_interleave(2, 0)).view(B, 2, 4).mean(1)),
    ),
    "rows of one example alone": (
        lambda net: net.entropy(torch.stack([net.last(row) for row in net.f(X1)])),
        lambda net: net.entropy(net.last(net.f(X1))),
    ),
    "depend on mm": (
        lambda net: -(net(X1) @ net(X2).T).diagonal(),
        lambda net: -(net(X1) * net(X2)).sum(1),
    ),
}


@pytest.mark.parametrize("audit", [True, False])
@pytest.mark.parametrize("words", CASES)
def test_the_loop_and_the_other_way(words, audit):
    slow, quick = CASES[words]
    for m in (1,) if audit else (4,):
        net = Net()
        optimizer = optimizer_of(net, m, audit=audit)
        (said,) = check(net, optimizer, lambda net=net: slow(net), m)
        assert "group by group" in said
        assert words in said
        assert optimizer.last is None
        optimizer = optimizer_of(net, m, audit=audit)
        assert not check(net, optimizer, lambda net=net: quick(net), m)
        assert optimizer.last is not None


@pytest.mark.parametrize("m", [1, 4])
def test_rows_that_data_picks_are_exact(m):
    for losses in (
        put,
        of_graphs,
        of_padded_graphs,
        lambda net: net.entropy(bags(net, True)),
        lambda net: net.entropy(bags(net, False)),
        lambda net: net.apart(*net.last(torch.cat([net.f(X1), net.f(X2)])).chunk(2)),
        lambda net: net.entropy(net.last(net.f(X1)[[3, 1, 0, 2, 5, 4]])[[2, 1, 3, 0, 5, 4]]),
    ):
        net = Net()
        optimizer = optimizer_of(net, m)
        assert not check(net, optimizer, lambda net=net, losses=losses: losses(net), m)
        assert optimizer.last is not None


class OfNormOne(nn.Module):
    """The largest singular value itself, in place of spectral norm's estimate."""

    def forward(self, w):
        return w / torch.linalg.matrix_norm(w, 2)


def test_a_spectral_norm_that_is_exact():
    net = Net()
    parametrize.register_parametrization(net.first, "weight", OfNormOne())
    for m in (1, 4):
        optimizer = optimizer_of(net, m)
        assert not check(net, optimizer, lambda: net.entropy(net(X1)), m)
        assert optimizer.last is not None
