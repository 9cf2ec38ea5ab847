"""Cases off the beaten track: each was wrong, or stopped training, at some time."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM, m_sam

from .against_the_definition import check, optimizer_of
from .against_the_loop import assert_exact, by_both, relative_error
from .networks import rand


def by_the_loop(model, closure, m, says):
    """That the loop is taken, for a reason, and gives what it gives alone."""
    with pytest.warns(UserWarning, match=says):
        (ours, _), (theirs, _), optimizer = by_both(model, closure, m)
    assert optimizer._own.engine.reason is not None
    assert relative_error(ours, theirs) == 0
    return optimizer


SKIPPING = {
    "stride": (nn.Conv2d(3, 4, 3, stride=2), (3, 4, 4)),
    "dilation": (nn.Conv2d(3, 4, 2, dilation=2), (3, 4, 4)),
    "1-D": (nn.Conv1d(3, 4, 3, stride=2), (3, 4)),
}


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("name", SKIPPING)
def test_a_patch_is_less_than_the_image_at_one_position(name, m, monkeypatch):
    monkeypatch.setattr(m_sam.Factors, "pays", lambda *_: True)
    layer, shape = SKIPPING[name]
    model, x = nn.Sequential(layer.double()), rand(5, *shape)
    assert_exact(model, lambda: model(x).flatten(1).tanh().sum(1), m)


@pytest.mark.parametrize("m", [1, 2])
def test_an_activation_in_place_of_rows_that_lie_otherwise(m):
    model, x = nn.Linear(8, 8).double(), rand(1, 4, 8)
    assert_exact(model, lambda: F.relu(model(x.transpose(0, 1)), inplace=True).square().sum((1, 2)), m)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d])
def test_a_convolution_of_one_pixel_that_lies_otherwise(layer, kernel, m):
    model = layer(4, 4, kernel, padding=1).double()
    x = rand(4, *model.stride, 4)
    assert_exact(model, lambda: model(x.movedim(-1, 1)).flatten(1).tanh().sum(1), m)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("m", [1, 2])
def test_layer_norm_of_what_autocast_made(m, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    x = torch.randn(6, 8)

    def closure():
        with torch.autocast("cpu", dtype):
            return model(x).float().square().sum(1)

    (ours, _), (theirs, _), _ = by_both(model, closure, m)
    assert relative_error(ours, theirs) < 0.3  # under autocast the loop is no better


def test_small_gradients_in_16_bits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    x = torch.randn(8, 64)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=2, audit=False)

    def closure():
        with torch.autocast("cpu", torch.float16):
            return 1e-6 * model(x).float().square().sum(1)

    optimizer.backward(closure)
    assert all(p.grad.isfinite().all() for p in model.parameters())


class Experts(nn.Module):
    """Each row goes to one of two layers, both with a norm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(2))

    def forward(self, x, chosen):
        y = torch.zeros_like(x)
        for i, layer in enumerate(self.layers):
            index = torch.tensor([j for j, k in enumerate(chosen) if k == i], dtype=torch.long)
            y = y.index_add(0, index, layer(x[index]))
        return y.pow(3).sum(1)


def test_rows_that_data_sends_to_different_layers_as_many_to_each_go_by_the_loop():
    model, x = Experts().double(), rand(8, 4)
    by_the_loop(model, lambda: model(x, [0, 1] * 4), 2, "index_add|depend on no input")


@pytest.mark.parametrize("chosen", [[0] * 8, [1, 1, 1, 0, 0, 1, 0, 1]])
def test_rows_that_data_sends_to_different_layers(chosen):
    model, x = Experts().double(), rand(8, 4)
    assert_exact(model, lambda: model(x, chosen), 2)


def test_a_layer_without_rows():
    model, x = Experts().double(), rand(8, 4)
    first, second = model.layers
    assert_exact(model, lambda: (first(x) + second(x[:0]).sum() + second(x)).pow(3).sum(1), 2)


def test_rows_picked_by_a_mask_go_by_the_loop():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = nn.Linear(3, 3)

        def forward(self, x, lengths):
            mask = torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None]
            rows = self.h(x[mask]).square().sum(1)
            return torch.stack([part.sum() for part in rows.split(lengths)])

    model, x = Masked().double(), rand(4, 5, 3)
    optimizer = by_the_loop(model, lambda: model(x, [3, 3, 3, 3]), 1, "one example alone")
    optimizer.zero_grad()
    optimizer.backward(lambda: model(x, [5, 3, 1, 3]))


def test_a_first_batch_of_one_group_doesnt_spare_the_others_the_audit():
    model, x = nn.Linear(4, 3).double(), rand(8, 4)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model, m=4)

    def contrast(z):
        return F.cross_entropy(model(z) @ model(z).T, torch.arange(len(z)), reduction="none")

    optimizer.backward(lambda: contrast(x[:4]))
    with pytest.raises(ValueError, match="depends on other examples"):
        optimizer.backward(lambda: contrast(x))


def test_another_size_of_batch_is_audited_too():
    class Factored(nn.Module):
        """Positions of 5 rows and 4 columns, added up."""

        def __init__(self):
            super().__init__()
            self.row, self.column = nn.Parameter(torch.randn(5, 1, 3)), nn.Parameter(torch.randn(1, 4, 3))

        def forward(self, x):
            return (x + (self.row.expand(5, 4, 3) + self.column.expand(5, 4, 3))).tanh().sum((1, 2, 3))

    torch.manual_seed(0)
    model, x = Factored().double(), rand(8, 5, 4, 3)
    assert_exact(model, lambda: model(x), 1)
    optimizer = optimizer_of(model)
    for rows in (x, x[:5]):  # with as many rows as examples
        assert not check(model, optimizer, lambda rows=rows: model(rows))


def test_a_computed_table_with_options_goes_by_the_loop():
    model = nn.Embedding(5, 4).double()
    tokens = torch.tensor([[1, 1, 2], [0, 2, 3], [1, 0, 4], [2, 2, 3]])

    def losses():
        return F.embedding(tokens, 2 * model.weight, 1, scale_grad_by_freq=True).sum(1).square().sum(1)

    by_the_loop(model, losses, 1, "it has options")


def test_another_number_of_losses_each_time_ends():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Linear(4, 4)

        def forward(self, x):
            return (x[:, None] @ self.p(torch.ones(len(x), 3, 4).double()).mT).square().flatten(1).sum(1)

    model, x = Memory().double(), rand(8, 4)
    by_the_loop(model, lambda: model(x), 1, "as many losses|group by group")


def test_uncoupled_rows_in_another_order_go_by_the_loop():
    model, x = nn.Linear(4, 4).double(), rand(6, 4)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    by_the_loop(model, lambda: model(x[order])[order.argsort()].square().sum(1), 1, "group by group")


def test_coupling_before_the_last_layer_goes_by_the_loop():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            h = self.a(x).tanh()
            return self.b(h - h.mean(0)).square().sum(1)

    model, x = Centred().double(), rand(6, 4)
    by_the_loop(model, lambda: model(x), 2, r"b.weight sees what depends on mean \(test_odd_cases.py:\d+\)")


CLOSURES = {
    "an input made in the closure": (lambda model, x: model(torch.ones(6, 4).double() * 2).square().sum(1), "no input"),
    "torch.func": (lambda model, x: torch.func.vmap(lambda z: model(z).square().sum())(x), "torch.func"),
    "a gradient penalty": (
        lambda model, x: torch.autograd.grad(model(x).tanh().sum(), x, create_graph=True)[0].square().sum(1),
        "gradients of its own",
    ),
}


@pytest.mark.parametrize("name", CLOSURES)
def test_what_closures_may_do_goes_by_the_loop(name):
    closure, says = CLOSURES[name]
    model, x = nn.Linear(4, 3).double(), rand(6, 4).requires_grad_()
    by_the_loop(model, lambda: closure(model, x), 2, says)


def test_threads_take_turns():
    x = rand(8, 4)

    def train(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=1, audit=False)
        return model, lambda: [optimizer.step(lambda: model(x).square().sum(1)) for _ in range(20)]

    def weights(model):
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    alone = []
    for seed in (1, 2):
        model, run = train(seed)
        run()
        alone.append(weights(model))
    pairs = [train(seed) for seed in (1, 2)]
    threads = [threading.Thread(target=run) for _, run in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(weights(model), expected) for (model, _), expected in zip(pairs, alone, strict=True))


class Gain(nn.Module):
    """Has a rule of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(4).double())

    def forward(self, x):
        return x * self.gain


@pytest.fixture
def gain():
    @m_sam.rule(Gain)
    class OfGain(m_sam.Rule):
        arguments = ("x", "gain")

        def pieces(self, use, activations, output_gradients, groups):
            return {"gain": m_sam.Built(groups.sums(activations * output_gradients))}

        def perturbed(self, use, watch):
            return use.x * watch.rows(use.gain, len(use.x))

    yield Gain()
    del m_sam.RULES[Gain]


def test_a_layer_with_a_rule_called_by_name(gain):
    x = rand(6, 4)
    assert_exact(gain, lambda: gain(x=x).square().sum(1), 2)


def test_a_forward_set_from_outside_stays(gain):
    model = nn.Sequential(gain)
    patched = gain.forward = lambda z: 2 * Gain.forward(gain, z)
    x = rand(6, 4)
    by_the_loop(model, lambda: model(x).square().sum(1), 2, "set from outside")
    assert gain.forward is patched


def test_attention_with_a_frozen_output():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.q = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 4)
            self.attention.out_proj.requires_grad_(False)

        def forward(self, q, k):
            return self.attention(self.q(q), k, k, need_weights=False)[0].square().sum((1, 2))

    torch.manual_seed(0)
    model, q, k = Attending().double(), rand(6, 3, 4), rand(6, 5, 4)
    assert_exact(model, lambda: model(q, k), 2)
