"""What can be seen of a GradScaler that is used in another order than its own: an error that says what to do."""

import pytest
import torch
from torch.nn import functional as F

from lowland import SAM, compat
from lowland.optim import presets

from .training import assert_equal, batch, by_passes, climb_and_descend, losses, network, same_bits, sgd, weights

SCALE = 1024.0


def made(build=SAM, scale=SCALE, base=sgd, **settings):
    model = network()
    return model, build(base(model), rho=0.3, **settings), torch.amp.GradScaler("cpu", init_scale=scale)


def closure_of(model, scaler, step=0, reduction="mean"):
    x, y = batch(step)

    def closure():
        loss = F.cross_entropy(model(x), y, reduction=reduction)
        if reduction == "mean":
            scaler.scale(loss).backward()
        return loss

    return closure


def step(model, optimizer, scaler, index=0):
    by_passes(optimizer, losses(model, index + 1)[index], scaler)


def goes_on(model, optimizer, scaler, expected):
    """After an error, once the gradients are cleared: to the same bits as without it."""
    scaler.update(SCALE)
    scaler._per_optimizer_states.clear()
    optimizer.zero_grad()
    other, theirs, fresh = made()
    with torch.no_grad():
        for p, q in zip(other.parameters(), expected, strict=True):
            p.copy_(q)
    step(model, optimizer, scaler, 7)
    step(other, theirs, fresh, 7)
    assert_equal(model, other, tol=0)


BASES = {"SGD": sgd, "fused": lambda m: sgd(m, fused=True)}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", ["SAM", "m", "ESAM", "first_step"])
def test_a_closure_for_the_scalers_step(kind, base):
    if kind == "first_step":
        model = network()
        optimizer = compat.SAM(model.parameters(), torch.optim.SGD, lr=0.2, fused=base == "fused")
        scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    elif kind == "ESAM":
        model, optimizer, scaler = made(presets.ESAM, base=BASES[base])
    else:
        model, optimizer, scaler = made(base=BASES[base])
        if kind == "m":
            optimizer = SAM(optimizer.base, rho=0.3, model=model, m=4)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    scaler.scale(torch.ones(()))
    before = weights(model)
    says = r"optimizer.backward\(closure, scaler=scaler\)" if kind in ("m", "ESAM") else r"optimizer.passes\(scaler"
    with pytest.raises(RuntimeError, match=says):
        scaler.step(optimizer, closure_of(model, scaler, reduction="none" if kind in ("m", "ESAM") else "mean"))
    assert same_bits(model, before)


def test_a_scaler_that_is_switched_off_takes_a_closure_and_any_order():
    ours, expected = network(), network()
    off = torch.amp.GradScaler("cpu", enabled=False)
    optimizer, plain = SAM(sgd(ours), rho=0.3), SAM(sgd(expected), rho=0.3)
    off.step(optimizer, closure_of(ours, off))
    plain.step(closure_of(expected, off))
    optimizer.zero_grad()
    for evaluation in optimizer.passes(scaler=off):
        off.unscale_(optimizer)
        with evaluation:
            closure_of(ours, off)()
            off.unscale_(optimizer)
            off.update()
    optimizer.step()
    plain.step(closure_of(expected, off))
    assert_equal(ours, expected, tol=0)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("accumulated", [True, False])
@pytest.mark.parametrize("where", ["between", "in the ascent", "at w + e"])
def test_unscaling_before_the_passes_are_over(where, accumulated, told):
    model, optimizer, scaler = made()
    before = weights(model)
    if accumulated:
        climb_and_descend(optimizer, losses(model, 1)[0], scaler)
    with pytest.raises(RuntimeError, match=r"after the last pass and before scaler\.step"):  # noqa: PT012
        for index, evaluation in enumerate(optimizer.passes(scaler=scaler if told else None)):
            if index == 1 and where == "between":
                scaler.unscale_(optimizer)
            with evaluation:
                closure_of(model, scaler)()
                if index == (where == "at w + e") and where != "between":
                    scaler.unscale_(optimizer)
    assert same_bits(model, before)
    goes_on(model, optimizer, scaler, before)


@pytest.mark.parametrize("of", ["SAM", "the base"])
@pytest.mark.parametrize("kind", [SAM, presets.GSAM, "m"])
def test_unscaling_between_micro_batches(kind, of):
    model, optimizer, scaler = made() if kind == "m" else made(kind)
    if kind == "m":
        optimizer = SAM(sgd(model), rho=0.3, model=model, m=4)

    def micro_batch():
        if kind == "m":
            optimizer.backward(closure_of(model, scaler, reduction="none"), scaler=scaler)
            return
        climb_and_descend(optimizer, losses(model, 1)[0], scaler)

    micro_batch()
    scaler.unscale_(optimizer if of == "SAM" else optimizer.base)
    with pytest.raises(RuntimeError, match=r"after the last pass and before scaler\.step"):
        micro_batch()


def test_the_scale_changes_while_gradients_wait():
    """As where another optimizer's update comes between: an error if the scale is another one then."""
    for growth, raises in ((1, True), (1000, False)):
        model, optimizer, scaler = made(presets.GSAM)
        scaler.set_growth_interval(growth)
        w = torch.nn.Parameter(torch.ones(2))
        other = torch.optim.SGD([w], lr=0.1)

        def another(scaler=scaler, w=w, other=other):
            scaler.scale(w.square().sum()).backward()
            scaler.step(other)
            scaler.update()

        passes = optimizer.passes(scaler=scaler)
        with next(passes):
            closure_of(model, scaler)()
        another()
        if raises:
            with pytest.raises(RuntimeError, match="has changed the scale"), next(passes):
                pass
        else:
            with next(passes):
                closure_of(model, scaler)()
        optimizer.zero_grad()
        climb_and_descend(optimizer, losses(model, 1)[0], scaler)
        another()
        if raises:
            with pytest.raises(RuntimeError, match="once a step"), next(optimizer.passes(scaler=scaler)):
                pass
        model.zero_grad()
        step(model, optimizer, scaler)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("clear", ["optimizer", "model"])
def test_a_skipped_step_is_no_misuse(clear, set_to_none):
    model, optimizer, scaler = made()
    for index in range(4):
        for evaluation in optimizer.passes(scaler=scaler):
            with evaluation:
                loss = losses(model, 4)[index]()
                scaler.scale(loss * (float("inf") if index == 1 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        (optimizer if clear == "optimizer" else model).zero_grad(set_to_none=set_to_none)
    assert scaler.get_scale() == SCALE / 2
    assert optimizer.steps == 3


@pytest.mark.parametrize("base", BASES)
def test_a_step_without_the_scaler(base):
    model, optimizer, scaler = made(base=BASES[base])
    before = weights(model)
    climb_and_descend(optimizer, losses(model, 1)[0], scaler)
    with pytest.raises(RuntimeError, match=r"call scaler.step\(optimizer\), not optimizer.step"):
        optimizer.step()
    assert same_bits(model, before)
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.steps == 1
    optimizer.zero_grad()
    climb_and_descend(optimizer, losses(model, 1)[0], scaler)
    scaler.unscale_(optimizer)
    if base == "SGD":
        optimizer.step()  # unscaled it may be
        assert optimizer.steps == 2


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("unscales", [False, True])
@pytest.mark.parametrize("kind", ["m", "m, rho 0", "ESAM"])
def test_a_backward_that_was_not_told_of_the_scaler(kind, unscales, base):
    """Nothing scaled its gradients, and ``scaler.step`` would make them as much too small as losses are scaled."""

    def build(model):
        if kind == "ESAM":
            return presets.ESAM(BASES[base](model), rho=0.3, model=model)
        return SAM(BASES[base](model), rho=0.3 if kind == "m" else 0.0, model=model, m=4)

    model, expected, scaler = network(), network(), torch.amp.GradScaler("cpu", init_scale=SCALE)
    optimizer, reference, before = build(model), build(expected), weights(model)
    closure = closure_of(model, scaler, reduction="none")
    scaler.scale(torch.ones(()))  # makes the scale
    optimizer.backward(closure)
    if unscales:
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"optimizer.backward\(closure, scaler=scaler\)"):
        scaler.step(optimizer)
    assert same_bits(model, before)
    scaler.update(SCALE)
    optimizer.zero_grad()
    optimizer.backward(closure, scaler=scaler)  # as it says
    scaler.step(optimizer)
    reference.step(closure_of(expected, scaler, reduction="none"))
    assert_equal(model, expected)
    assert optimizer.steps == reference.steps == 1


def test_unscaling_twice_and_stepping_twice_are_torchs_errors():
    model, optimizer, scaler = made()
    climb_and_descend(optimizer, losses(model, 1)[0], scaler)
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    step(model, optimizer, scaler)
    assert optimizer.steps == 2
