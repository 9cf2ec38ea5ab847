"""SAM against the textbook, in float64, over every way to call it; and what it promises when things go wrong."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM, ascent, parallel, scope
from lowland.optim.functional import sam_gradient

from . import textbook
from .training import (  # fmt: skip
    assert_equal,
    batch,
    by_closure,
    by_closure_that_clears,
    by_name,
    by_passes,
    network,
    same_bits,
    weights,
)


@pytest.mark.parametrize("way", [by_closure, by_closure_that_clears, by_passes, by_name])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rho", [0.0, 0.05, 2.0])
def test_equals_the_textbook(way, momentum, rho):
    ours, expected = network(), network()
    x, y = batch()
    optimizer = SAM(torch.optim.SGD(ours.parameters(), lr=0.3, momentum=momentum), rho=rho)
    for _ in range(6):
        way(optimizer, lambda: F.cross_entropy(ours(x), y))
    base = torch.optim.SGD(expected.parameters(), lr=0.3, momentum=momentum)
    textbook.train(expected, base, [lambda: F.cross_entropy(expected(x), y)] * 6, rho)
    assert_equal(ours, expected, tol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 4), min_size=0, max_size=3), min_size=1, max_size=5),
    rho=st.floats(0, 10),
    eps=st.sampled_from([1e-12, 1e-5, 0.1]),
    seed=st.integers(0, 1000),
)
def test_any_shapes_and_the_functional_face(shapes, rho, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    def loss_fn(params):
        return sum((p.sin() + 0.1 * p**3).sum() for p in params)

    params = [nn.Parameter(p.clone()) for p in start]
    expected = textbook.gradient(lambda: loss_fn(params), params, rho, eps)
    optimizer = SAM(torch.optim.SGD(params, lr=0.1), rho=rho, eps=eps)
    loss = by_closure(optimizer, lambda: loss_fn(params))
    value, gradient = sam_gradient(loss_fn, start, rho=rho, eps=eps)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    moved = [p - 0.1 * g for p, g in zip(start, expected, strict=True)]
    torch.testing.assert_close([p.detach() for p in params], moved, rtol=1e-12, atol=1e-12)
    assert loss.item() == pytest.approx(value.item())


def test_weights_come_back_bit_for_bit_even_from_an_exception():
    model = network(torch.float32)
    x, y = batch(dtype=torch.float32)
    with torch.no_grad():
        model[0].weight[0, 0], model[0].weight[0, 1] = 1e30, -0.0
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=7.7)
    before = [p.detach().clone().view(torch.int32) for p in model.parameters()]
    for stop in (None, ValueError, KeyboardInterrupt):
        with optimizer.ascent():
            F.cross_entropy(model(x), y).backward()
        try:
            with optimizer.perturbed():
                changed = [
                    not torch.equal(p.view(torch.int32), b) for p, b in zip(model.parameters(), before, strict=True)
                ]
                assert any(changed)
                if stop:
                    raise stop
        except (ValueError, KeyboardInterrupt):
            pass
        for p, b in zip(model.parameters(), before, strict=True):
            assert torch.equal(p.detach().view(torch.int32), b)
    by_passes(optimizer, lambda: F.cross_entropy(model(x), y))  # usable afterwards


@pytest.mark.parametrize("interrupts", [1, 2, 6])
def test_an_interrupt_of_the_restoration_itself_is_made_good_at_once_or_at_the_next_call(monkeypatch, interrupts):
    model = network()
    x, y = batch()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5)
    before = weights(model)
    real, calls = torch._foreach_copy_, []

    def interrupted(*_, **__):
        calls.append(1)
        if len(calls) == interrupts:
            monkeypatch.setattr(torch, "_foreach_copy_", real)
        raise KeyboardInterrupt

    with optimizer.ascent():
        F.cross_entropy(model(x), y).backward()
    with pytest.raises(KeyboardInterrupt), optimizer.perturbed():
        monkeypatch.setattr(torch, "_foreach_copy_", interrupted)
    assert same_bits(model, before) == (interrupts < 6)
    optimizer.state_dict()
    assert same_bits(model, before)


def test_an_exception_in_the_ascent_keeps_accumulated_gradients():
    model = network()
    x, y = batch()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
    F.cross_entropy(model(x), y).backward()
    before = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(MemoryError), optimizer.ascent():  # noqa: PT012
        F.cross_entropy(model(x), y).backward()
        raise MemoryError
    assert same_bits([p.grad for p in model.parameters()], before)
    with pytest.raises(RuntimeError, match="needs an ascent"), optimizer.perturbed():
        pass


@pytest.mark.parametrize("bad", [0.0, float("inf"), float("nan")])
def test_a_zero_or_non_finite_gradient_makes_the_step_the_base_optimizers(bad):
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    v = nn.Parameter(torch.tensor([3.0]))
    optimizer = SAM(torch.optim.SGD([w, v], lr=0.1), rho=0.5)
    for evaluation in optimizer.passes():
        with evaluation:
            assert w.tolist() == [1.0, 2.0]
            assert v.tolist() == [3.0]
            ((w * torch.tensor([bad, 0.0])).sum() + 0 * v.sum()).backward()
    expected = w.detach() - 0.1 * w.grad
    optimizer.step()
    assert torch.equal(w.detach().nan_to_num(), expected.nan_to_num())
    assert v.item() == 3.0


def test_copies_and_pickles_go_on_the_same_way():
    model = network()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.2, model=model)
    torch.optim.lr_scheduler.StepLR(optimizer, 2)
    x, y = batch()
    by_passes(optimizer, lambda: F.cross_entropy(model(x), y))
    pairs = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    by_passes(optimizer, lambda: F.cross_entropy(model(x), y))
    for other_model, other in pairs:
        by_passes(other, lambda m=other_model: F.cross_entropy(m(x), y))
        assert same_bits(model, other_model)


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), "0.1", True])
def test_bad_rho(rho):
    params = [nn.Parameter(torch.ones(1))]
    with pytest.raises(ValueError, match="rho"):
        SAM(torch.optim.SGD(params, lr=0.1), rho=rho)
    with pytest.raises(ValueError, match="rho"):
        SAM(torch.optim.SGD([{"params": params, "rho": rho}], lr=0.1))
    optimizer = SAM(torch.optim.SGD(params, lr=0.1))
    optimizer.param_groups[0]["rho"] = rho
    with pytest.raises(ValueError, match="rho"):
        by_passes(optimizer, lambda: params[0].sum())


def test_misuse_says_what_to_do():
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1))
    with pytest.raises(ValueError, match="already is a SAM"):
        SAM(optimizer)
    with pytest.raises(ValueError, match="eps"):
        SAM(torch.optim.SGD([w], lr=0.1), eps=-1)
    with pytest.raises(RuntimeError, match="was backward"):
        optimizer.step(lambda: w.sum())
    with pytest.raises(RuntimeError, match="inside the ascent pass"), optimizer.ascent():
        optimizer.step()
    with pytest.raises(RuntimeError, match="inside the ascent pass"), optimizer.ascent(), optimizer.perturbed():
        pass
    with optimizer.ascent():
        w.square().sum().backward()
    with pytest.raises(RuntimeError, match="without perturbed"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="middle of a step"):
        optimizer.state_dict()
    with optimizer.perturbed():
        with pytest.raises(RuntimeError, match="inside the perturbed pass"):
            optimizer.step()


def test_adding_a_group_later():
    w, v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.3)
    optimizer.add_param_group({"params": [v], "lr": 0.7})
    assert [group["rho"] for group in optimizer.base.param_groups] == [0.3, 0.3]
    by_passes(optimizer, lambda: w.sum() + v.square().sum())
    assert v.tolist() != [1.0] * 3


def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was():
    w, v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=lambda step: 0.1)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [w]})
    with pytest.raises(ValueError, match="rho"):
        optimizer.add_param_group({"params": [v], "rho": -1.0})
    optimizer.add_param_group({"params": [v], "rho": 0.9})
    by_passes(optimizer, lambda: w.square().sum() + v.square().sum())
    assert [group["rho"] for group in optimizer.param_groups] == [0.1, 0.9]


def test_what_cannot_be_a_base():
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match="goes around an optimizer"):
        SAM([w])
    with pytest.raises(ValueError, match="Adadelta has a rho of its own"):
        SAM(torch.optim.Adadelta([w]))
    with pytest.raises(ValueError, match="LBFGS"):
        SAM(torch.optim.LBFGS([w]))


def test_a_parameter_that_stands_twice_is_refused():
    """Torch only warns; the norm would count it twice."""
    model = network()
    tied = [*model.parameters(), model[0].weight]
    with pytest.warns(UserWarning, match="duplicate parameters"):
        base = torch.optim.SGD(tied, lr=0.1)
    with pytest.raises(ValueError, match=r"a parameter stands twice in the parameter groups, of shape \("):
        SAM(base)
    optimizer = SAM(torch.optim.SGD(model[0].parameters(), lr=0.1))
    with pytest.raises(ValueError, match="a parameter stands twice"):
        optimizer.add_param_group({"params": iter([*model[-1].parameters(), model[-1].weight])})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": model[-1].parameters()})
    assert len(optimizer.param_groups[1]["params"]) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"m": 2},
        {"scope": scope.last_layer},
        {"ascent": ascent.Random()},
        {"ascent": ascent.Momentum()},
        {"ascent": ascent.Previous()},
    ],
)
def test_lazy_modules(options):
    """Plain SAM may begin with them; for these they must have their shapes."""
    torch.manual_seed(0)
    lazy = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(3))
    plain = SAM(torch.optim.SGD(lazy.parameters(), lr=0.1, momentum=0.9), model=lazy)
    with pytest.raises(ValueError, match="run one batch through the model first"):
        SAM(torch.optim.SGD(lazy.parameters(), lr=0.1, momentum=0.9), model=lazy, **options)
    for name, value in options.items():
        with pytest.raises(ValueError, match="run one batch through the model first"):
            setattr(plain, {"ascent": "ascent_rule", "descent": "descent_rule"}.get(name, name), value)
    x, y = batch(dtype=torch.float32)
    plain.step(lambda: (loss := F.cross_entropy(lazy(x), y), loss.backward())[0])
    SAM(torch.optim.SGD(lazy.parameters(), lr=0.1, momentum=0.9), model=lazy, **options)


def test_maximizing_is_refused_whenever_it_is_asked_for():
    """The ascent would go where the objective is best."""
    model = network()
    x, y = batch()
    with pytest.raises(ValueError, match="minimize the negative"):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1, maximize=True))
    optimizer = SAM(torch.optim.SGD(model[0].parameters(), lr=0.1), model=model, m=2)
    with pytest.raises(ValueError, match="minimize the negative"):
        optimizer.add_param_group({"params": model[-1].parameters(), "maximize": True})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0]["maximize"] = True
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="minimize the negative"):
        optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))
    optimizer.m = None
    with pytest.raises(ValueError, match="minimize the negative"):
        next(optimizer.passes())
    assert same_bits(before, model)


def test_out_of_memory_while_gradients_are_set_aside_leaves_the_optimizer_usable(monkeypatch):
    model = network()
    x, y = batch()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
    F.cross_entropy(model(x), y).backward()
    real = parallel.set_aside

    def fails(_):
        monkeypatch.setattr(parallel, "set_aside", real)
        raise MemoryError

    monkeypatch.setattr(parallel, "set_aside", fails)
    with pytest.raises(MemoryError), optimizer.ascent():
        pass
    by_passes(optimizer, lambda: F.cross_entropy(model(x), y))


def test_a_perturbed_pass_without_backward_is_refused():
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1))
    calls = []

    def closure():
        loss = w.square().sum()
        if not calls:
            loss.backward()
        calls.append(1)
        return loss

    with pytest.raises(RuntimeError, match="was backward\\(\\) called in the last pass"):
        optimizer.step(closure)
    assert optimizer.steps == 0


def test_gradients_cleared_before_the_step_are_refused():
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1))
    for evaluation in optimizer.passes():
        with evaluation:
            w.square().sum().backward()
        optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="only after"):
        optimizer.step()


def test_a_wrong_model_is_refused():
    model = network()
    with pytest.raises(TypeError, match="the network itself"):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model.parameters())
    with pytest.raises(ValueError, match="another model"):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1), model=network())


def test_rho_is_saved_as_a_plain_number(tmp_path):
    w = nn.Parameter(torch.ones(2))
    for rho in (np.float64(0.3), torch.tensor(0.3), lambda step: np.float32(0.3)):
        optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=rho)
        by_passes(optimizer, lambda: w.square().sum())
        torch.save(optimizer.state_dict(), tmp_path / "state.pt")
        torch.load(tmp_path / "state.pt", weights_only=True)
        assert type(optimizer.param_groups[0]["rho"]) is float
    for bad in (torch.tensor(-1.0), torch.tensor([0.1, 0.2]), 10**400, np.nan, None):
        with pytest.raises(ValueError, match="rho"):
            SAM(torch.optim.SGD([w], lr=0.1), rho=bad)


def test_a_base_that_was_wrapped_before_keeps_its_rho_and_says_so():
    base = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    SAM(base, rho=0.05)
    with pytest.warns(UserWarning, match="in a SAM before"):
        assert SAM(base, rho=0.5).param_groups[0]["rho"] == 0.05


def test_hooks_of_a_subclass_run_once():
    class Mine(SAM):
        def step(self, closure=None):
            return super().step(closure)

    for kind in (SAM, Mine):
        w, called = nn.Parameter(torch.ones(2)), []
        optimizer = kind(torch.optim.SGD([w], lr=0.1))
        optimizer.register_step_pre_hook(lambda *_, c=called: c.append("pre"))
        optimizer.register_step_post_hook(lambda *_, c=called: c.append("post"))
        by_passes(optimizer, lambda w=w: w.square().sum())
        assert called == ["pre", "post"]


def test_a_closure_after_an_abandoned_ascent_and_a_closure_step_counts():
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1))
    with optimizer.ascent():
        w.square().sum().backward()
    by_closure(optimizer, lambda: w.square().sum())
    assert optimizer.steps == 1


def test_checkpoints_loaded_after_an_interrupt_stay(monkeypatch):
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)
    state = optimizer.state_dict()
    with optimizer.ascent():
        w.square().sum().backward()
    optimizer._own.step.leave_w(optimizer._own.step.plan)
    with torch.no_grad():
        w.copy_(torch.full((2,), 7.0))
    optimizer.load_state_dict(state)
    assert w.tolist() == [7.0, 7.0]
    assert repr(optimizer).startswith("SAM(rho=[0.5]")
