"""A batch that is left out of a step: the usual guard against a loss that isn't finite."""

import itertools
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from lowland import SAM, compat
from lowland.optim import presets

from .test_presets import CASES
from .test_presets import network as family_network
from .training import (
    assert_equal,
    batch,
    by_closure,
    climb_and_descend,
    finish,
    loss_on,
    losses,
    network,
    same_bits,
    sgd,
    weights,
)

BAD = (1, 4)
STEPS = 6


def train(model, optimizer, leave, at, *, before_backward=True, scaler=None, micro_batches=1, bad=BAD):
    """Batches ``bad`` are skipped in pass ``at``, left by ``leave``: as a user writes it."""
    number = 0
    for step in range(STEPS):
        for part in range(micro_batches):
            x, y = batch(10 * step + part)
            for index, evaluation in enumerate(optimizer.passes(scaler=scaler)):
                with evaluation:
                    loss = F.cross_entropy(model(x), y) / micro_batches
                    skips = number in bad and index == min(at, last(optimizer))
                    if skips and before_backward:
                        optimizer.skip()
                        if leave == "break":
                            break
                        continue
                    (loss if scaler is None else scaler.scale(loss)).backward()
                    if skips:
                        optimizer.skip()
                        if leave == "break":
                            break
                        continue
            number += 1
        if scaler is None:
            optimizer.step()
        else:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()


def last(optimizer):
    """The index of this step's last pass."""
    if optimizer._own.radii.stays or not optimizer._own.climbs:
        return 0
    return optimizer._own.options.evaluations


def without(model, optimizer, micro_batches=1, bad=BAD):
    """The same with those batches left out of the data."""
    number = 0
    for step in range(STEPS):
        ran = False
        for part in range(micro_batches):
            if number not in bad:
                x, y = batch(10 * step + part)
                ran = True
                climb_and_descend(optimizer, partial(loss_on, model, x, y, micro_batches))
            number += 1
        if ran:
            finish(optimizer)


NAMES = [name for name in CASES if "," not in name and name != "ESAM"]
WAYS = [
    *itertools.product(["SAM", "MultiStepSAM"], ["break", "continue"], [0, 1], [True, False]),
    *((name, "continue", at, at == 0) for name in NAMES for at in (0, 1)),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "leave", "at", "before_backward"), WAYS)
def test_as_if_the_batch_were_not_there(name, leave, at, before_backward):
    build, settings, _, _ = CASES[name]
    models = family_network(), family_network()
    ours, theirs = (build(sgd(model), model=model, **settings) for model in models)
    train(models[0], ours, leave, at, before_backward=before_backward)
    without(models[1], theirs)
    if name != "FriendlySAM" or at == 0:  # its average has taken up the gradient at w, as where the second overflows
        assert_equal(*models, tol=0)
    assert ours.steps == theirs.steps == STEPS - len(BAD)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("at", [0, 1])
def test_under_a_scaler(at, fused, enabled):
    models = network(), network()
    ours, theirs = (SAM(sgd(model, fused=fused), rho=0.3) for model in models)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1000, enabled=enabled)
    train(models[0], ours, "break", at, scaler=scaler)
    without(models[1], theirs)
    assert_equal(*models, tol=1e-7 if fused else 1e-12)
    assert ours.steps == 4
    assert not enabled or scaler.get_scale() == 64.0


@pytest.mark.parametrize("rho", [0.3, 0.0])
@pytest.mark.parametrize("leave", ["break", "continue"])
@pytest.mark.parametrize("at", [0, 1])
def test_micro_batches(at, leave, rho):
    models = network(), network()
    ours, theirs = (SAM(sgd(model), rho=rho) for model in models)
    bad = (1, 2, 5, 6, 7, 8)  # of the first, the second, both
    train(models[0], ours, leave, at, micro_batches=2, bad=bad)
    without(models[1], theirs, 2, bad)
    assert_equal(*models, tol=0)
    assert ours.steps == theirs.steps == 5


@pytest.mark.parametrize("set_to_none", [True, False])
def test_too_late_to_tell_the_gradients_apart(set_to_none):
    model = network()
    optimizer = SAM(sgd(model), rho=0.3)
    before = weights(model)
    losses(model, 1)[0]().backward()
    optimizer.zero_grad(set_to_none)
    with optimizer.ascent():
        losses(model, 1)[0]().backward()
    with optimizer.perturbed():
        losses(model, 1)[0]().backward()
        if set_to_none:
            optimizer.skip()
        else:
            with pytest.raises(RuntimeError, match="Call it before backward"):
                optimizer.skip()
    assert same_bits(model, before)


def test_between_the_passes_by_name_and_before_the_first():
    models = network(), network()
    ours, theirs = (SAM(sgd(model), rho=0.3) for model in models)
    with ours.ascent():
        losses(models[0], 1)[0]().backward()
    ours.skip()
    ours.step()
    for _ in ours.passes():
        ours.skip()
        continue
    ours.step()
    assert ours.steps == 0
    assert ours.state_dict()["state"] == {}
    for model, optimizer in zip(models, (ours, theirs), strict=True):
        by_closure(optimizer, losses(model, 1)[0])
    assert_equal(*models, tol=0)


def test_a_closure_that_skips():
    model = network()
    optimizer = SAM(sgd(model), rho=0.3)
    before = weights(model)

    def closure():
        optimizer.skip()
        return torch.tensor(7.0)

    assert optimizer.step(closure) == 7.0
    assert optimizer.steps == 0
    assert same_bits(model, before)


def test_in_a_loop_of_two_steps():
    model = network()
    optimizer = compat.SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.2)
    before = weights(model)
    losses(model, 1)[0]().backward()
    optimizer.first_step(zero_grad=True)
    optimizer.skip()
    assert same_bits(model, before)
    losses(model, 1)[0]().backward()
    optimizer.first_step(zero_grad=True)
    losses(model, 1)[0]().backward()
    optimizer.second_step()
    assert optimizer.steps == 1


def test_a_warning_of_a_plain_step_comes_after_a_skipped_batch_too():
    model = network()
    optimizer = SAM(sgd(model), rho=0.3)
    for _ in optimizer.passes():
        optimizer.skip()
    optimizer.step()
    losses(model, 1)[0]().backward()
    with pytest.warns(UserWarning, match="without passes"):
        optimizer.step()


def test_where_it_makes_no_sense():
    model = network()
    optimizer = SAM(sgd(model), rho=0.3)
    with pytest.raises(RuntimeError, match="none is"):
        optimizer.skip()
    climb_and_descend(optimizer, losses(model, 1)[0])
    with pytest.raises(RuntimeError, match=r"zero_grad\(\) in place of step"):
        optimizer.skip()
    model = network()
    for other in (presets.ESAM(sgd(model)), SAM(sgd(model), rho=0.3, model=model, m=2)):
        with pytest.raises(RuntimeError, match="raise an exception in the closure"):
            other.skip()


@pytest.mark.parametrize("leave", ["break", "continue"])
@pytest.mark.parametrize("at", [0, 1])
def test_leaving_without_it_is_an_error_that_names_it(leave, at):
    model = network()
    optimizer = SAM(sgd(model), rho=0.3)
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"optimizer\.skip\(\)") as caught:  # noqa: PT012
        for index, evaluation in enumerate(optimizer.passes()):
            with evaluation:
                if index == at:
                    if leave == "break":
                        break
                    continue
                losses(model, 1)[0]().backward()
        optimizer.step()
    assert "FSDP2" not in str(caught.value)
    assert same_bits(model, before)
    by_closure(optimizer, losses(model, 1)[0])
