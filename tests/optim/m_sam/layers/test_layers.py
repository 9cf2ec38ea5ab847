"""Every kind of layer, and parameters used more than once or in ways of one's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lowland.models import Transformer, preact_resnet
from lowland.optim import ascent
from lowland.optim.m_sam import gradients

from ..against_the_loop import assert_exact, entropy
from ..networks import N, Net, rand

M = (1, 3, 7)


@pytest.fixture(params=["pairwise", "built", "chosen"])
def way(request, monkeypatch):
    if request.param != "chosen":
        monkeypatch.setattr(gradients.Factors, "pays", lambda *_: request.param == "pairwise")


def check(model, x, m, **options):
    return assert_exact(model, lambda: model(x), m, **options)


CONVOLUTIONS = {
    "1-D": (nn.Conv1d(3, 4, 3), (9,)),
    "2-D": (nn.Conv2d(3, 4, 3, padding=1), (5, 6)),
    "strided, dilated": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(1, 0)), (7, 6)),
    "grouped": (nn.Conv2d(3, 6, 3, groups=3, padding=1), (4, 4)),
    "1x1": (nn.Conv2d(3, 4, 1), (4, 3)),
    "1x1 strided": (nn.Conv2d(3, 4, 1, stride=2, bias=False), (5, 4)),
    "same": (nn.Conv2d(3, 4, (4, 3), padding="same"), (5, 4)),
    "same 1-D": (nn.Conv1d(3, 4, 4, padding="same", dilation=3), (9,)),
    "circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (4, 4)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, 2, 1, 1, groups=1), (4, 3)),
    "3-D": (nn.Conv3d(3, 4, 2), (3, 3, 3)),
}


@pytest.mark.parametrize("m", M)
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.usefixtures("way")
def test_convolutions(name, m):
    torch.manual_seed(0)
    layer, size = CONVOLUTIONS[name]
    after = type(layer)(layer.out_channels, 3, 1)
    check(Net(layer, nn.ReLU(inplace=True), after), rand(N, 3, *size), m, l2=0.1 if m == 3 else 0.0)


NORMALIZATIONS = {
    "layer": (nn.LayerNorm(4), (5, 4)),
    "layer over two": (nn.LayerNorm((5, 4)), (5, 4)),
    "layer without shift": (nn.LayerNorm(4, bias=False), (4,)),
    "rms": (nn.RMSNorm(4), (5, 4)),
    "group": (nn.GroupNorm(2, 4), (4, 3, 3)),
    "group without pixels": (nn.GroupNorm(2, 4), (4,)),
    "batch, evaluating": (nn.BatchNorm2d(4).eval(), (4, 3, 3)),
}


@pytest.mark.parametrize("m", M)
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalizations(name, m):
    layer, size = NORMALIZATIONS[name]
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(0.5, 1.5)
    check(Net(layer, nn.Tanh()), rand(N, *size), m)
    layer.weight.requires_grad_(False)
    if getattr(layer, "bias", None) is not None:
        check(Net(layer, nn.Tanh()), rand(N, *size), m)
    layer.weight.requires_grad_(True)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 5), st.integers(1, 4))
def test_positions(n, m, positions, width):
    torch.manual_seed(0)
    net = Net(nn.Linear(width, 3), nn.Tanh(), nn.Linear(3, 2))
    check(net, rand(n, positions, width), m)


@pytest.mark.parametrize("m", M)
@pytest.mark.usefixtures("way")
def test_examples_flattened_into_rows(m):
    net = Net(nn.Flatten(0, 1), nn.Linear(4, 3), nn.Tanh(), nn.Unflatten(0, (N, 5)), nn.Linear(3, 3))
    check(net, rand(N, 5, 4), m)


@pytest.mark.parametrize("rule", [None, ascent.Adaptive(biases=True)], ids=str)
@pytest.mark.parametrize("m", M)
def test_residual_network(m, rule):
    torch.manual_seed(0)
    model = preact_resnet((1, 1, 1, 1), width=4, norm="group").double()
    x, y = rand(N, 3, 8, 8), torch.arange(N)
    assert_exact(model, entropy(model, x, y), m, ascent=rule)
    assert_exact(model, entropy(model, x, y), m, ascent=rule, l2=0.01)


@pytest.mark.parametrize("n", [4, 6, 12])  # the length, half of it, none of that
@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_transformer(m, tied, n):
    torch.manual_seed(0)
    model = Transformer(9, 12, layers=2, width=8, heads=2, key_size=3).double()
    if tied:
        model.output.weight = model.embedding.weight
    x = torch.randint(9, (n, 13))
    assert_exact(model, lambda: F.cross_entropy(model(x[:, :-1]).mT, x[:, 1:], reduction="none").mean(1), m, l2=0.02)


@pytest.mark.parametrize("m", M)
def test_embedding_with_padding(m):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4, padding_idx=2), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randint(6, (N, 5))
    assert_exact(model, lambda: model(x).square().sum((1, 2)), m)


class Own(nn.Module):
    """Parameters in all kinds of ways."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(9, 4))
        self.scale, self.weight = nn.Parameter(torch.rand(4)), nn.Parameter(torch.randn(4, 4))
        self.direction, self.length = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.rand(3, 1))
        self.register_buffer("mask", torch.rand(4, 4))
        self.double()

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + self.positions[: x.shape[1]]
        x = x + self.scale * torch.tanh(x @ self.weight.t())
        x = F.linear(x, self.weight * self.mask)
        x = x + torch.einsum("nti,ij->ntj", x, self.weight)
        weight = self.length * self.direction / self.direction.norm(dim=1, keepdim=True)
        return F.linear(x, weight).square().sum((1, 2))


@pytest.mark.parametrize("n", [4, 7, 8])
@pytest.mark.parametrize("m", M)
def test_parameters_used_directly(m, n):
    model, x = Own(), rand(n, 3, 4)
    assert_exact(model, lambda: model(x), m, rho=0.1)
    assert_exact(model, lambda: model(x), m, rho=0.1, l2=0.1, scope=[model.weight, model.positions])


class Twice(nn.Module):
    def __init__(self, layer, resize):
        super().__init__()
        self.layer, self.resize = layer, resize
        self.double()

    def forward(self, x):
        y = torch.tanh(self.layer(x))
        z = self.layer(self.resize(y))
        return y.flatten(1).sum(1) + z.flatten(1).square().sum(1)


@pytest.mark.parametrize("m", M)
@pytest.mark.usefixtures("way")
def test_a_module_called_twice(m):
    torch.manual_seed(0)
    check(Twice(nn.Linear(4, 4), nn.Identity()), rand(N, 4), m)
    check(Twice(nn.Linear(4, 4), lambda y: y[:, :2]), rand(N, 3, 4), m)
    check(Twice(nn.Conv2d(2, 2, 3, padding=1), nn.MaxPool2d(2)), rand(N, 2, 4, 4), m)
    check(Twice(nn.GroupNorm(2, 4), lambda y: y[..., :2]), rand(N, 4, 3, 3), m)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.reentrant = reentrant
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(inplace=True), nn.Dropout(0.3)) for _ in range(2)
        )
        self.double()

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x.square().flatten(1).sum(1)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("m", M)
def test_activation_checkpointing(m, reentrant):
    check(Checkpointed(reentrant), rand(N, 3, 4), m)


class Odd(nn.Module):
    """Numbers as parameters, tables looked up by what isn't of the batch, states from nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.places = nn.Embedding(6, 4), torch.arange(6)
        self.temperature, self.start = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.randn(1, 4))
        self.linear, self.mask = nn.Linear(4, 4), torch.rand(4, 4) > 0.5
        self.double()

    def forward(self, x):
        x = x + self.embedding(self.places)
        state = self.linear(self.start.expand(len(x), -1)) + self.linear(x.new_zeros(4))
        state = state + self.linear(torch.zeros(len(x), 4, dtype=x.dtype))
        x = (x + state[:, None]) * self.temperature.exp()
        x = F.linear(x, torch.where(self.mask, self.linear.weight, 0.0)).tanh()
        decay = sum(p.square().sum() for p in self.parameters())
        return x.square().sum((1, 2)) + 0.1 * decay


@pytest.mark.parametrize("n", [3, 6, 7])
@pytest.mark.parametrize("m", [1, 2, 6])
def test_numbers_tables_and_states(m, n):
    model, x = Odd(), rand(n, 6, 4)
    assert_exact(model, lambda: model(x), m, rho=0.1)


class Attending(nn.Module):
    def __init__(self, batch_first, weighs, kdim=None, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.batch_first, self.weighs, self.kdim = batch_first, weighs, kdim
        self.attention = nn.MultiheadAttention(4, 2, kdim=kdim, batch_first=batch_first, bias=bias, dropout=0.2)
        self.double()

    def forward(self, x, padding):
        q = x if self.batch_first else x.transpose(0, 1)
        k = q if self.kdim is None else q[..., :3] * 2
        out, weights = self.attention(q, k, q, key_padding_mask=padding, need_weights=self.weighs)
        out = out if self.batch_first else out.transpose(0, 1)
        return out.square().sum((1, 2)) + (weights.square().sum((1, 2)) if self.weighs else 0)


@pytest.mark.parametrize("weighs", [False, True])
@pytest.mark.parametrize("options", [(True,), (False,), (True, 3), (False, None, False)], ids=str)
def test_multi_head_attention(options, weighs):
    model = Attending(options[0], weighs, *options[1:])
    x, padding = rand(N, 5, 4), torch.arange(5)[None] >= torch.randint(2, 6, (N, 1))
    for m in M:
        assert_exact(model, lambda: model(x, padding), m)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_encoder(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.1, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    x = rand(N, 5, 8)
    assert_exact(model, lambda: (model(x) * x).sum((1, 2)), 2)


@pytest.mark.parametrize("kind", ["patches", "pixels", "stride", "depthwise", "channels last inside"])
@pytest.mark.parametrize("m", M)
@pytest.mark.usefixtures("way")
def test_channels_last_with_dropout(m, kind):
    torch.manual_seed(0)
    middle = {
        "patches": [nn.Conv2d(4, 4, 3, padding=1)],
        "pixels": [nn.Conv2d(4, 6, 1), nn.GELU(), nn.Conv2d(6, 4, 1)],
        "stride": [nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 5, 2, bias=False)],
        "depthwise": [nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1)],
        "channels last inside": [LastInside(), nn.Conv2d(4, 6, 1), nn.GELU(), nn.Conv2d(6, 4, 1)],
    }[kind]
    layers = [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Dropout(0.3), *middle, nn.Dropout(0.3)]
    net, x = Net(*layers), rand(N, 3, 6, 5)
    if kind != "channels last inside":
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    check(net, x, m)


class LastInside(nn.Module):
    def forward(self, x):
        """The same numbers, with channels last in memory, as ConvNeXt's layer norms leave them."""
        return (2 * x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)
