"""Autocast and loss scaling: one region or two are the same; overflow skips the steps that plain training would."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM

from . import textbook
from .training import assert_equal, batch, losses, network, same_bits, sgd, weights

BF16 = {"device_type": "cpu", "dtype": torch.bfloat16}


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_one_autocast_region_around_the_step_or_one_around_each_pass(rho):
    one, each, textbook_like = (network(torch.float32) for _ in range(3))
    x, y = batch(dtype=torch.float32)

    def loss_fn(model):
        return F.cross_entropy(model(x), y)

    optimizer = SAM(sgd(one), rho=rho)
    for _ in range(4):
        with torch.autocast(**BF16):
            for evaluation in optimizer.passes():
                with evaluation:
                    loss_fn(one).backward()
            optimizer.step()
            optimizer.zero_grad()
    optimizer = SAM(sgd(each), rho=rho)
    for _ in range(4):
        for evaluation in optimizer.passes():
            with evaluation, torch.autocast(**BF16):
                loss_fn(each).backward()
        optimizer.step()
        optimizer.zero_grad()

    def autocast_loss():
        with torch.autocast(**BF16):
            return loss_fn(textbook_like)

    textbook.train(textbook_like, sgd(textbook_like), [autocast_loss] * 4, rho)
    assert same_bits(one, each)
    assert_equal(one, textbook_like, tol=1e-4)


def test_one_autocast_region_around_the_whole_training():
    ours, expected = network(torch.float32), network(torch.float32)
    optimizer = SAM(sgd(ours), rho=0.5)
    for region in (True, False):
        model = ours if region else expected
        optimizer = SAM(sgd(model), rho=0.5)
        x, y = batch(dtype=torch.float32)

        def closure(model=model, x=x, y=y):
            with torch.autocast(**BF16):
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        with torch.autocast(enabled=region, **BF16):
            for _ in range(4):
                optimizer.step(closure)
    assert same_bits(ours, expected)


def scaled_step(optimizer, scaler, loss_fn, bad=(), unscale=False, clip=None):
    """One step under ``scaler``, the loss infinite in the passes ``bad``."""
    for i, evaluation in enumerate(optimizer.passes(scaler=scaler)):
        with evaluation:
            scaler.scale(loss_fn() * (math.inf if i in bad else 1)).backward()
    if unscale:
        scaler.unscale_(optimizer)
    if clip is not None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


SCALED_BASES = {
    "SGD": sgd,
    "fused SGD, which takes the scale itself": lambda m: sgd(m, fused=True),
    "fused AdamW, which takes the scale itself": lambda m: torch.optim.AdamW(m.parameters(), lr=0.02, fused=True),
    "AdamW": lambda m: torch.optim.AdamW(m.parameters(), lr=0.02),
}


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("name", SCALED_BASES)
def test_loss_scaling_changes_nothing_and_overflow_skips_the_step_as_in_plain_training(name, unscale):
    # What the loss overflows in: nothing, the first pass, the second, both, nothing, ...
    plan = [(), (0,), (), (1,), (), (0, 1), (), ()]
    ours, expected, plain = network(), network(), network()
    optimizer, base = SAM(SCALED_BASES[name](ours), rho=0.3), SCALED_BASES[name](expected)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    plain_base, plain_scaler = (
        SCALED_BASES[name](plain),
        torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2),
    )
    for step, bad in enumerate(plan):
        before = weights(ours)
        scaled_step(optimizer, scaler, losses(ours, 8)[step], bad, unscale)
        plain_scaler.scale(losses(plain, 8)[step]() * (math.inf if bad else 1)).backward()
        plain_scaler.step(plain_base)
        plain_scaler.update()
        plain_base.zero_grad()
        assert scaler.state_dict() == plain_scaler.state_dict()
        if bad:
            assert same_bits(ours, before)
        else:
            textbook.train(expected, base, [losses(expected, 8)[step]], 0.3)
        assert_equal(ours, expected, tol=1e-6 if "fused" in name else 1e-10)  # float32 scales in fused kernels
    if "fused" not in name:  # those skip on the device, and the step doesn't learn of it
        assert optimizer.steps == sum(not bad for bad in plan)


def test_eps_and_clipping_are_meant_for_gradients_without_the_scale():
    ours, expected = network(), network()
    optimizer = SAM(sgd(ours), rho=0.3, eps=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    for loss_fn in losses(ours):
        scaled_step(optimizer, scaler, loss_fn, unscale=True, clip=0.1)
    textbook.train(expected, sgd(expected), losses(expected), 0.3, clip=0.1, eps=0.5)
    assert_equal(ours, expected)


def test_accumulation_under_a_scaler_one_micro_batch_overflowing():
    ours = network()
    optimizer = SAM(sgd(ours), rho=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    before = weights(ours)
    for part, loss_fn in enumerate(losses(ours)):
        for i, evaluation in enumerate(optimizer.passes(scaler=scaler)):
            with evaluation:
                scaler.scale(loss_fn() * (math.inf if (part, i) == (1, 0) else 1)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 32.0
    assert same_bits(ours, before)


def test_overflow_is_passed_on_beside_an_empty_parameter():
    w, empty = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(0))
    optimizer = SAM(torch.optim.SGD([w, empty], lr=0.1), rho=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaled_step(optimizer, scaler, lambda: w.square().sum() + empty.sum(), bad=(0,))
    assert scaler.get_scale() == 4.0
    assert w.tolist() == [1.0] * 3


def test_a_small_gradient_of_half_precision_weights():
    w = nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)
    for i, evaluation in enumerate(optimizer.passes()):
        with evaluation:
            if i:
                assert w.tolist() == [1.25] * 4
            (w * 1e-6).sum().backward()


def test_without_telling_sam_of_the_scaler_an_overflow_in_the_ascent_is_a_step_of_the_base():
    ours, plain = network(), network()
    optimizer, base = SAM(sgd(ours), rho=0.3), sgd(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    (loss_fn,) = losses(ours, 1)
    with optimizer.ascent():
        scaler.scale(loss_fn() * math.inf).backward()
    with optimizer.perturbed():
        scaler.scale(loss_fn()).backward()
    scaler.step(optimizer)
    losses(plain, 1)[0]().backward()
    base.step()
    assert_equal(ours, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_come_back_and_the_norm_does_not_overflow(dtype):
    w = nn.Parameter(torch.full((64,), 3.0, dtype=dtype))
    before = w.detach().clone()
    optimizer = SAM(torch.optim.SGD([w], lr=0.0), rho=80.0)
    for i, evaluation in enumerate(optimizer.passes()):
        with evaluation:
            if i:
                torch.testing.assert_close(w.detach(), torch.full_like(w, 13.0))  # 80 / sqrt(64) higher
            (w * 60000.0 if dtype == torch.float16 else w * 1e18).sum().backward()
    assert torch.equal(w.detach(), before)


def test_fp16_autocast_with_a_scaler():
    ours, expected = network(torch.float32), network(torch.float32)
    optimizer = SAM(sgd(ours), rho=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    fns = losses(ours, dtype=torch.float32)
    for loss_fn in fns:
        with torch.autocast("cpu", dtype=torch.float16):
            for evaluation in optimizer.passes(scaler=scaler):
                with evaluation:
                    scaler.scale(loss_fn()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert scaler.get_scale() == 2.0**8
    textbook.train(expected, sgd(expected), losses(expected, dtype=torch.float32), 0.3)
    assert_equal(ours, copy.deepcopy(expected), tol=1e-2)
