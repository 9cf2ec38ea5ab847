"""`SAM(l2=λ)` against the loss with ½λ‖w‖² written into it, in float64, over every way to make a step."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM, compiled_step, descent, scope

from . import test_presets, textbook
from .test_compiled import Unused
from .test_compiled import sgd as plain_sgd
from .training import (
    assert_equal,
    batch,
    by_closure,
    by_closure_that_clears,
    by_name,
    by_passes,
    climb_and_descend,
    losses,
    network,
    sgd,
    train,
)  # fmt: skip

L2 = 0.3  # large, so that nothing hides in rounding
WAYS = [by_closure, by_closure_that_clears, by_name, by_passes]


def trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


def penalized(model, loss_fn, l2=L2):
    return textbook.penalized(loss_fn, trainable(model), l2)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(WAYS),
    st.integers(1, 4),
    st.tuples(st.sampled_from([0.0, 0.05, 2.0]), st.sampled_from([0.0, 0.4])),
    st.one_of(st.just(0), st.floats(1e-6, 1e2)),
    st.sampled_from([{}, {"keep_on": "cpu"}, {"same_masks": True}, {"eps": 0.5}]),
)
def test_equals_the_loss_with_the_term(way, width, radii, l2, options):
    def make():
        torch.manual_seed(width)
        model = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3), nn.Linear(4, 4)).double()
        model[0].bias.requires_grad_(False)
        unused = model.pop(3) if l2 else None  # which the loss reaches by the term alone
        model.unused = unused
        model.forward = lambda x: model[2](model[1](model[0](x)))
        first, rest = list(model[0].parameters()), [p for p in model.parameters() if p is not model[0].weight]
        groups = [{"params": first[:1], "rho": radii[0]}, {"params": rest, "rho": radii[1]}]
        return model, torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    (ours, base), (expected, expected_base) = make(), make()
    optimizer = SAM(base, l2=l2, **options)
    rhos = [radii[0] if p is expected[0].weight else radii[1] for p in trainable(expected)]
    for step in range(2):
        x, y = batch(step)
        way(optimizer, lambda x=x, y=y: F.cross_entropy(ours(x), y))
        loss_fn = penalized(expected, lambda x=x, y=y: F.cross_entropy(expected(x), y), l2)
        found = textbook.gradient(loss_fn, trainable(expected), rhos, eps=options.get("eps", 1e-12))
        textbook.descend(expected_base, trainable(expected), found)
    assert_equal(ours, expected, tol=1e-8 if l2 > 10 else 1e-10)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", test_presets.CASES)
def test_the_family(name, scaled, monkeypatch):
    model, optimizer, book = test_presets.pair(name, l2=L2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12) if scaled else None
    plain = test_presets.losses
    # A rule that counts steps doesn't count one that is skipped, and the textbook would.
    overflows = scaled and book.rule not in (*test_presets.STATEFUL, test_presets.family.random_direction)
    for step in range(5):
        bad = (0,) if overflows and step == 3 else ()
        climbed, _ = test_presets.run(model, optimizer, step, scaler, bad)
        if bad:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(test_presets, "losses", lambda m, s: penalized(m, lambda: plain(m, s))())
            book.step(step, climbed)
    assert_equal(model, book.model, tol=1e-9)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("m", [1, 5, 100])
def test_m_sam(m, scaled):
    ours, expected = network(), network()
    optimizer = SAM(sgd(ours), rho=0.3, model=ours, m=m, l2=L2)
    base, scaler = sgd(expected), torch.amp.GradScaler("cpu", init_scale=64.0, enabled=scaled)
    for step in range(3):
        x, y = batch(step)

        def loss_of(rows, x=x, y=y):
            return penalized(expected, lambda: F.cross_entropy(expected(x[rows]), y[rows]))()

        params = list(expected.parameters())
        textbook.descend(base, params, textbook.m_sam(loss_of, params, len(x), m, 0.3))
        if scaled:
            optimizer.backward(lambda x=x, y=y: F.cross_entropy(ours(x), y, reduction="none"), scaler)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        else:
            loss = optimizer.step(lambda x=x, y=y: F.cross_entropy(ours(x), y, reduction="none"))
            assert loss > 0
    assert_equal(ours, expected)


def test_micro_batches_that_climb_each_for_itself_take_their_share():
    ours, expected = network(), network()
    parts = [(x, y) for x, y in zip(*(t.split(4) for t in batch()), strict=True)]
    optimizer = SAM(sgd(ours), rho=0.3, l2=L2 / len(parts))
    for x, y in parts:
        climb_and_descend(optimizer, lambda x=x, y=y: F.cross_entropy(ours(x), y) / len(parts))
    for x, y in parts:
        loss_fn = penalized(expected, lambda x=x, y=y: F.cross_entropy(expected(x), y))
        for p, g in zip(expected.parameters(), textbook.gradient(loss_fn, [*expected.parameters()], 0.3), strict=True):
            p.grad = g / len(parts) + (0 if p.grad is None else p.grad)
    for p, q in zip(ours.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)


def test_micro_batches_that_climb_together_count_it_once():
    ours, expected = network(), network()
    x, y = batch()
    optimizer = SAM(sgd(ours), rho=0.3, l2=L2)
    for evaluation in optimizer.passes():
        with evaluation:
            for a, b in zip(x.split(4), y.split(4), strict=True):
                (F.cross_entropy(ours(a), b) / 3).backward()
    optimizer.step()
    textbook.train(expected, sgd(expected), [penalized(expected, lambda: F.cross_entropy(expected(x), y))], 0.3)
    assert_equal(ours, expected)


@pytest.mark.parametrize("rule", [{}, {"freeze": True}, {"descent": descent.Weighted(0.5, decoupled=False)}])  # ½: SAM
def test_what_is_out_of_scope_does_not_climb_and_has_the_term(rule):
    ours, expected = network(), network()
    train(ours, SAM(sgd(ours), rho=0.3, model=ours, scope=scope.last_layer, l2=L2, **rule), losses(ours))
    base, params = sgd(expected), list(expected.parameters())
    for loss_fn in losses(expected):
        found = textbook.gradient(penalized(expected, loss_fn), params[2:], 0.3, wanted=params)
        textbook.descend(base, params, found)
    assert_equal(ours, expected)


def test_without_a_climb_the_term_is_there_and_without_passes_it_is_not():
    ours, expected = network(), network()
    optimizer = SAM(sgd(ours), rho=0.0, l2=L2)
    train(ours, optimizer, losses(ours))
    textbook.train(expected, sgd(expected), [penalized(expected, f) for f in losses(expected)], 0.0)
    assert_equal(ours, expected)
    losses(ours)[0]().backward()
    gradients = [p.grad.clone() for p in ours.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(ours.parameters(), gradients, strict=True))


def test_what_step_returns_is_the_closures_loss():
    model = network()
    loss_fn = losses(model)[0]
    value = loss_fn().item()
    assert by_closure(SAM(sgd(model), rho=0.3, l2=L2), loss_fn).item() == value


def test_gradients_accumulated_before_stay():
    model = network()
    optimizer = SAM(sgd(model), rho=0.3, l2=L2)
    (loss_fn,) = losses(model, 1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    climb_and_descend(optimizer, loss_fn)
    expected = textbook.gradient(penalized(model, loss_fn), list(model.parameters()), 0.3)
    for p, g in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g + 1, rtol=1e-10, atol=1e-12)


def test_sparse_gradients_become_dense():
    def table(sparse):
        torch.manual_seed(0)
        return nn.Embedding(5, 3, sparse=sparse).double()

    ours, expected, tokens = table(True), table(False), torch.tensor([0, 2, 2, 4])
    optimizer = SAM(torch.optim.SGD(ours.parameters(), lr=0.1), rho=0.3, l2=L2)
    base = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(3):
        by_passes(optimizer, lambda: ours(tokens).square().sum())
    textbook.train(expected, base, [penalized(expected, lambda: expected(tokens).square().sum())] * 3, 0.3)
    assert_equal(ours, expected)
    with pytest.raises(ValueError, match="not for SparseAdam"):
        SAM(torch.optim.SparseAdam(ours.parameters()), l2=L2)


def test_complex_parameters():
    torch.manual_seed(0)
    ours = nn.Linear(3, 2, dtype=torch.complex128)
    expected, x = copy.deepcopy(ours), torch.randn(4, 3, dtype=torch.complex128)
    by_passes(SAM(plain_sgd(ours), rho=0.3, l2=L2), lambda: ours(x).abs().square().sum())
    textbook.train(expected, plain_sgd(expected), [penalized(expected, lambda: expected(x).abs().square().sum())], 0.3)
    assert_equal(ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize("make", [network, Unused])
def test_compiled(make):
    def data(step):
        x, y = batch(step)
        return x[:, : 4 if make is Unused else 5], y

    torch.manual_seed(0)
    ours = make().double()
    expected = copy.deepcopy(ours)
    optimizer = SAM(plain_sgd(ours, momentum=0.9), rho=0.3, l2=L2)
    step = compiled_step(optimizer, ours, F.cross_entropy, backend="aot_eager")
    for i in range(5):
        optimizer.l2 = L2 if i < 3 else 0.1
        step(*data(i))

    def by_definition(i):
        return penalized(expected, lambda: F.cross_entropy(expected(data(i)[0]), data(i)[1]), L2 if i < 3 else 0.1)

    textbook.train(expected, plain_sgd(expected, momentum=0.9), map(by_definition, range(5)), 0.3)
    assert_equal(ours, expected)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_forgotten_backward_is_an_error_still(missing):
    model = network()
    optimizer = SAM(sgd(model), rho=0.3, l2=L2)
    (loss_fn,) = losses(model, 1)
    passes = iter(range(2))

    def closure():
        loss = loss_fn()
        if next(passes) != missing:
            loss.backward()

    with pytest.raises(RuntimeError, match=r"was backward\(\) called"):
        optimizer.step(closure)


def test_a_scaler_that_sam_was_not_told_of_is_an_error():
    model = network()
    optimizer, scaler = SAM(sgd(model), rho=0.3, l2=L2), torch.amp.GradScaler("cpu")
    (loss_fn,) = losses(model, 1)
    climb_and_descend(optimizer, lambda: scaler.scale(loss_fn()))
    with pytest.raises(RuntimeError, match="l2 needs to know by what"):
        scaler.step(optimizer)


@pytest.mark.parametrize("l2", [-0.1, math.nan, math.inf, "1", True, None])
def test_what_is_no_factor_is_refused(l2):
    with pytest.raises(ValueError, match="l2 must be a number, at least 0"):
        SAM(sgd(network()), l2=l2)


def test_a_group_can_not_have_its_own():
    with pytest.raises(ValueError, match="one number for all parameter groups"):
        SAM(sgd([{"params": network().parameters(), "l2": 0.0}]), l2=L2)


def test_copies_pickles_and_shows():
    model = network()
    optimizer = SAM(sgd(model), rho=0.3, l2=L2)
    assert copy.deepcopy(optimizer).l2 == pickle.loads(pickle.dumps(optimizer)).l2 == L2
    assert repr(optimizer).startswith("SAM(rho=[0.3], l2=0.3, base=SGD")
    assert "l2" not in repr(SAM(sgd(model), rho=0.3))
    assert optimizer.is_plain
