"""Recurrent layers and cells against the loop by definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ..against_the_definition import assert_by_the_loop, assert_silent
from ..networks import rand

KINDS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
CELLS = {
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "tanh": nn.RNNCell,
    "relu": lambda *sizes: nn.RNNCell(*sizes, nonlinearity="relu"),
}


class Recurrent(nn.Module):
    """All that a recurrent layer gives, after a layer that makes its inputs, from states of ``start``."""

    def __init__(self, kind, start="zeros", **options):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, 3)
        self.layer = KINDS[kind](3, 4, **options)
        self.kind, self.start = kind, start
        directions = self.layer.num_layers * (1 + self.layer.bidirectional)
        self.learnt = nn.Parameter(torch.randn(directions, 1, 4))
        self.of_input = nn.Linear(2, 4 * directions)
        self.double()

    def states(self, x):
        if self.start == "zeros":
            return None
        if self.start == "learnt":
            start = self.learnt.expand(-1, len(x), -1)
        else:  # of the examples
            start = self.of_input(x.mean(1)).unflatten(1, (-1, 4)).transpose(0, 1).contiguous()
        return (start, start.tanh()) if self.kind == "lstm" else start

    def forward(self, x):
        y = self.first(x).tanh()
        y = y if self.layer.batch_first else y.transpose(0, 1)
        out, ends = self.layer(y, self.states(x))
        out = out if self.layer.batch_first else out.transpose(0, 1)
        ends = torch.stack(ends) if isinstance(ends, tuple) else ends[None]
        return out.square().mean((1, 2)) + ends.sin().mean((0, 1, 3))


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_layers(kind, m):
    model, x = Recurrent(kind, batch_first=True), rand(5, 3, 2)
    assert_silent(model, lambda: model(x), m)


@pytest.mark.parametrize("start", ["learnt", "of the examples"])
@pytest.mark.parametrize("options", [{"bidirectional": True, "num_layers": 2}, {"bias": False}], ids=str)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_options(kind, options, start):
    model, x = Recurrent(kind, start, **options), rand(4, 3, 2)
    assert_silent(model, lambda: model(x), 3)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "bias": False}], ids=str)
def test_projected_states(options, m):
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(2, 3), nn.LSTM(3, 4, proj_size=2, batch_first=True, **options)]).double()
    x = rand(5, 3, 2)

    def losses():
        out, (h, c) = model[1](model[0](x).tanh())
        return out.square().mean((1, 2)) + h.sin().mean((0, 2)) + c.sin().mean((0, 2))

    assert_silent(model, losses, m)
    model[1].weight_hh_l0.requires_grad_(False)
    assert_silent(model, losses, m, memory_limit=1, perturbed_norms=True)
    model[1].weight_hr_l0.requires_grad_(False)
    assert_silent(model, losses, m)


@settings(max_examples=8, deadline=None)
@given(
    n=st.integers(2, 6),
    m=st.integers(1, 6),
    times=st.integers(1, 9),
    kind=st.sampled_from(sorted(KINDS)),
    data=st.data(),
)
def test_any_size(n, m, times, kind, data):
    first = data.draw(st.booleans())
    model, x = Recurrent(kind, batch_first=first), rand(n, times, 2)
    assert_silent(model, lambda: model(x), m, audit=False)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_dropout_after_a_layer(kind, batch_first):
    """It draws in the order of memory, which is time first however the examples lie."""
    torch.manual_seed(0)
    model, x = kind(2, 3, batch_first=batch_first).double(), rand(5, 4, 2) if batch_first else rand(4, 5, 2)

    def losses():
        torch.manual_seed(0)
        out = nn.functional.dropout(model(x)[0], 0.4)
        return (out if batch_first else out.transpose(0, 1)).square().sum((1, 2))

    assert_silent(model, losses, 2, audit=False)


def test_dropout_between_layers():
    model, x = Recurrent("gru", num_layers=2, dropout=0.5, batch_first=True), rand(5, 4, 2)

    def losses():
        torch.manual_seed(3)
        return model(x)

    assert_silent(model, losses, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_in_parts_with_norms_and_frozen_weights(kind):
    model, x = Recurrent(kind, batch_first=True), rand(5, 3, 2)
    model.layer.weight_ih_l0.requires_grad_(False)
    model.layer.bias_hh_l0.requires_grad_(False)
    assert_silent(model, lambda: model(x), 2, memory_limit=1, perturbed_norms=True, l2=0.0)


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind, m):
    torch.manual_seed(0)
    cell, x = CELLS[kind](3, 4).double(), rand(6, 5, 3)

    def losses():
        state = None
        for time in x.unbind(1):
            state = cell(time, state)
        return (state[0] if kind == "lstm" else state).square().sum(1)

    assert_silent(cell, losses, m)


def test_data_of_the_whole_sequence_first():
    model, x = nn.LSTM(3, 4).double(), rand(5, 7, 3)  # times, examples
    assert_silent(model, lambda: model(x)[0].square().sum((0, 2)), 2)


def shuffled(model, x):
    """Each state begins with the last one of the example before."""
    out, _ = model(x)
    return model(x, out[:, -1].roll(1, 0)[None].contiguous())[0]


def batch_as_time(model, x):
    return model(x.transpose(0, 1).contiguous())[0].transpose(0, 1)


@pytest.mark.parametrize("use", [shuffled, batch_as_time])
def test_rows_that_are_not_one_examples(use):
    torch.manual_seed(0)
    first = nn.Linear(3, 3)
    model, x = nn.ModuleList([first, nn.GRU(3, 3, batch_first=True)]).double(), rand(4, 4, 3)
    assert_by_the_loop(model, lambda: use(model[1], first(x)).flatten(1).square().sum(1), audit=False)
