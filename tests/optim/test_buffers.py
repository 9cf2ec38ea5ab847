"""State of the forward pass: every evaluation of a step begins with the same, and the first one, at w, moves it."""

import warnings

import pytest
import torch
from torch import nn

import lowland
from lowland.optim import compiled_step, constants, presets
from lowland.optim.ascent import MultiStep
from lowland.optim.buffers import Buffers
from lowland.optim.constants import Constants

from . import textbook
from .training import by_passes


class Codebook(nn.Module):
    """Vector quantization whose codes are moving averages, written to behind autograd's back, as many do it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("codes", torch.linspace(-1, 1, 4)[:, None].repeat(1, 6), persistent=False)

    def forward(self, x):
        index = torch.cdist(x.detach(), self.codes).argmin(1)
        out = x + 0.5 * self.codes[index]
        for k in range(len(self.codes)):
            if (index == k).any():
                self.codes.data[k] += 0.3 * (x.detach()[index == k].mean(0) - self.codes[k])
        return out


class Queue(nn.Module):
    """The last keys, in a new tensor each time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.ones(5, 6))

    def forward(self, x):
        out = x + torch.tanh(x @ self.keys.T) @ self.keys
        self.keys = torch.cat([x.detach(), self.keys])[:5]
        return out


class Counter(nn.Module):
    """Warms up."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x):
        self.count += 1
        return x * (1 + 0.5 / self.count)


class Observer(nn.Module):
    """Learns a range, in a buffer that it resizes at the first time; None before is another."""

    def __init__(self):
        super().__init__()
        self.register_buffer("most", torch.zeros(0))
        self.register_buffer("cache", None)

    def forward(self, x):
        seen = x.detach().abs().amax(0)
        if not len(self.most):
            self.most.resize_(seen.shape).copy_(seen)
            self.cache = seen.clone()
        self.most.lerp_(seen, 0.1)
        return x / (self.most + self.cache)


def network(middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), middle(), nn.Linear(6, 3))


def parametrized():
    return nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))


def old_spectral_norm():
    return nn.utils.spectral_norm(nn.Linear(6, 6))


def in_a_row():
    return nn.Sequential(parametrized(), nn.BatchNorm1d(6), Counter())


MODELS = {
    "spectral norm": parametrized,
    "spectral norm, old": old_spectral_norm,
    "codebook": Codebook,
    "queue": Queue,
    "counter": Counter,
    "observer": Observer,
    "batch norm": lambda: nn.BatchNorm1d(6),
    "script": lambda: torch.jit.script(nn.BatchNorm1d(6)),
    "several": in_a_row,
}


class Textbook:
    """A model at given weights and with given buffers, built anew for each evaluation."""

    def __init__(self, middle, model):
        self.middle, self.buffers = middle, buffers_of(model)
        self.names = [name for name, _ in model.named_parameters()]

    def evaluate(self, weights, x, moves=False):
        """The losses, and a function that gives the gradient of a scalar."""
        model = network(self.middle).double()
        if moves is None:
            model.eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(weights[self.names.index(name)])
        for module in model.modules():
            for name, _ in list(module._buffers.items()):
                b = self.buffers[path(model, module, name)]
                module._buffers[name] = None if b is None else b.clone()
        losses = model(x).square().sum(1) + model[0](x).sin().sum(1)
        params = list(model.parameters())
        if moves:
            self.moved = buffers_of(model)
        return losses, lambda loss: list(torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True))

    def settle(self):
        self.buffers = self.moved


def path(model, module, name):
    return next(prefix for prefix, m in model.named_modules() if m is module) + "." + name


def buffers_of(model):
    return {
        f"{prefix}.{name}": None if b is None else b.clone()
        for prefix, module in model.named_modules()
        for name, b in module._buffers.items()
    }


def loss_of(model, x):
    return model(x).square().sum(1) + model[0](x).sin().sum(1)


def assert_same_buffers(model, expected):
    for name, b in buffers_of(model).items():
        if b is None or expected[name] is None:
            assert b is expected[name] is None, name
        else:
            torch.testing.assert_close(b, expected[name], rtol=0, atol=1e-12, msg=name)


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


def batch(step):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_every_pass_begins_with_the_same_buffers_and_the_first_moves_them(name, steps):
    model = network(MODELS[name]).double()
    book = Textbook(MODELS[name], model)
    rule = None if steps == 1 else MultiStep(steps, 1.0)
    optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, model=model, ascent=rule)
    for step in range(3):
        x = batch(step)
        w = weights_of(model)
        at = w
        for evaluation in range(steps):
            losses, gradient = book.evaluate(at, x, moves=evaluation == 0)
            climbed = textbook.climb(gradient(losses.mean()), 0.3)
            e = [a - b + d for a, b, d in zip(at, w, climbed, strict=True)]
            length = max(1.0, float(torch.cat([t.flatten() for t in e]).norm()) / 0.3)
            at = [a + t / length for a, t in zip(w, e, strict=True)]
        losses, gradient = book.evaluate(at, x)
        expected = [a - 0.1 * g for a, g in zip(w, gradient(losses.mean()), strict=True)]
        by_passes(optimizer, lambda x=x: loss_of(model, x).mean())
        book.settle()
        torch.testing.assert_close(weights_of(model), expected, rtol=0, atol=1e-12)
        assert_same_buffers(model, book.buffers)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("batch norm", "script", "several")])
def test_m_sam_begins_every_evaluation_with_the_same_buffers(name, m):
    model = network(MODELS[name]).double()
    book = Textbook(MODELS[name], model)
    optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, model=model, m=m)
    for step in range(2):
        x, w = batch(step), weights_of(model)
        total = [torch.zeros_like(p) for p in w]
        for start in range(0, 8, m):
            losses, gradient = book.evaluate(w, x, moves=start == 0)
            climbed = textbook.climb(gradient(losses[start : start + m].mean()), 0.3)
            at = [a + d for a, d in zip(w, climbed, strict=True)]
            losses, gradient = book.evaluate(at, x)
            total = [t + g for t, g in zip(total, gradient(losses[start : start + m].sum() / 8), strict=True)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="m-SAM")
            optimizer.step(lambda x=x: loss_of(model, x))
        optimizer.zero_grad()
        book.settle()
        expected = [a - 0.1 * t for a, t in zip(w, total, strict=True)]
        error = torch.cat([(a - b).flatten() for a, b in zip(weights_of(model), expected, strict=True)]).norm()
        assert error < 1e-9 * torch.cat([0.1 * t.flatten() for t in total]).norm()
        assert_same_buffers(model, book.buffers)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_moves_buffers_once_a_step(name):
    model = network(lambda: nn.Sequential(Counter(), nn.BatchNorm1d(6), Queue())).double()
    settings = {"start": 2} if name == "LateSAM" else {"end": 2} if name == "EarlySAM" else {}
    settings |= {"sharpness": 10.0} if name == "Dial" else {}
    base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    optimizer = presets.PRESETS[name].build(base, model=model, **settings)
    for step in range(1, 5):
        x = batch(step)
        if optimizer.per_example:
            optimizer.step(lambda x=x: loss_of(model, x))
        else:
            for evaluation in optimizer.passes():
                with evaluation:
                    loss_of(model, x).mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        assert model[2][0].count == model[2][1].num_batches_tracked == step


class Late(nn.Module):
    """Makes its buffer when it knows its width."""

    def forward(self, x):
        if not hasattr(self, "mean"):
            self.register_buffer("mean", x.detach().mean(0))
        return x - self.mean.lerp_(x.detach().mean(0), 0.1)


@pytest.mark.parametrize("m", [None, 2])
def test_a_buffer_that_the_forward_pass_registers_is_said(m):
    model = network(Late).double()
    optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, model=model, m=m, audit=False)

    def closure():
        losses = loss_of(model, batch(0))
        return losses if m else _backward(losses.mean())

    with pytest.warns(UserWarning, match="registers the buffer mean of Late: .* Run one batch through the model"):
        optimizer.step(closure)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*registers the buffer")
        optimizer.step(closure)


def interrupted(evaluation, model, x):
    with evaluation:
        loss_of(model, x).mean().backward()
        raise KeyboardInterrupt


def test_a_pass_that_fails_leaves_buffers_as_they_were_before_it():
    model = network(lambda: nn.Sequential(Counter(), Queue())).double()
    optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, model=model)
    x, before, bound = batch(0), buffers_of(model), model[2][1].keys
    with pytest.raises(KeyboardInterrupt):
        interrupted(optimizer.ascent(), model, x)
    assert_same_buffers(model, before)
    assert model[2][1].keys is bound
    with optimizer.ascent():
        loss_of(model, x).mean().backward()
    after = buffers_of(model)
    with pytest.raises(KeyboardInterrupt):
        interrupted(optimizer.perturbed(), model, x)
    assert_same_buffers(model, after)


@pytest.mark.parametrize("last", [1, 2, 5])
def test_an_m_sam_step_that_fails_leaves_buffers_as_they_were_before_it(last):
    model = network(lambda: nn.Sequential(Counter(), Queue())).double()
    optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, model=model, m=2)
    x, before, calls = batch(0), buffers_of(model), []

    def closure():
        calls.append(0)
        value = loss_of(model, x)
        if len(calls) == last:
            raise KeyboardInterrupt
        return value

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert_same_buffers(model, before)


def test_m_sam_in_parts_moves_buffers_along_the_whole_batch():
    x, found = batch(0), []
    for limit in (None, 1.0):
        model = network(lambda: nn.Sequential(nn.BatchNorm1d(6), Queue(), Counter())).double()
        optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.1), 0.3, model=model, m=2, memory_limit=limit)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*can't be split")
            optimizer.step(lambda model=model, x=x: loss_of(model, x))
        assert optimizer.last is not None
        assert len(optimizer._own.engine.report.parts) == (1 if limit is None else 4)
        found.append((weights_of(model), buffers_of(model)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_the_interface_of_others_moves_buffers_once():
    model = network(lambda: nn.Sequential(Counter(), Queue())).double()
    optimizer = lowland.compat.SAM(model.parameters(), torch.optim.SGD, rho=0.3, model=model, lr=0.1)
    for step in range(1, 3):
        loss_of(model, batch(step)).mean().backward()
        expected = buffers_of(model)
        optimizer.first_step(zero_grad=True)
        loss_of(model, batch(step)).mean().backward()
        optimizer.second_step(zero_grad=True)
        assert_same_buffers(model, expected)
        assert model[2][0].count == step


@pytest.mark.slow
def test_a_compiled_step_begins_both_evaluations_with_the_same_buffers():
    models = [network(lambda: nn.Sequential(parametrized(), Counter())) for _ in range(2)]
    optimizers = [lowland.SAM(torch.optim.SGD(m.parameters(), lr=0.1), rho=0.3, model=m) for m in models]
    step = compiled_step(optimizers[0], models[0], lambda out, y: (out * y).square().mean(), backend="eager")
    for number in range(3):
        x, y = batch(number).float(), torch.ones(8, 3)
        step(x, y)
        optimizers[1].step(lambda x=x: _backward(models[1](x).square().mean()))
    torch.testing.assert_close(weights_of(models[0]), weights_of(models[1]), rtol=0, atol=1e-6)
    torch.testing.assert_close(buffers_of(models[0]), buffers_of(models[1]), rtol=0, atol=1e-6)


def _backward(loss):
    loss.backward()
    return loss


class Holder(nn.Module):
    def __init__(self, **tensors):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


def test_what_nobody_can_write_to_and_what_lies_in_a_weight_are_let_be():
    with torch.inference_mode():
        inference = torch.ones(3)
    model = Holder(
        sparse=torch.eye(3).to_sparse(), compressed=torch.eye(3).to_sparse_csr(), wide=torch.ones(1).expand(3)
    )
    model.register_buffer("inference", inference)
    model.register_buffer("alias", model.weight.detach())
    state = Buffers(model, Constants())
    with torch.no_grad():
        model.weight.mul_(2)
        model.sparse.mul_(3)
    state.settle()
    state.rewind()
    assert model.weight.tolist() == [2.0] * 3
    assert model.sparse.to_dense().equal(torch.eye(3))
    state.finish()
    assert model.sparse.to_dense().equal(3 * torch.eye(3))
    assert model.alias.tolist() == [2.0] * 3


def test_graphs_that_have_a_constant_stay_right():
    model = Holder(constant=torch.ones(3))
    held = (model.weight * model.constant).sum()
    state = Buffers(model, Constants())
    state.settle()
    state.rewind()
    state.finish()
    held.backward()
    assert model.weight.grad.tolist() == [1.0] * 3


def test_large_buffers_are_copied_only_if_they_move(monkeypatch):
    monkeypatch.setattr(constants, "LARGE", 100)
    model, remembered = Holder(constant=torch.zeros(30), moving=torch.zeros(30), late=torch.zeros(30)), Constants()

    def step(late):
        state = Buffers(model, remembered)
        copied = {id(t) for t in (*state._chosen.copied, *(look.buffer for look in state._looks))}
        before = model.moving.clone()
        model.moving.data += 1  # which no version number shows
        if late:
            model.late += 1
        state.settle()
        state.rewind()
        assert model.moving.equal(before)
        model.moving.data += 5
        state.finish()
        assert model.moving.equal(before + 1)
        return [name for name in ("constant", "moving", "late") if id(getattr(model, name)) in copied]

    assert step(False) == ["constant", "moving", "late"]  # the first time it isn't known
    assert step(False) == ["constant", "moving", "late"]
    assert step(False) == ["moving"]
    assert step(False) == ["constant", "moving", "late"]  # and looked at again
    with pytest.warns(UserWarning, match="the buffer late of Holder moves, which it did not"):
        assert step(True) == ["moving"]
    assert step(True) == ["moving", "late"]
    model.eval()
    assert step(True) == ["constant", "moving", "late"]
    assert step(True) == ["constant", "moving", "late"]
    model.constant = torch.ones(30)
    assert step(True) == ["constant", "moving", "late"]
    assert step(True) == ["moving", "late"]
    assert model.late.tolist() == [6.0] * 30
