"""Batches of graphs, their nodes one behind the other: whose a node is, is said by what adds up each graph's nodes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from .against_the_definition import assert_by_the_loop, assert_silent, check, optimizer_of

WIDTH = 4


class Graphs(nn.Module):
    """Two rounds of messages along edges, and the mean over each graph's nodes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(2))
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
        self.double()

    def forward(self, nodes, edges, batch, count):
        hidden = torch.cat([self.table(nodes), self.norm(self.table(nodes))], 1)
        for layer in self.layers:
            message = layer(hidden)[edges[0]].tanh()
            into = edges[1][:, None].expand_as(message)
            received = torch.zeros(len(nodes), WIDTH, dtype=message.dtype).scatter_add(0, into, message)
            hidden = torch.cat([received, layer(hidden)], 1)
        total = torch.zeros(count, WIDTH, dtype=hidden.dtype).index_add(0, batch, hidden[:, :WIDTH] + hidden[:, WIDTH:])
        return self.last(total / batch.bincount(minlength=count).clamp(min=1)[:, None])


def graphs(sizes, seed, shuffled=False, wrong=False):
    """Nodes, edges and whose the nodes are."""
    draw = torch.Generator().manual_seed(seed)
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    if shuffled:
        batch = batch[torch.randperm(len(batch), generator=draw)]
    pairs = (batch[:, None] == batch).nonzero()
    edges = pairs[torch.rand(len(pairs), generator=draw) < 0.6].T
    if wrong:
        first, other = 0, int((batch != batch[0]).nonzero()[0])
        edges = torch.cat([edges, torch.tensor([[first], [other]])], 1)
    return torch.randint(5, batch.shape, generator=draw), edges, batch, len(sizes)


def entropy(model, batch):
    return lambda: F.cross_entropy(model(*batch), torch.arange(batch[-1]) % 3, reduction="none")


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=2, max_size=6).filter(lambda sizes: sum(sizes) > 1),
    m=st.integers(1, 5),
    shuffled=st.booleans(),
)
def test_any_sizes(sizes, m, shuffled):
    """Graphs of any sizes, empty ones, too, and nodes in any order."""
    model, batch = Graphs(), graphs(sizes, sum(sizes), shuffled)
    assert not [
        line for line in check(model, optimizer_of(model, m, audit=False), entropy(model, batch), m) if "loop" in line
    ]


@pytest.mark.parametrize("audit", [True, False])
@pytest.mark.parametrize("m", [1, 2])
def test_the_two_passes_are_taken(m, audit):
    model = Graphs()
    assert_silent(model, entropy(model, graphs([3, 1, 4, 2, 3], 0)), m, audit=audit)


def test_each_batch_has_its_own_graphs():
    """As many nodes, others' each time."""
    model = Graphs()
    optimizer = optimizer_of(model, 1, audit=False)
    for seed, sizes in enumerate(([3, 1, 4, 2, 3], [1, 5, 1, 5, 1], [3, 1, 4, 2, 3], [4, 4, 5], [0, 0, 13, 0, 0])):
        assert not check(model, optimizer, entropy(model, graphs(sizes, seed, shuffled=seed > 0)), 1)
        assert optimizer.last is not None


@pytest.mark.parametrize("m", [1, 2])
def test_an_edge_between_two_graphs_goes_by_the_loop(m):
    model = Graphs()
    assert_by_the_loop(model, entropy(model, graphs([3, 1, 4, 2, 3], 0, wrong=True)), m, audit=False)
    optimizer = optimizer_of(model, m, audit=False)
    assert not check(model, optimizer, entropy(model, graphs([3, 1, 4, 2, 3], 0)), m)
    (said,) = check(model, optimizer, entropy(model, graphs([2, 2, 4, 2, 3], 0, wrong=True)), m)
    assert "group by group" in said
