"""Frozen parameters that a forward pass moves are state, as buffers are: encoders that follow, codebooks."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lowland
from lowland.optim import constants, scope

from . import textbook
from .m_sam.test_out_of_sight import Wrapped
from .training import climb_and_descend

RHO = 0.4


class Follows(nn.Module):
    """As MoCo, BYOL and DINO have it: the frozen encoder is averaged towards the trained one in forward."""

    def __init__(self, how, width=6):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Linear(5, width), nn.Linear(5, width)
        self.key.requires_grad_(False)
        self.how = how

    def forward(self, x):
        with torch.no_grad():
            for q, k in zip(self.query.parameters(), self.key.parameters(), strict=True):
                if self.how == "new data":
                    k.data = k.data * 0.9 + q.data * 0.1
                elif self.how == "behind autograd's back":
                    k.data.mul_(0.9).add_(q.data, alpha=0.1)
                else:
                    k.lerp_(q, 0.1)
        return (self.query(x) - self.key(x)).square().sum(1) + self.query(x).sin().sum(1)


class Codebook(nn.Module):
    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.how = nn.Linear(5, 6), how
        self.codes = nn.Parameter(torch.randn(4, 6), requires_grad=False)

    def forward(self, x):
        h = self.layer(x)
        index = torch.cdist(h.detach(), self.codes).argmin(1)
        out = F.mse_loss(h, self.codes[index], reduction="none").sum(1) + h.sin().sum(1)
        moved = self.codes.detach().clone().index_add(0, index, 0.1 * (h.detach() - self.codes[index]))
        if self.how == "new data":
            self.codes.data = moved
        else:
            (self.codes.data if "back" in self.how else self.codes).copy_(moved)
        return out


def batch(step):
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def in_a_copy(loss_of, model):
    """In a copy of the model, whose state has moved after it."""
    other = copy.deepcopy(model)
    return textbook.grads(lambda: loss_of()(other), trained(other)), other


def by_definition(model, x, m):
    """The gradient of SAM in groups of m, and the state after the first evaluation, at w."""

    def loss_of(rows):
        return lambda model: model(x)[rows].mean()

    evaluate = lambda f, _: in_a_copy(f, model)[0]  # noqa: E731
    total = textbook.m_sam(loss_of, trained(model), len(x), m, RHO, evaluate=evaluate)
    return torch.cat([g.flatten() for g in total]), in_a_copy(lambda: loss_of(slice(None)), model)[1]


@pytest.mark.filterwarnings("ignore:m-SAM goes group by group")
@pytest.mark.parametrize("m", [None, 1, 4])
@pytest.mark.parametrize("how", ["new data", "behind autograd's back", "in place"])
@pytest.mark.parametrize("kind", [Follows, Codebook])
def test_they_move_once_a_step_at_w(kind, how, m):
    model = kind(how).double()
    optimizer = lowland.SAM(torch.optim.SGD(trained(model), lr=0.1), rho=RHO, model=model, m=m)
    for step in range(4):
        x = batch(step)
        expected, moved = by_definition(model, x, m or len(x))
        if m is None:
            climb_and_descend(optimizer, lambda x=x: model(x).mean())
        else:
            optimizer.backward(lambda x=x: model(x))
        found = torch.cat([p.grad.flatten() for p in trained(model)])
        assert (found - expected).norm() < 1e-12 * expected.norm()
        for (name, p), q in zip(model.named_parameters(), moved.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-14, msg=name)
        optimizer.step()
        optimizer.zero_grad()


def test_of_a_large_frozen_part_only_sums_are_kept(monkeypatch):
    """What moves there is found after the first evaluation: the first step says so, from the second on all is right."""
    monkeypatch.setattr(constants, "LARGE", 100)
    model = Follows("behind autograd's back").double()
    model.backbone = nn.Linear(50, 50).requires_grad_(False)
    optimizer = lowland.SAM(torch.optim.SGD(trained(model), lr=0.1), rho=RHO, model=model)
    for step in range(3):
        x = batch(step)
        expected, moved = by_definition(model, x, len(x))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for evaluation in optimizer.passes():
                with evaluation:
                    model(x).mean().backward()
        found = torch.cat([p.grad.flatten() for p in trained(model)])
        assert len(said) == (2 if step == 0 else 0)
        if step == 0:
            assert "the frozen parameter weight of Linear moves" in str(said[0].message)
        else:
            assert (found - expected).norm() < 1e-12 * expected.norm()
        torch.testing.assert_close(model.key.weight, moved.key.weight, rtol=0, atol=1e-14)
        optimizer.step()
        optimizer.zero_grad()


def test_what_is_frozen_while_climbing_is_no_state():
    model = Follows("in place").double()
    optimizer = lowland.SAM(
        torch.optim.SGD(trained(model), lr=0.1),
        rho=RHO,
        model=model,
        scope=lambda model: [model.query.bias],
        freeze=True,
    )
    before = model.query.weight.detach().clone()
    for evaluation in optimizer.passes():
        with evaluation:
            model(batch(0)).mean().backward()
            model.query.weight.data.add_(0.0)
    assert torch.equal(model.query.weight, before)
    optimizer.step()
    assert not torch.equal(model.query.weight, before)


def test_a_frozen_view_of_a_trained_weight_is_none_of_the_state():
    """To put it back would move the weight."""
    model = Follows("in place").double()
    model.view = nn.Parameter(model.query.weight.detach()[:3], requires_grad=False)
    assert model.view.data_ptr() == model.query.weight.data_ptr()
    optimizer = lowland.SAM(torch.optim.SGD(model.query.parameters(), lr=0.1), rho=RHO, model=model)
    expected, _ = by_definition(model, batch(0), 6)
    seen = []
    for evaluation in optimizer.passes():
        with evaluation:
            seen.append(model.query.weight.detach().clone())
            model(batch(0)).mean().backward()
    assert not torch.equal(*seen)
    found = torch.cat([p.grad.flatten() for p in model.query.parameters()])
    torch.testing.assert_close(found, expected)


def test_last_layer_of_a_frozen_backbone():
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    model[0].requires_grad_(False)
    optimizer = lowland.SAM(
        torch.optim.SGD(model[2].parameters(), lr=0.1), rho=RHO, model=model, scope=scope.last_layer, m=2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(5):
            optimizer.step(lambda step=step: model(batch(step)).square().sum(1))


def step(optimizer, model, x):
    for evaluation in optimizer.passes():
        with evaluation:
            model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_buffer_that_looks_at_a_weight_which_is_thawed_later():
    """It must not put the weight back to w in the middle of the perturbed pass."""
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Tanh(), nn.Linear(5, 2)).double()
    model[0].weight.requires_grad_(False)
    model.register_buffer("view", model[0].weight.detach())
    optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=RHO, model=model)
    step(optimizer, model, batch(0))
    step(optimizer, model, batch(1))
    model[0].weight.requires_grad_(True)
    seen = []
    for evaluation in optimizer.passes():
        with evaluation:
            seen.append(model[0].weight.detach().clone())
            model(batch(2)).square().mean().backward()
    assert not torch.equal(*seen)


class Elsewhere(Wrapped):
    """Numbers that lie in another tensor, as quantized weights are held: it can do next to nothing."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].inner)
        return NotImplemented


UNUSUAL = {
    "meta": lambda: torch.ones(4, 4, device="meta"),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "compressed": lambda: torch.eye(4).to_sparse_csr(),
    "a type of its own": lambda: Elsewhere(torch.ones(4, 4)),
    "bytes": lambda: torch.ones(4, 4, dtype=torch.uint8),
    "float8": lambda: torch.ones(4, 4).to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore:.*Sparse CSR")
@pytest.mark.parametrize("backbone", [0, 2000])
@pytest.mark.parametrize("kind", UNUSUAL)
def test_frozen_parameters_of_any_kind_are_no_matter(kind, backbone, monkeypatch):
    monkeypatch.setattr(constants, "LARGE", 100)
    model = nn.Linear(5, 2).double()
    model.odd = nn.Parameter(UNUSUAL[kind](), requires_grad=False)
    model.backbone = nn.Parameter(torch.ones(backbone), requires_grad=False)
    optimizer = lowland.SAM(torch.optim.SGD(trained(model), lr=0.1), rho=RHO, model=model)
    for number in range(3):
        step(optimizer, model, batch(number))


def test_a_scripted_model_that_was_loaded(tmp_path):
    """Its parameters are tensors like any."""
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    model[0].requires_grad_(False)
    torch.jit.script(model).save(tmp_path / "model.pt")
    loaded = torch.jit.load(tmp_path / "model.pt")
    optimizer = lowland.SAM(torch.optim.SGD(trained(loaded), lr=0.1), rho=RHO, model=loaded)
    expected = lowland.SAM(torch.optim.SGD(trained(model), lr=0.1), rho=RHO, model=model)
    for number in range(3):
        step(optimizer, loaded, batch(number))
        step(expected, model, batch(number))
    torch.testing.assert_close(list(loaded.parameters()), list(model.parameters()))


@pytest.mark.parametrize("backbone", [0, 2000])
def test_a_bias_that_is_converted_once_has_not_moved(backbone, recwarn, monkeypatch):
    monkeypatch.setattr(constants, "LARGE", 100)

    class Converts(nn.Linear):
        def forward(self, x):
            self.bias.data = self.bias.data.to(x.dtype)
            return super().forward(x)

    model = nn.Sequential(Converts(5, 5).double(), nn.Linear(5, 2).double())
    model[0].requires_grad_(False)
    model[0].bias.data = model[0].bias.data.float()
    model.backbone = nn.Parameter(torch.ones(backbone), requires_grad=False)
    optimizer = lowland.SAM(torch.optim.SGD(trained(model), lr=0.1), rho=RHO, model=model)
    for number in range(3):
        step(optimizer, model, batch(number))
    assert not recwarn.list


def test_warnings_name_the_line_that_steps(monkeypatch):
    monkeypatch.setattr(constants, "LARGE", 100)
    model = Follows("in place").double()
    model.backbone = nn.Linear(50, 50).requires_grad_(False)
    optimizer = lowland.SAM(torch.optim.SGD(trained(model), lr=0.1), rho=RHO, model=model)
    with pytest.warns(UserWarning, match="the frozen parameter") as said:
        step(optimizer, model, batch(0))
    assert {warning.filename for warning in said} == {__file__}
