"""Base optimizers of others: state in a layout of its own, and steps that need more than gradients."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.autograd import grad
from torch.nn import functional as F
from torch.optim import Optimizer

import lowland
from lowland.optim import bases, presets

from . import textbook
from .training import by_passes


class Container(Optimizer):
    """Several optimizers as one, with a state_dict of each by its name, as recipes for Muon have it."""

    def __init__(self, **optimizers):
        self.optimizers = optimizers

    @property
    def param_groups(self):
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none=True):
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none)

    def state_dict(self):
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state_dict):
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state_dict[name])


class InAList(Container):
    """The same with a list, which keeps state alone."""

    def __init__(self, **optimizers):
        super().__init__(**optimizers)
        Optimizer.__setstate__(self, {"defaults": {}, "state": {}})

    def state_dict(self):
        return [optimizer.state_dict()["state"] for optimizer in self.optimizers.values()]

    def load_state_dict(self, state_dict):
        for state, optimizer in zip(state_dict, self.optimizers.values(), strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


class Lookahead(Optimizer):
    """Around another, with entries of its own beside torch's."""

    def __init__(self, base):
        self.inner, self.calls = base, 0
        self.param_groups, self.state, self.defaults = base.param_groups, base.state, base.defaults

    def step(self, closure=None):
        self.calls += 1
        return self.inner.step(closure)

    def zero_grad(self, set_to_none=True):
        self.inner.zero_grad(set_to_none)

    def state_dict(self):
        return {**self.inner.state_dict(), "calls": self.calls}

    def load_state_dict(self, state_dict):
        self.calls = state_dict["calls"]
        self.inner.load_state_dict(state_dict)
        self.param_groups, self.state = self.inner.param_groups, self.inner.state


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def parts(model):
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    return {"muon": torch.optim.Muon(matrices, lr=0.02), "adamw": torch.optim.AdamW(vectors, lr=0.01)}


BASES = {
    "by name": lambda model: Container(**parts(model)),
    "in a list": lambda model: InAList(**parts(model)),
    "around": lambda model: Lookahead(torch.optim.AdamW(model.parameters(), lr=0.01)),
}
WAYS = {
    "SAM": lambda base, model: lowland.SAM(base, rho=lambda step: 0.1 + 0.1 * step, model=model),
    "FriendlySAM": lambda base, model: presets.FriendlySAM(base, model=model),
    "LookSAM": lambda base, model: presets.LookSAM(base, model=model, k=3),
}


def go_on(model, optimizer, steps):
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        by_passes(optimizer, lambda x=x: F.cross_entropy(model(x), torch.arange(8) % 3))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("base", BASES)
def test_a_layout_of_its_own_resumes_to_the_same_bits(base, way, tmp_path):
    def started():
        model = network()
        return model, WAYS[way](BASES[base](model), model)

    straight, before, after = started(), started(), started()
    go_on(*straight, range(5))
    go_on(*before, range(2))
    torch.save([part.state_dict() for part in before], tmp_path / "state.pt")
    go_on(*after, range(7, 8))  # with a state of another kind in it
    for part, state in zip(after, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert after[1].steps == 2
    go_on(*after, range(2, 5))
    for a, b in zip(straight[0].parameters(), after[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert after[1].param_groups[0]["rho"] == straight[1].param_groups[0]["rho"]


@pytest.mark.parametrize("base", BASES)
def test_a_step_is_that_of_the_base_along_sams_gradient(base):
    ours, expected = network(), network()
    optimizer, bare = lowland.SAM(BASES[base](ours), 0.1), BASES[base](expected)
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            optimizer.step(lambda: F.cross_entropy(ours(x), y).backward())
            params = list(expected.parameters())
            textbook.descend(bare, params, textbook.gradient(lambda: F.cross_entropy(expected(x), y), params, 0.1))
    torch.testing.assert_close(list(ours.parameters()), list(expected.parameters()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("base", BASES)
def test_a_checkpoint_of_the_bare_container_loads(base):
    model = network()
    bare = BASES[base](model)
    F.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 3).backward()
    bare.step()
    state = copy.deepcopy(bare.state_dict())
    optimizer = presets.FriendlySAM(BASES[base](model), rho=0.3)
    optimizer.load_state_dict(state)
    assert optimizer.steps == 0
    assert optimizer.param_groups[0]["rho"] == 0.3
    go_on(model, optimizer, range(2))


class Base(Optimizer):
    """Descends; has what those derived from it may use, or not."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def descend(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p -= group["lr"] * p.grad

    def curvature(self):
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        return torch.autograd.grad([p.grad for p in params], params, [p.sign() for p in params], retain_graph=True)


def hessian_along(gradients, params):
    return grad(gradients, params, params, retain_graph=True)


class AdaHessian(Base):
    def estimate(self):
        return self.curvature()

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.estimate()
        self.descend()
        return loss


class Sophia(Base):
    def step(self, closure=None, hessian=None):
        params = [p for group in self.param_groups for p in group["params"]]
        hessian_along([p.grad for p in params], params)
        self.descend()


class AliG(Base):
    @torch.no_grad()
    def step(self, closure=None):
        if closure is None:
            raise ValueError("AliG evaluates its closure")
        with torch.enable_grad():
            closure()
        self.descend()


class Asserts(Base):
    def step(self, closure=None):
        assert closure is not None, "a closure"
        self.descend()


class Calls(Base):
    def step(self, closure=None):
        closure = torch.enable_grad()(closure)
        with torch.no_grad():
            loss = closure()
        self.descend()
        return loss


class Required(Base):
    def step(self, closure):
        self.descend()


class Polyak(Base):
    def step(self, loss):
        self.descend()


class Usual(Base):
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        self.descend()
        return loss


class UsualToo(Base):
    def step(self, closure=None):
        if closure is None:
            self.descend()
            return None
        loss = closure()
        self.descend()
        return loss


class UsualAsWell(Base):
    def step(self, closure=None, *, grads=None, **options):
        loss = None
        if closure:
            with torch.enable_grad():
                loss = closure()
        if closure is None:
            closure = float
        closure()
        self.descend()
        return loss


REFUSED = {
    AdaHessian: "AdaHessian differentiates gradients in its step",
    Sophia: "Sophia differentiates gradients in its step",
    AliG: "the step of AliG needs a closure, or arguments",
    Asserts: "the step of Asserts needs a closure",
    Calls: "the step of Calls needs a closure",
    Required: "the step of Required needs a closure",
    Polyak: "the step of Polyak needs a closure, or arguments",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_step_that_needs_more_than_gradients_is_refused_at_construction(kind):
    model = network()
    with pytest.raises(ValueError, match=REFUSED[kind]):
        lowland.SAM(kind(model.parameters()), 0.1)
    with pytest.raises(ValueError, match=f"{kind.__name__} \\(in Container\\)"):
        lowland.SAM(Container(one=torch.optim.SGD(network().parameters()), two=kind(model.parameters())), 0.1)


@pytest.mark.parametrize("kind", [Usual, UsualToo, UsualAsWell])
def test_a_step_that_may_take_a_closure_is_not(kind):
    model = network()
    go_on(model, lowland.SAM(kind(model.parameters()), 0.1, model=model), range(2))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_its_source_does_not_show_is_said_at_the_first_step(kind, monkeypatch):
    monkeypatch.setattr(bases, "_needs_arguments", lambda kind: False)
    monkeypatch.setattr(bases, "_differentiates", lambda kind: False)
    model = network()
    optimizer = lowland.SAM(kind(model.parameters()), 0.1)
    with pytest.raises(RuntimeError, match=REFUSED[kind]):
        go_on(model, optimizer, range(1))


def test_other_errors_of_a_base_are_its_own():
    class Broken(Base):
        def step(self, closure=None):
            raise ZeroDivisionError("mine")

    model = network()
    with pytest.raises(ZeroDivisionError, match="mine"):
        go_on(model, lowland.SAM(Broken(model.parameters()), 0.1), range(1))
