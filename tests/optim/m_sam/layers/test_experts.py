"""Products of rows with the matrix of their expert, and transformers' layers that are made of them."""

import warnings
from functools import wraps

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.optim import ascent
from lowland.optim.m_sam import expert_linear, gradients

from ..against_the_definition import assert_by_the_loop, assert_silent, by_definition, check, optimizer_of
from ..against_the_loop import assert_exact, relative_error
from ..networks import rand

B, T, WIDTH, EXPERTS = 5, 3, 4, 3
X, Y = rand(B, T, WIDTH), torch.arange(B) % 3


@pytest.fixture(params=["pairwise", "built", "chosen"])
def way(request, monkeypatch):
    if request.param != "chosen":
        monkeypatch.setattr(gradients.Factors, "pays", lambda *_: request.param == "pairwise")


class Mixture(nn.Module):
    """Each position goes to the best two of three experts, plus ``beyond``, which may be no expert's number."""

    def __init__(self, leaning=(0.0, 0.0, 0.0), beyond=0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.router, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)
        self.up = nn.Parameter(torch.randn(EXPERTS, 6, WIDTH) / 2)
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, 6) / 2)
        with torch.no_grad():
            self.router.bias += torch.tensor(leaning)
        self.beyond, self.chosen = beyond, []
        self.double()

    def forward(self, x):
        hidden = self.first(x).tanh()
        scores, experts = self.router(hidden).softmax(-1).topk(2, -1)
        experts = experts + self.beyond
        self.chosen.append(experts.detach().clone())
        rows = hidden.unsqueeze(-2).expand(*experts.shape, WIDTH)
        out = expert_linear(F.silu(expert_linear(rows, experts, self.up)), experts, self.down)
        return self.last((out * scores.unsqueeze(-1)).sum(-2).sin().mean(1) + hidden.mean(1))


def entropy(model, x):
    return lambda: F.cross_entropy(model(x), Y[: len(x)], reduction="none")


def test_the_product_itself():
    x, weight = rand(2, 3, WIDTH), rand(EXPERTS, 6, WIDTH)
    experts = torch.tensor([[0, 2, 3], [2, -1, 0]])
    expected = torch.einsum("ijk,ijok->ijo", x, weight[experts % EXPERTS])
    expected[0, 2] = expected[1, 1] = 0
    torch.testing.assert_close(expert_linear(x, experts, weight), expected)
    with pytest.raises(ValueError, match="number of experts, outputs, inputs"):
        expert_linear(x, experts[0], weight)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("audit", [True, False])
@pytest.mark.parametrize("m", [1, 2, 3, B])
def test_a_mixture(m, audit):
    model = Mixture()
    assert_silent(model, entropy(model, X), m, audit=audit)


OPTIONS = {
    "l2": {"l2": 0.1},
    "adaptive": {"ascent": ascent.Adaptive()},
    "parts": {"memory_limit": 2_000},
    "norms": {"perturbed_norms": True},
}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("options", OPTIONS)
def test_a_mixture_with(options):
    model = Mixture()
    assert_exact(model, entropy(model, X), 2, **OPTIONS[options])


@pytest.mark.usefixtures("way")
def test_norms_at_the_perturbed_weights():
    """Of one group each: the definition's own."""
    model, found = Mixture(), []
    for m, rows in ((1, B), (1, 1)):
        optimizer = optimizer_of(model, m, perturbed_norms=True, audit=False)
        optimizer.backward(entropy(model, X[:rows]))
        found.append(optimizer.last.perturbed_gradient_norms)
    torch.testing.assert_close(found[0][:1], found[1])


@settings(max_examples=40, deadline=None)
@given(
    leaning=st.tuples(*[st.sampled_from([-20.0, -1.0, 0.0, 1.0, 20.0])] * 3),
    beyond=st.sampled_from([-1, 0, 1, 3]),
    examples=st.integers(2, B),
    m=st.integers(1, B),
    built=st.booleans(),
)
def test_any_routing(leaning, beyond, examples, m, built):
    """Experts without rows, all rows to two, rows that go to none."""
    model = Mixture(leaning, beyond)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gradients.Factors, "pays", lambda *_: not built)
        assert_silent(model, entropy(model, X[:examples]), m, audit=False)


@pytest.mark.usefixtures("way")
def test_routed_otherwise_at_the_perturbed_weights_and_in_later_batches():
    model = Mixture()
    optimizer = optimizer_of(model, 1, audit=False)
    for number in range(4):
        x = torch.randn(B, T, WIDTH, generator=torch.Generator().manual_seed(number)).double()
        assert not check(model, optimizer, entropy(model, x), 1)
        assert optimizer.last is not None
    first, second = model.chosen[1:3]  # after one evaluation that counts the losses
    assert not torch.equal(first, second)


def test_numbers_that_lie_otherwise_go_by_the_loop():
    """Here those of the experts are time first."""
    torch.manual_seed(0)
    router, weight = nn.Linear(WIDTH, EXPERTS).double(), nn.Parameter(rand(EXPERTS, 3, WIDTH))
    model = nn.ParameterList([*router.parameters(), weight])
    x = rand(B, B, WIDTH)

    def losses():
        experts = router(x).argmax(-1).mT
        return expert_linear(x, experts, weight).sin().sum((1, 2)) + router(x).sum((1, 2))

    assert_by_the_loop(model, losses, 2, audit=False)


@pytest.mark.usefixtures("way")
def test_matrices_that_are_used_twice():
    """By the product again, and by a term of their own."""
    model = Mixture()

    def losses():
        again = expert_linear(X[:, 0], model.router(X[:, 0]).argmax(-1), model.up)
        return entropy(model, X)() + again.square().mean(1) + (X[:, 1] @ model.up.mean(0).mT).sin().sum(1)

    assert_silent(model, losses, 2, audit=False)


def test_matrices_that_are_computed_go_by_the_loop():
    model = Mixture()
    experts = torch.arange(B) % EXPERTS
    assert_by_the_loop(model, lambda: expert_linear(X[:, 0], experts, model.up.sin()).sin().sum(1), 2, audit=False)


def test_rows_that_data_picks_go_by_the_loop():
    torch.manual_seed(0)
    index, weight = torch.tensor([3, 0, 0, 4]), nn.Parameter(rand(EXPERTS, 3, WIDTH))
    first, router = nn.Linear(WIDTH, WIDTH).double(), nn.Linear(WIDTH, EXPERTS).double()

    def losses():
        rows = first(X[:, 0]).tanh()[index]
        found = expert_linear(rows, router(rows).argmax(-1), weight)
        return torch.zeros(B, 3, dtype=X.dtype).index_add(0, index, found).sin().sum(1)

    model = nn.ParameterList([*first.parameters(), *router.parameters(), weight])
    assert_by_the_loop(model, losses, 2, audit=False)


def grouped_mm(x, weight, offs):
    """Torch's own has no float64. Rows past the last expert's are whatever they are."""
    out, start = torch.full((len(x), weight.shape[2]), torch.nan, dtype=x.dtype), 0
    for w, end in zip(weight, offs.tolist(), strict=True):
        out = torch.cat([out[:start], x[start:end] @ w, out[end:]])
        start = end
    return out


class OfTransformers(nn.Module):
    """Mixtral's own router and experts, ``changed`` by a function."""

    #: Of the experts alone.
    autocast = False

    def __init__(self, way, leaning=(0.0, 0.0, 0.0), changed=lambda experts: None):
        super().__init__()
        mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
        sizes = {"hidden_size": WIDTH, "intermediate_size": 8, "num_local_experts": 3, "num_experts_per_tok": 2}
        config = mixtral.MixtralConfig(**sizes)
        config._experts_implementation = way
        torch.manual_seed(0)
        self.first, self.last, self.leaning = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3), torch.tensor(leaning)
        self.router, self.experts = mixtral.MixtralTopKRouter(config), mixtral.MixtralExperts(config)
        for p in (self.router.weight, *self.experts.parameters()):
            nn.init.normal_(p, std=0.5)
        changed(self.experts)
        self.double()

    def forward(self, x):
        rows = self.first(x).tanh().flatten(0, 1)
        scores, experts = (F.linear(rows, self.router.weight) + self.leaning).softmax(-1).topk(2, -1)
        with torch.autocast("cpu", enabled=self.autocast):
            found = self.experts(rows, experts, scores)
        return self.last(found.view_as(x).sin().mean(1) + rows.view_as(x).mean(1))


WAYS = ("eager", "grouped_mm", "batched_mm")


@pytest.fixture
def in_float64(monkeypatch):
    monkeypatch.setattr(F, "grouped_mm", grouped_mm)


@pytest.mark.parametrize("audit", [True, False])
@pytest.mark.parametrize("m", [1, 2, B])
@pytest.mark.parametrize("experts", WAYS)
@pytest.mark.usefixtures("in_float64")
def test_experts_of_transformers(experts, m, audit):
    model = OfTransformers(experts)
    assert_silent(model, entropy(model, X), m, audit=audit)


#: Numbers that are summed up one after the other on the longest way through the network and back, and their products.
TERMS = 2 * (4 * WIDTH + 2 * 8 + 2 * T + B) * 2


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("m", [1, 2])
def test_the_default_of_transformers_as_it_is(m, autocast):
    """By torch's own grouped product: in float32, under autocast, too."""
    model, x = OfTransformers("grouped_mm").float(), X.float()
    optimizer, losses = optimizer_of(model, m, audit=False), entropy(model, x)
    model.autocast = autocast

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="m-SAM")
        optimizer.backward(losses)
    ours = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert optimizer.last is not None
    expected = by_definition(model, losses, m)
    assert relative_error(ours, expected) < TERMS * torch.finfo(torch.float32).eps / 2


@settings(max_examples=40, deadline=None)
@given(
    experts=st.sampled_from(WAYS),
    leaning=st.tuples(*[st.sampled_from([-20.0, -1.0, 0.0, 1.0, 20.0])] * 3),
    examples=st.integers(2, B),
    m=st.integers(1, B),
)
def test_any_routing_of_transformers(experts, leaning, examples, m):
    model = OfTransformers(experts, leaning)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(F, "grouped_mm", grouped_mm)
        assert_silent(model, entropy(model, X[:examples]), m, audit=False)


def frozen(layer):
    for p in layer.parameters():
        p.requires_grad_(False)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("experts", WAYS)
@pytest.mark.usefixtures("in_float64")
def test_frozen_experts_of_transformers(experts, m):
    model = OfTransformers(experts, changed=frozen)
    assert_silent(model, entropy(model, X), m, audit=False)


def by_whether_one_is_called(layer):
    """A forward around theirs, which nobody has read."""
    known = type(layer)

    class Around(known):
        @wraps(known.forward)
        def forward(self, rows, experts, scores):
            return known.forward(self, rows, experts, scores) * (1 + len(experts.eq(0).any()[None].nonzero()))

    layer.__class__ = Around


def with_a_gate_of_its_own(layer):
    layer._apply_gate = lambda rows: rows.chunk(2, -1)[0] * (rows.softmax(0)).chunk(2, -1)[1]


def with_dropout(layer):
    layer.act_fn = nn.Dropout(0.3)


OTHERWISE = {"whether one is called": by_whether_one_is_called, "gate": with_a_gate_of_its_own, "dropout": with_dropout}


@pytest.mark.parametrize("experts", ["grouped_mm", "eager"])
@pytest.mark.parametrize("what", OTHERWISE)
@pytest.mark.usefixtures("in_float64")
def test_experts_that_are_changed_go_by_the_loop(what, experts):
    model = OfTransformers(experts, changed=OTHERWISE[what])

    def losses():
        torch.manual_seed(0)
        return entropy(model, X)()

    if (what, experts) == ("gate", "eager"):  # which has no use for it
        assert_silent(model, losses, 1, audit=False)
    else:
        assert_by_the_loop(model, losses, 1, audit=False)
