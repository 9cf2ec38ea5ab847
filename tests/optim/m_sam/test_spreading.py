"""What parameters give, met with rows: masks, sums in place, sequences first, repeated for the examples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from .against_the_definition import assert_by_the_loop, assert_silent, check, optimizer_of
from .networks import rand

T, C = 3, 4


class Net(nn.Module):
    def __init__(self, use):
        super().__init__()
        torch.manual_seed(0)
        self.use = use
        self.first, self.second, self.norm = nn.Linear(2, C), nn.Linear(C, C), nn.LayerNorm(C)
        self.gain, self.shift = nn.Parameter(torch.randn(C)), nn.Parameter(torch.randn(1, T, C))
        self.bias, self.token = nn.Parameter(torch.randn(2, T, T)), nn.Parameter(torch.randn(1, 1, C))
        self.words = nn.Embedding(6, C, padding_idx=1)
        self.low, self.high = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(C, 2))
        self.bag = nn.EmbeddingBag(6, C, padding_idx=1)
        self.encoder = nn.TransformerEncoderLayer(C, 2, 5, dropout=0.0)
        self.double()

    def forward(self, x):
        """A loss of each example; the sequences are (rows, times, C)."""
        y = self.use(self, self.first(x).tanh())
        return y.flatten(1).square().mean(1)


def in_place(f):
    def use(net, h):
        h = h.clone()
        f(net, h)
        return h.sin()

    return use


def put(net, h):
    h[:, 0] = net.gain


def add(net, h):
    h += net.shift


def add_to_a_part(net, h):
    h[:, 1:] += net.shift[:, 1:]


def multiply(net, h):
    h.mul_(net.gain.exp())
    h -= net.token[0, 0]


def heads(h):
    return h.unflatten(-1, (2, -1)).transpose(1, 2)


def masked(net, h):
    return F.scaled_dot_product_attention(heads(h), heads(h.cos()), heads(h), attn_mask=net.bias)


def masked_by_a_table(net, h):
    table = net.bias.sin().unsqueeze(0)
    return F.scaled_dot_product_attention(heads(h), heads(h), heads(h.cos()), table, scale=0.5)


def sequence_first(f):
    return lambda net, h: f(net, h.transpose(0, 1)).transpose(0, 1)


def several_rows(net, h):
    """A token before each of 2 T rows of an example."""
    rows = h.repeat_interleave(2, 1).flatten(0, 1)[:, None]
    token = net.token.expand(len(rows), -1, -1)
    return net.second(torch.cat([token, rows], 1).tanh()).unflatten(0, (len(h), -1))


def repeated(net, h):
    keys = net.bias.sin().repeat(len(h), 1, 1)
    return torch.bmm(heads(h).flatten(0, 1).mT, keys).unflatten(0, (len(h), -1))


def positions_of_all(net, h):
    """Constants that are made once for each example."""
    words = torch.arange(T).expand(len(h), -1)
    h = h + net.words(words) + net.words(torch.ones(len(h), T, dtype=torch.long))
    waves = torch.linspace(0, 1, T, dtype=h.dtype)[:, None, None].expand(T, len(h), 2)
    return torch.cat([h, torch.einsum("tbi,ci->btc", waves, net.high)], 1)


def einsum_over_times(net, h):
    return torch.einsum("tbi,ij->tbj", h.transpose(0, 1), net.encoder.linear1.weight.T).transpose(0, 1)


def repeated_and_viewed(net, h):
    """What is repeated lies in order, so that it can be viewed otherwise."""
    bias = net.words(torch.arange(T) % 6)[:, :2].T.unsqueeze(0).repeat(len(h), 1, 1).view(len(h) * 2, T)
    return heads(h).flatten(0, 1).mean(-1).mul(bias).unflatten(0, (len(h), -1))


def low_rank(net, h):
    words = WORDS[: len(h)]
    return h + F.embedding(words, net.low.T, 1) @ net.high.T + net.words(words)


WORDS = torch.randint(6, (9, T), generator=torch.Generator().manual_seed(0))
USES = {
    "put": in_place(put),
    "add": in_place(add),
    "add to a part": in_place(add_to_a_part),
    "multiply": in_place(multiply),
    "masked": masked,
    "masked by a table": masked_by_a_table,
    "linear, sequence first": sequence_first(lambda net, h: net.second(h).tanh()),
    "norm, sequence first": sequence_first(lambda net, h: net.norm(h) * net.gain),
    "sum, sequence first": sequence_first(lambda net, h: h * net.shift.transpose(0, 1) + net.gain),
    "words, sequence first": lambda net, h: h + net.words(WORDS[: len(h)].T).transpose(0, 1),
    "encoder, sequence first": sequence_first(lambda net, h: net.encoder(h)),
    "several rows": several_rows,
    "repeated": repeated,
    "low rank": low_rank,
    "repeated and viewed": repeated_and_viewed,
    "positions of all": positions_of_all,
    "einsum, sequence first": einsum_over_times,
    "bag": lambda net, h: h + net.bag(WORDS[: len(h)])[:, None],
}


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("use", USES)
def test_goes_by_the_one_pass(use, m):
    model, x = Net(USES[use]), rand(5, T, 2)
    assert_silent(model, lambda: model(x), m)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 7), m=st.integers(1, 7), use=st.sampled_from(sorted(USES)))
def test_any_size_in_parts(n, m, use):
    """Batches of T examples, too."""
    model, x = Net(USES[use]), rand(n, T, 2)
    check(model, optimizer_of(model, m, audit=False, memory_limit=1), lambda: model(x), m)


def test_heads_as_many_as_examples():
    model, x = Net(lambda net, h: heads(h) @ heads(h).mT + net.bias[:1].expand(2, -1, -1)), rand(2, T, 2)
    assert_silent(model, lambda: model(x), 1)


def test_sequences_as_long_as_the_batch():
    model, x = Net(lambda net, h: h), rand(T, T, 2)

    def losses():
        return model.second(model.first(x).tanh()).square().sum((0, 2))  # examples along the second dimension

    assert_silent(model, losses, 1)


def summed(net, h):
    h = h.clone()
    h += net.shift
    return h - h.mean(0)


def other_rows(net, h):
    return net.second(h.transpose(0, 1).flip(1)).transpose(0, 1)


def attention_over_examples(net, h):
    q = heads(h).transpose(0, 2)
    return F.scaled_dot_product_attention(q, q, q, attn_mask=net.bias[:1, :1, :1]).transpose(0, 2)


def on_the_batch(net, h):
    """A sum onto memory in which the examples change places."""
    rows = h.clone()
    rows[1:] += net.shift
    return torch.cat([rows[1:], rows[:1]])


@pytest.mark.parametrize("use", [summed, other_rows, attention_over_examples, on_the_batch])
def test_rows_that_are_not_one_examples(use):
    model, x = Net(use), rand(5, T, 2)
    assert_by_the_loop(model, lambda: model(x), audit=False)
