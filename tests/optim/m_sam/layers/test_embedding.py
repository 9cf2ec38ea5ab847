"""Embeddings by the words that were seen: pairs of positions in place of a table for each group."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM, ascent

from ..against_the_definition import assert_silent, optimizer_of

SYMBOLS = 300


class Reader(nn.Module):
    def __init__(self, tied=False, padding=None, twice=False):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.layer = nn.Embedding(SYMBOLS, 4, padding), nn.Linear(4, 4)
        self.out = nn.Linear(4, SYMBOLS, bias=False)
        if tied:
            self.out.weight = self.words.weight
        self.twice = twice
        self.double()

    def forward(self, words):
        h = self.layer(self.words(words)).tanh()
        if self.twice:
            h = h + self.words(words.flip(1))
        return F.cross_entropy(self.out(h).mT, words.roll(1, 1), reduction="none").mean(1)


def sentences(n, length, symbols=SYMBOLS):
    return torch.randint(symbols, (n, length), generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"tied": True}, {"padding": 2}, {"tied": True, "twice": True}], ids=str)
def test_tables(options, m):
    model, words = Reader(**options), sentences(5, 3, 4)
    assert_silent(model, lambda: model(words), m)


@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(2, 6),
    m=st.integers(1, 6),
    length=st.integers(1, 12),
    symbols=st.integers(1, SYMBOLS),
    tied=st.booleans(),
)
def test_any_size(n, m, length, symbols, tied):
    model, words = Reader(tied), sentences(n, length, symbols)
    assert_silent(model, lambda: model(words), m, audit=False, memory_limit=1, perturbed_norms=True)


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_an_example_one_by_one(tied):
    model, words = Reader(tied), sentences(4, 6)
    assert_silent(model, lambda: model(words.view(8, 3)).view(4, 2).sum(1), 3)


def of_tables(model, losses, **options):
    """How the tables are held, and the bytes."""
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1, model=model, m=1, **options)
    optimizer.backward(losses)
    return [(row.way, row.bytes) for row in optimizer._own.engine.report.rows if row.name == "words.weight"]


def test_no_table_is_held_where_few_words_were_seen():
    model, words = Reader(), sentences(4, 6)
    assert of_tables(model, lambda: model(words)) == [("pairwise", 4 * 6 * (8 + 4 * 8))]
    assert of_tables(model, lambda: model(words), ascent=ascent.Adaptive()) == [("built", 4 * SYMBOLS * 4 * 8)]
    small = nn.Embedding(3, 4).double()
    few = sentences(4, 6, 3)
    optimizer = optimizer_of(small)
    optimizer.backward(lambda: small(few).sum(1).square().sum(1))
    assert [row.way for row in optimizer._own.engine.report.rows] == ["built"]


@pytest.mark.parametrize("tied", [False, True])
def test_words_that_the_weights_choose(tied):
    """At w + e other words are looked up than at w."""
    model, words = Reader(tied), sentences(5, 3)

    def losses():
        chosen = model.out(model.layer(model.words(words))).detach().argmax(-1)
        return model(words) + model.words(chosen).square().sum((1, 2))

    assert_silent(model, losses, 2)


def test_with_a_penalty():
    model, words = Reader(True), sentences(5, 3)
    params = list(model.parameters())
    found = []
    for inside in (False, True):
        base = torch.optim.SGD(params, lr=0.1)
        optimizer = SAM(base, rho=0.1, model=model, m=2, l2=0.0 if inside else 0.3, audit=False)
        optimizer.zero_grad()

        def losses(inside=inside):
            return model(words) + inside * 0.15 * sum(p.square().sum() for p in params)

        optimizer.backward(losses)
        found.append([p.grad.clone() for p in params])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode, padding):
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(5, 4, mode=mode, padding_idx=padding), nn.Tanh(), nn.Linear(4, 3)).double()
    words = torch.tensor([[1, 2, 2], [0, 3, 0], [0, 0, 0], [4, 4, 1], [2, 0, 1]])
    assert_silent(model, lambda: F.cross_entropy(model(words), words[:, 0] % 3, reduction="none"), 2)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 4), min_size=2, max_size=5).filter(any),
    mode=st.sampled_from(["sum", "mean", "max", "weighted"]),
    padding=st.sampled_from([None, 0]),
    last=st.booleans(),
    m=st.integers(1, 4),
)
def test_bags_with_offsets(sizes, mode, padding, last, m):
    """Bags of any sizes, empty ones, too, one behind the other."""
    torch.manual_seed(0)
    weighted = mode == "weighted"
    bag = nn.EmbeddingBag(5, 4, mode="sum" if weighted else mode, padding_idx=padding, include_last_offset=last)
    model = nn.Sequential(bag, nn.Tanh(), nn.Linear(4, 3)).double()
    words, ends = torch.arange(sum(sizes)) * 3 % 5, torch.tensor([0, *sizes]).cumsum(0)
    inputs = (words, ends if last else ends[:-1], torch.linspace(1, 2, len(words)).double() if weighted else None)
    losses = lambda: F.cross_entropy(model[1:](bag(*inputs)), torch.arange(len(sizes)) % 3, reduction="none")  # noqa: E731
    assert_silent(model, losses, m, audit=False)
