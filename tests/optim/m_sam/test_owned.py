"""Rows that are owned as data says: experts, graphs, rows picked by an index. Exact, or by the loop; never wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from lowland.optim.m_sam import routing

from .against_the_definition import assert_by_the_loop, assert_silent, check, optimizer_of
from .networks import rand

B, T, WIDTH = 5, 4, 4
Y = torch.arange(B) % 3


class Experts(nn.Module):
    """Positions go to experts whose score is above a threshold; ``between`` is what happens to an expert's rows."""

    def __init__(self, leaning=(0.0, 0.0, 0.0), threshold=0.3, between=lambda rows: rows):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.router, self.norm = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3), nn.LayerNorm(WIDTH)
        layers = ((nn.Linear(WIDTH, 6), nn.LayerNorm(6), nn.SiLU(), nn.Linear(6, WIDTH)) for _ in range(3))
        self.experts = nn.ModuleList(nn.Sequential(*own) for own in layers)
        self.gain, self.last = nn.Parameter(torch.rand(WIDTH)), nn.Linear(WIDTH, 3)
        with torch.no_grad():
            self.router.bias += torch.tensor(leaning)
        self.threshold, self.between, self.sizes = threshold, between, []
        self.double()

    def forward(self, x):
        hidden = self.first(x).tanh()
        rows = hidden.flatten(0, 1)
        scores = self.router(rows).softmax(-1)
        out, sizes = torch.zeros_like(rows), []
        for i, expert in enumerate(self.experts):
            (at,) = torch.where(scores[:, i] > self.threshold)
            sizes.append(at.detach().clone())
            out = out.index_add(0, at, self.between(expert(rows[at]) * self.gain * scores[at, i, None]))
        self.sizes.append(sizes)
        return self.last(self.norm(rows + out).view_as(hidden).mean(1))


@routing
class Routed(Experts):
    """The same, vouched for."""


def entropy(model, x):
    return lambda: F.cross_entropy(model(x), Y[: len(x)], reduction="none")


X = rand(B, T, WIDTH)


@pytest.mark.parametrize("audit", [True, False])
@pytest.mark.parametrize("m", [1, 2, 3, B])
def test_a_routed_layer(m, audit):
    model = Routed()
    assert_silent(model, entropy(model, X), m, audit=audit)


@settings(max_examples=40, deadline=None)
@given(
    leaning=st.tuples(*[st.sampled_from([-20.0, -1.0, 0.0, 1.0, 20.0])] * 3),
    threshold=st.sampled_from([0.0, 0.2, 0.35, 0.6, 2.0]),
    examples=st.integers(2, B),
    m=st.integers(1, B),
)
def test_any_routing(leaning, threshold, examples, m):
    """Experts without rows, all rows to one, examples without rows."""
    model = Routed(leaning, threshold)
    assert_silent(model, entropy(model, X[:examples]), m, audit=False)


def test_routed_otherwise_at_the_perturbed_weights():
    model = Routed()
    optimizer = optimizer_of(model, 1, audit=False)
    for group in optimizer.param_groups:
        group["rho"] = 0.1
    assert not check(model, optimizer, entropy(model, X), 1)
    first, second = model.sizes[1:3]  # after one evaluation that counts the losses
    assert any(len(a) != len(b) for a, b in zip(first, second, strict=True))


def test_each_batch_has_its_own_owners():
    model = Routed()
    optimizer = optimizer_of(model, 2, audit=False)
    for number in range(4):
        x = torch.randn(B, T, WIDTH, generator=torch.Generator().manual_seed(number)).double()
        assert not check(model, optimizer, entropy(model, x), 2)
        assert optimizer.last is not None


def test_what_is_not_defined_at_zero_where_an_expert_has_no_rows():
    model = Routed((-20.0, 1.0, 1.0), between=lambda rows: model.gain / (rows + 2))
    assert_silent(model, entropy(model, X), 1, audit=False)


def whether_it_fits(function):
    """Reads how many rows there are by an error, which the whole batch always has, and single examples not."""

    def between(rows):
        try:
            function(rows)
        except RuntimeError:
            return rows
        return rows * 2

    return between


#: Who vouches for a layer says that it does none of these.
READ = {
    "their number": lambda rows: rows * (1 + len(rows)),
    "their number, of none": lambda rows: rows if len(rows) == 0 else rows * 2,
    "whether it is one": lambda rows: rows * (1 + rows.T.is_contiguous()),
    "their shape": lambda rows: rows / rows.shape[0],
}
NOT_BY_ROW = {
    "whether a sum fits": whether_it_fits(lambda rows: rows + torch.ones(3, WIDTH).double()),
    "whether a product fits": whether_it_fits(lambda rows: torch.ones(2, 3).double() @ rows),
    "whether an einsum fits": whether_it_fits(
        lambda rows: torch.einsum("ij,ij->j", rows, torch.ones(3, WIDTH).double())
    ),
    "whether they fit in a list": whether_it_fits(lambda rows: torch.cat([rows, torch.ones(3, 2).double()], 1)),
    "their number, lent": lambda rows: rows * rows.new_ones(1, WIDTH).expand_as(rows).sum(0),
    "their number, lent by a function": lambda rows: rows * torch.broadcast_tensors(rows, rows.new_ones(1))[1].sum(0),
    "their number, lent by a grid": lambda rows: rows * torch.meshgrid(rows[:, 0], X[0, 0], indexing="ij")[1].sum(0),
    "the first ones": lambda rows: rows[:50],
    "in parts": lambda rows: rows * (1 + len(rows.unsafe_split(1))),
    "one of them": lambda rows: rows * (1 + rows[:1]),
    "their mean": lambda rows: rows - rows.mean(0),
    "their order": lambda rows: rows.cumsum(0),
    "turned": lambda rows: rows.flip(0),
    "rolled": lambda rows: rows.roll(1, 0),
    "a softmax over them": lambda rows: rows * rows.softmax(0),
    "products of them": lambda rows: (rows @ rows.T).softmax(-1) @ rows,
    "dropout": lambda rows: F.dropout(rows, 0.3),
    "noise": lambda rows: rows + torch.randn_like(rows),
    "batch norm": lambda rows: F.batch_norm(rows, None, None, training=True),
    "read": lambda rows: rows * (2 if rows.sum().item() > 0 else 1),
    "in a list": lambda rows: torch.stack(list(rows)) if rows.ndim and list(rows) else rows,
}


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("what", NOT_BY_ROW)
def test_what_depends_on_the_other_rows_goes_by_the_loop(what, m):
    """Whoever vouches."""
    model = Routed(between=NOT_BY_ROW[what])

    def losses():
        torch.manual_seed(0)
        return entropy(model, X)()

    assert_by_the_loop(model, losses, m, audit=False)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("between", [lambda rows: rows, *READ.values()])
def test_what_nobody_vouches_for_goes_by_the_loop(between, m):
    model = Experts(between=between)
    assert_by_the_loop(model, entropy(model, X), m, audit=False)


@routing
class Router(nn.Module):
    """An example is routed at the weights of the other one, and at no others."""

    def __init__(self, base, put, other=1):
        super().__init__()
        torch.manual_seed(0)
        self.router, self.layer, self.put = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, WIDTH), put
        self.base, self.sign = (torch.tensor(t).double().roll(other + 1) for t in ([base, -0.03], [20.0, -20.0]))
        self.double()
        for p in self.router.parameters():
            nn.init.zeros_(p)

    def forward(self, x):
        score = self.router(x)[:, 0]
        (at,) = torch.where(score + self.base > 0)
        return (self.put(self.layer(x).tanh(), at).sum(1) + score * self.sign)[:, None]


FEW = {
    "a sum over one": (1.0, lambda x, at: x.index_add(0, at, x[at] * x[at][None].sum(1))),
    "one by itself": (1.0, lambda x, at: x.index_add(0, at, x[at] * (x[at, :1] + x[at, :1].T).sum(1, keepdim=True))),
    "the first of one": (1.0, lambda x, at: x.index_add(0, at, x[at] + x[at][torch.arange(1)]), 0),
    "joined, none": (-1.0, lambda x, at: torch.cat([x[at], x])[:2] * torch.arange(1, 3)[:, None]),
    "joined, none to none": (-1.0, lambda x, at: x.index_add(0, torch.cat([at, at]), torch.cat([x[at], x[at]]))),
}


@pytest.mark.parametrize("what", FEW)
def test_few_rows_that_are_more_at_other_weights_go_by_the_loop(what):
    model, x = Router(*FEW[what]), rand(2, WIDTH)
    assert_by_the_loop(model, lambda: model(x).sum(1), 1, audit=False)


@routing
class Elsewhere(nn.Module):
    """Rows that are put to the rows of another example, where the parameters say so or always."""

    def __init__(self, index):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.index = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3), index
        self.double()

    def forward(self, x):
        rows = self.first(x).tanh().flatten(0, 1)
        (at,) = torch.where(rows[:, 0] > 0)
        source, target = self.index(at, rows)
        put = torch.zeros(len(rows), 3, dtype=rows.dtype).index_add(0, target, self.second(rows[source]))
        return put.view(len(x), -1, 3).sum(1)


ELSEWHERE = {
    "of another example": lambda at, rows: (at, (at + T) % len(rows)),
    "of another example, at times": lambda at, rows: (at, (at + 1) % len(rows)),
    "the same, by arithmetic": lambda at, rows: (at, at + 0),
    "from another example": lambda at, rows: ((at + 1) % len(rows), at),
    "always of another": lambda at, rows: (torch.arange(len(rows)), torch.arange(len(rows)).roll(T)),
    "always mixed": lambda at, rows: (torch.arange(len(rows)), torch.arange(len(rows)).roll(1)),
    "picked twice": lambda at, rows: (at, torch.where(rows[:, 0] > 0)[0]),
}


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("where", ELSEWHERE)
def test_rows_of_another_example_go_by_the_loop(where, m):
    model = Elsewhere(ELSEWHERE[where])
    assert_by_the_loop(model, entropy(model, X), m, audit=False)


PUT = {
    "picked": lambda rows, at: rows[at],
    "selected": lambda rows, at: rows.index_select(0, at),
    "put": lambda rows, at: torch.zeros_like(rows).index_add(0, at, rows),
}


@pytest.mark.parametrize("how", PUT)
def test_an_index_that_is_another_at_the_perturbed_weights_goes_by_the_loop(how):
    """At w each example picks itself."""
    torch.manual_seed(0)
    layer, router = nn.Linear(WIDTH, 3).double(), nn.Linear(WIDTH, 1).double()
    model, x, picks = nn.ModuleList([layer, router]), X[:, 0], []
    for p in router.parameters():
        nn.init.zeros_(p)

    def losses():
        score = router(x)[:, 0]
        at = (torch.arange(B) + (score > 0.01).long()) % B
        picks.append(at.detach().clone())
        return PUT[how](layer(x).tanh(), at).sum(1) + score

    assert_by_the_loop(model, losses, 1, audit=False)
    assert torch.equal(picks[0], torch.arange(B))
    assert any(not torch.equal(at, picks[0]) for at in picks)


@routing
class Vouched(Experts):
    """Leaves out an expert without rows; the experts that there are come from a sum over all positions."""

    def forward(self, x):
        hidden = self.first(x).tanh()
        rows = hidden.flatten(0, 1)
        scores = self.router(rows).softmax(-1)
        chosen, out = scores > self.threshold, torch.zeros_like(rows)
        for i in chosen.sum(0).nonzero()[:, 0]:
            (at,) = torch.where(chosen[:, i])
            if len(at):
                out.index_add_(0, at, self.experts[int(i)](rows[at]) * scores[at, i, None])
        return self.last(self.norm(rows + out).view_as(hidden).mean(1))


class NotVouched(Vouched):
    """The same, for which nobody vouches."""


@pytest.mark.parametrize("m", [1, 2, B])
@pytest.mark.parametrize("leaning", [(0.0, 0.0, 0.0), (-20.0, 1.0, 1.0)])
def test_reads_that_are_vouched_for(leaning, m):
    model = Vouched(leaning)
    assert_silent(model, entropy(model, X), m)
    if m < B:
        model = NotVouched(leaning)
        assert_by_the_loop(model, entropy(model, X), m)


class Picked(nn.Module):
    """Rows in an order that data says, through layers of all kinds, and back."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 6), nn.Linear(3, 3)
        self.norm, self.scale = nn.LayerNorm(6), nn.Parameter(torch.rand(6))
        self.weight = nn.Parameter(torch.rand(6, 3))
        self.double()

    def forward(self, x, index, target):
        rows = self.norm(self.second(self.first(x).tanh()[index])) * self.scale
        return self.third(torch.zeros(len(x), 3, dtype=x.dtype).index_add(0, target, (rows @ self.weight).sin()))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), m=st.integers(1, B), wrong=st.booleans())
def test_rows_that_data_picks(data, m, wrong):
    index = torch.tensor(data.draw(st.lists(st.integers(0, B - 1), min_size=1, max_size=9)))
    target = index.clone()
    if wrong:
        target[data.draw(st.integers(0, len(index) - 1))] += 1
        target %= B
    model, x = Picked(), rand(B, WIDTH)
    optimizer = optimizer_of(model, m, audit=False)
    said = check(model, optimizer, lambda: F.cross_entropy(model(x, index, target), Y, reduction="none"), m)
    assert (wrong and m < B) or not said
    if wrong and m < B:
        assert optimizer.last is None


@pytest.mark.parametrize("audit", [True, False])
def test_what_parameters_alone_give_put_to_rows_goes_by_the_loop(audit):
    torch.manual_seed(0)
    layer, x, index = nn.Linear(WIDTH, WIDTH).double(), rand(2 * B, WIDTH), torch.tensor([7, 1, 3])

    def losses():
        return x.index_add(0, index, layer(x[index])).unflatten(0, (B, 2)).flatten(1).sin().sum(1)

    assert_by_the_loop(layer, losses, 2, audit=audit)


class Reading(nn.Module):
    """At w each example reads its own rows, and at each group's own weights those that follow."""

    def __init__(self, read, steps):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gate, self.layer = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 1), nn.GRU(WIDTH, WIDTH)
        self.read, self.steps = read, steps
        self.double()
        for p in self.gate.parameters():
            nn.init.zeros_(p)

    def forward(self, x):
        score, rows = self.gate(x)[:, 0], self.first(x).tanh().view(-1, WIDTH)  # two of each example
        index = (2 * torch.arange(len(x)) + self.steps * (score > 0.01).long()) % len(rows)
        return self.read(self, rows, index).flatten(1).sum(1) + 20 * score


def unpacked(model, rows, index):
    """The last states of a recurrent layer, whose order depends on the parameters."""
    order = torch.arange(len(rows) // 2)
    return model.layer(PackedSequence(rows[::2], torch.tensor([len(order)]), order, index // 2))[1][0]


READ_BY = {
    "index": lambda model, rows, index: rows[index],
    "index_select": lambda model, rows, index: rows.index_select(0, index),
    "two rows": lambda model, rows, index: rows[(index[:, None] + torch.arange(2)) % len(rows)],
    "entries": lambda model, rows, index: rows.flatten()[index[:, None] * WIDTH],
    "columns": lambda model, rows, index: rows.T[:, index].T,
    "a layer": lambda model, rows, index: model.gate(rows[index]).sin(),
    "packed": unpacked,
}


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("way", READ_BY)
def test_rows_in_order_at_w_alone_go_by_the_loop(way, m):
    model = Reading(READ_BY[way], 2)
    assert_by_the_loop(model, lambda: model(X[:, 0]), m, audit=False)


@pytest.mark.parametrize("way", ["index", "index_select", "columns", "a layer"])
def test_other_rows_of_the_same_example_at_other_weights(way):
    model = Reading(READ_BY[way], 1)
    assert_silent(model, lambda: model(X[:, 0]), 1, audit=False)
