"""Forward, passes and step in another order than theirs: right where it can be, else an error that says what to do."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from lowland import SAM
from lowland.optim import presets

from .training import assert_equal, batch, by_passes, climb_and_descend, losses, network, same_bits, sgd, weights


@pytest.mark.parametrize("retained", [False, True])
@pytest.mark.parametrize("build", [SAM, presets.MultiStepSAM, presets.GSAM])
def test_a_forward_pass_before_the_passes(build, retained):
    model, other = network(), network()
    optimizer, theirs = build(sgd(model)), build(sgd(other))
    before = weights(model)
    loss = losses(model, 1)[0]()
    with pytest.raises(RuntimeError, match="both inside `with evaluation`") as caught:  # noqa: PT012
        for evaluation in optimizer.passes():
            with evaluation:
                loss.backward(retain_graph=retained)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert same_bits(model, before)
    optimizer.zero_grad()
    another = losses(model, 1)[0]()
    with pytest.raises(RuntimeError, match="or the closure"):
        optimizer.step(lambda: another.backward(retain_graph=retained))
    optimizer.zero_grad()
    by_passes(optimizer, losses(model, 1)[0])
    by_passes(theirs, losses(other, 1)[0])
    assert_equal(model, other, tol=0)


def test_other_errors_stay_what_they_are():
    model = network()
    optimizer = SAM(sgd(model))
    x, y = batch()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), optimizer.ascent():
        F.cross_entropy(model(x[:, :3]), y).backward()
    hidden = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"^one of the variables"), optimizer.ascent():  # noqa: PT012
        squared = hidden.exp()
        squared.add_(1).sum().backward()


@pytest.mark.parametrize("name", ["SAM", "WSAM", "LookSAM", "PreviousSAM"])
def test_a_closure_behind_the_passes_that_runs_hooks_alone(name):
    """As Lightning hands one to every step."""
    models = network(), network()
    ours, theirs = (presets.PRESETS[name].build(sgd(model), model=model) for model in models)
    seen = []

    def closure():
        seen.append(all(p.grad is not None for p in models[0].parameters()))
        torch.nn.utils.clip_grad_norm_(models[0].parameters(), 1e9)  # in place, as a hook may
        return "what it returns"

    for step in range(3):
        climb_and_descend(ours, losses(models[0], 3)[step])
        assert ours.step(closure) == "what it returns"
        ours.zero_grad()
        by_passes(theirs, losses(models[1], 3)[step])
    assert_equal(*models, tol=1e-15)
    assert ours.steps == 3
    assert seen == [True] * 3


def test_a_closure_behind_the_passes_that_runs_backward():
    model, other = network(), network()
    optimizer, theirs = SAM(sgd(model), rho=0.3), SAM(sgd(other), rho=0.3)
    before = weights(model)

    def closure(model=model):
        loss = losses(model, 1)[0]()
        loss.backward()
        return loss

    climb_and_descend(optimizer, losses(model, 1)[0])
    with pytest.raises(RuntimeError, match="ran backward once more"):
        optimizer.step(closure)
    assert same_bits(model, before)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    for set_to_none in (True, False):
        optimizer.zero_grad(set_to_none)  # drops the passes
        optimizer.step(closure)
        theirs.step(lambda: closure(other))
        assert_equal(model, other, tol=0)


def test_a_closure_that_was_always_wrong_still_is():
    model = network()
    optimizer = SAM(sgd(model), rho=0.3)
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="was backward"):
        optimizer.step(lambda: None)
