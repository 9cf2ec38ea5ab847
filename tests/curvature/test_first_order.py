"""A gradient that isn't the loss's is found, whatever hides it, and no ordinary model is suspected."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lowland.curvature import Hessian, Monitor, stability
from lowland.curvature.first_order import cut_off

TYPES = [torch.float64, torch.float32, torch.bfloat16]


def data(dtype, *shape):
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(5, (12,), generator=generator)
    return torch.randn(12, *shape, generator=generator, dtype=torch.float64).to(dtype), y


class Hidden(nn.Module):
    """A perceptron, and ways to hide from differentiation how the loss depends on a parameter."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.first, self.last, self.predict = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 5)
        self.p, self.zero = nn.Parameter(torch.full((3,), 0.3)), nn.Parameter(torch.zeros(2))
        self.codes = nn.Parameter(torch.randn(7, 6))

    def forward(self, x):
        return getattr(self, self.way)(x)

    def plain(self, x):
        return self.last(self.first(x).tanh())

    def detach(self, x):
        return self.plain(x) * (1 + self.p.detach().square().sum())

    def detach_in_a_minimum(self, x):  # where its derivative is 0
        return self.plain(x) * (1 + self.zero.detach().square().sum())

    def values(self, x):
        return self.plain(x) + self.p.data.sum() * self.p.sum() * x[:, :5]

    def no_grad(self, x):
        with torch.no_grad():
            factor = self.p.exp().sum()
        return self.plain(x) * factor

    def item(self, x):
        return self.plain(x) * (1 + self.p.sum().item() ** 2)

    def anew(self, x):
        return self.plain(x) * (1 + torch.tensor([self.p.detach().sum()]) ** 2)

    def reversed(self, x):
        hidden = self.first(x).tanh()
        return self.last(2 * hidden.detach() - hidden)

    def rounded(self, x):
        hidden = self.first(x).tanh()
        return self.last(hidden + ((hidden * 4).round() / 4 - hidden).detach())

    def binary(self, x):
        w = self.first.weight
        return self.last(F.linear(x, w + (w.sign() * w.abs().mean() - w).detach(), self.first.bias).tanh())

    def gumbel(self, x):
        return F.gumbel_softmax(self.plain(x), hard=True)

    def quantized(self, x):  # VQ-VAE's
        hidden = self.first(x)
        code = self.codes[torch.cdist(hidden, self.codes).argmin(1)]
        return self.last(hidden + (code - hidden).detach()) + F.mse_loss(code, hidden.detach())


WAYS = [name for name, value in vars(Hidden).items() if name not in ("forward", "plain") and not name.startswith("_")]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_hidden_is_found(way, dtype):
    model, batch = Hidden(way).to(dtype), data(dtype, 8)
    found = cut_off(Hessian(model, F.cross_entropy, [batch]).objective)
    assert "isn't that of the loss" in found
    assert ("(p: no gradient at all)" in found) == (way in ("detach", "no_grad", "item", "anew"))


def test_a_stop_gradient_between_two_views():
    """SimSiam; and the same with nothing stopped, or with a target that was computed beforehand."""
    x, y = data(torch.float32, 8)[0], data(torch.float32, 9)[0][:, 1:]
    model = Hidden("plain")

    def similarity(output, target):
        return -F.cosine_similarity(model.predict(output), target).mean()

    stopped = Hessian(model, lambda output, y: similarity(output, model(y).detach()), [(x, y)])
    with pytest.warns(UserWarning, match=r"not certified: the gradient isn't that of the loss.*BYOL, SimSiam"):
        pairs = stopped.eigenpairs(tol=1e-2)
    assert not pairs.converged
    for loss_fn, target in (
        (lambda output, y: similarity(output, model(y)), y),
        (similarity, model(y).detach()),
    ):
        assert not cut_off(Hessian(model, loss_fn, [(x, target)]).objective)


def test_small_parts_are_found():
    model, (x, y) = Hidden("plain"), data(torch.float32, 8)

    def decayed(output, y):
        return F.cross_entropy(output, y) + 1e-4 * sum(p.detach().square().sum() for p in model.parameters())

    assert "isn't that of the loss" in cut_off(Hessian(model, decayed, [(x, y)]).objective)


def cubed():
    """Scaled by the cube of a detached number: it was certified, 0.054 off with a bound of 0.0012."""
    torch.manual_seed(0)
    model = Hidden("plain").double()
    return model, (lambda output, y: F.cross_entropy(output * model.p.detach().sum() ** 3, y)), [data(torch.float64, 8)]


def test_nothing_certifies_it():
    model, loss_fn, batches = cubed()
    hessian = Hessian(model, loss_fn, batches)
    with pytest.warns(UserWarning, match="not certified: the gradient isn't that of the loss"):
        pairs = hessian.eigenpairs(tol=1e-4)
    assert not pairs.converged
    with pytest.warns(UserWarning, match="H @ v is wrong: the gradient isn't that of the loss"):
        Hessian(model, loss_fn, batches) @ torch.ones(hessian.shape[0], dtype=torch.float64)
    with pytest.warns(UserWarning, match="not certified: the gradient isn't that of the loss"):
        assert not stability(model, loss_fn, batches, lr=0.1, rho=0.05).converged
    monitor = Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model, loss_fn, batches, every=1, max_overhead=None)
    with pytest.warns(UserWarning, match="not certified: the gradient isn't that of the loss"):
        monitor.step()
    monitor.step()
    assert [record["converged"] for record in monitor.records] == [False, False]


# No false suspicion


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.last(self.layer(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True), nn.Linear(8, 5)

    def forward(self, x):
        return self.last(checkpoint(self.layer, x, use_reentrant=False).mean(1))


class Experts(nn.Module):
    """The best two of four, and a term that balances them by counts."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 4), nn.ModuleList(nn.Linear(8, 5) for _ in range(4))

    def forward(self, x):
        shares, chosen = self.gate(x).softmax(1).topk(2, 1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return (outputs.gather(1, chosen[..., None].expand(-1, -1, 5)) * shares[..., None]).sum(1)


class Stable(nn.Module):
    """A detached maximum that the value doesn't depend on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x):
        z = self.layer(x)
        z = z - z.amax(1, keepdim=True).detach()
        return z - z.exp().sum(1, keepdim=True).log()


class Normalized(nn.Module):
    """In float32 inside, as Llama's norm is."""

    def __init__(self, cast=torch.float32):
        super().__init__()
        self.first, self.last, self.cast = nn.Linear(8, 16), nn.Linear(16, 5), cast

    def forward(self, x):
        hidden = self.first(x)
        wide = hidden.to(self.cast)
        return self.last((wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(hidden.dtype))


class InSingle(nn.Module):
    """Doesn't run in float64."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x):
        return torch.addmm(self.layer.bias, x.float(), self.layer.weight.T)


def perceptron(activation=nn.ReLU, *more):
    return nn.Sequential(nn.Linear(8, 32), activation(), *more, nn.Linear(32, 5))


def fitted():
    model, (x, y) = perceptron(), data(torch.float32, 8)
    optimizer = torch.optim.Adam(model.parameters(), 5e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def convolutions():
    layers = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 5)
    return nn.Sequential(*layers)


def variational(output, y):
    mean, spread = output[:, :2], output[:, 2:4]
    z = mean + spread.exp() * torch.randn_like(mean)
    return z.square().mean() + (mean.square() + spread.exp() - spread).mean()


norm = nn.utils.parametrizations
ORDINARY = {
    "ReLU": (perceptron, F.cross_entropy, (8,)),
    "GELU, label smoothing": (
        lambda: perceptron(nn.GELU), lambda output, y: F.cross_entropy(output, y, label_smoothing=0.1), (8,),
    ),
    "dropout": (lambda: perceptron(nn.Hardswish, nn.Dropout(0.5)), F.cross_entropy, (8,)),
    "hinges": (perceptron, F.multi_margin_loss, (8,)),
    "absolute values": (perceptron, lambda output, y: output.abs().mean(), (8,)),
    "a minimum": (fitted, F.cross_entropy, (8,)),
    "a flat loss": (perceptron, lambda output, y: F.cross_entropy(output, y) * 1e-8, (8,)),
    "a large constant": (perceptron, lambda output, y: F.cross_entropy(output, y) + 1e5, (8,)),
    "large targets": (perceptron, lambda output, y: (output * 1e4 - 1e6).square().mean(), (8,)),
    "no dependence": (perceptron, lambda output, y: (output * 0).sum(), (8,)),
    "batch norm": (convolutions, F.cross_entropy, (2, 8, 8)),
    "an LSTM": (Recurrent, F.cross_entropy, (7, 8)),
    "attention, checkpointed": (Attention, F.cross_entropy, (7, 8)),
    "experts": (Experts, F.cross_entropy, (8,)),
    "a detached maximum": (Stable, F.nll_loss, (8,)),
    "float32 inside": (Normalized, F.cross_entropy, (8,)),
    "bfloat16 inside": (lambda: Normalized(torch.bfloat16), F.cross_entropy, (8,)),
    "float32 alone": (InSingle, F.cross_entropy, (8,)),
    "weight norm": (lambda: nn.Sequential(norm.weight_norm(nn.Linear(8, 9)), nn.Tanh(), nn.Linear(9, 5)),
                    F.cross_entropy, (8,)),
    "spectral norm": (lambda: nn.Sequential(norm.spectral_norm(nn.Linear(8, 9)), nn.Linear(9, 5)).eval(),
                      F.cross_entropy, (8,)),
    "a variational loss": (perceptron, variational, (8,)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ORDINARY)
def test_no_ordinary_model_is_suspected(name, dtype):
    torch.manual_seed(0)
    build, loss_fn, shape = ORDINARY[name]
    if name == "float32 alone" and dtype != torch.float32:
        return
    model, batch = build().to(dtype), data(dtype, *shape)
    for seed in range(3):
        with torch.no_grad():
            for p in model.parameters():  # elsewhere
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).to(dtype), alpha=0.02)
        assert not cut_off(Hessian(model, loss_fn, [batch]).objective)


@pytest.mark.parametrize("build", [Normalized, InSingle])
def test_with_types_written_in_a_large_part_is_found(build):
    model, (x, y) = build(), data(torch.float32, 8)
    for scale, found in ((0.0, False), (1.0, True)):

        def loss(output, y, scale=scale):
            hidden = sum(p.detach().square().mean() for p in model.parameters())
            return F.cross_entropy(output, y) * (1 + scale * hidden)

        assert bool(cut_off(Hessian(model, loss, [(x, y)]).objective)) is found


def test_what_it_takes():
    """One gradient and two losses, of the first batch, once for each Hessian and each monitor."""
    model, (x, y) = perceptron(), data(torch.float32, 8)
    seen = []

    def loss_fn(output, y):
        if output.dtype == torch.float64:
            seen.append(output.requires_grad)
        return F.cross_entropy(output, y)

    model[1] = nn.Tanh()  # else the other checks are in float64, too
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    hessian = Hessian(model, loss_fn, batches)
    hessian @ torch.ones(hessian.shape[0])
    hessian.eigenpairs(tol=1e-2)
    assert seen == [True, False, False]
    monitor = Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model, loss_fn, batches, every=1, tol=0.1)
    monitor.check()
    monitor.check()
    assert len(seen) == 6


def test_a_loss_that_is_not_the_same_twice_is_that():
    model, (x, y) = perceptron(), data(torch.float32, 8)
    generator = torch.Generator().manual_seed(0)

    def noisy(output, y):
        return F.cross_entropy(output + torch.randn(output.shape, generator=generator), y)

    with pytest.raises(ValueError, match="not a function of the weights"):
        Hessian(model, noisy, [(x, y)]).eigenpairs()


def test_an_embedding_that_is_padding_is_named_as_a_reason():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Linear(6, 2)).double()
    y = torch.tensor([0, 1])
    assert "padding_idx" in Hessian(model, F.cross_entropy, [(torch.tensor([[0, 1], [2, 3]]), y)]).cut_off()
    assert not Hessian(model, F.cross_entropy, [(torch.tensor([[4, 1], [2, 3]]), y)]).cut_off()


class Recorded(nn.Module):
    """½‖w‖², and where it was asked for; then with a kink on either side of the first place, which bend oppositely."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        self.places = []
        self.bend = None

    def forward(self, x):
        self.places.append(self.w.detach().clone())
        loss = 0.5 * self.w.square().sum() * x.mean()
        if self.bend is not None:
            at, ahead = self.bend
            step = ahead - at
            along = torch.dot(self.w - at, step) / step.square().sum()  # in units of the first difference's step
            kinks = torch.relu(along - 0.9) - torch.relu(-along - 0.9)
            loss = loss + 1e-2 * step.norm() * kinks
        return loss


def test_kinks_where_slopes_are_compared_are_no_objection():
    model, batches = Recorded(), [(torch.ones(1, dtype=torch.float64), None)]
    assert Hessian(model, lambda out, y: out, batches).cut_off() == ""
    before, (at, ahead, _) = len(model.places), model.places[-3:]
    model.bend = at, ahead
    assert Hessian(model, lambda out, y: out, batches).cut_off() == ""
    assert len(model.places) == 2 * before + 2  # a second difference was asked for
