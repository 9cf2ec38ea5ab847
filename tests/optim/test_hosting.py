"""What trainers put before an optimizer: passes run on the stand-in, the step on the optimizer, to the same bits."""

import copy
import warnings

import pytest
import torch
from torch.nn import functional as F

from lowland import SAM, compat
from lowland.optim import presets

from .test_presets import CASES, network, run
from .training import assert_equal, batch, losses, same_bits, sgd, train, weights
from .training import network as plain_network


class Copying:
    """Takes the optimizer's attributes over when it is made, as Lightning once did."""

    def __init__(self, inner):
        self.__dict__ = {key: value for key, value in inner.__dict__.items() if key != "step"}
        self.inner = inner
        self.__class__ = type("Copying" + type(inner).__name__, (Copying, type(inner)), {})

    def step(self, closure=None):
        return self.inner.step(closure)


class LookingUp:
    """Has no attributes of the optimizer's, and looks up what it lacks."""

    def __init__(self, inner):
        self.inner = inner
        self.__class__ = type("LookingUp" + type(inner).__name__, (LookingUp, type(inner)), {})

    def step(self, closure=None):
        return self.inner.step(closure)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Subclass(SAM):
    """Made as a subclass, which steps by itself."""

    def __init__(self, inner):
        self.__dict__.update(inner.__dict__)


def fabric(inner):
    wrappers = pytest.importorskip("lightning.fabric.wrappers", reason="Lightning is not installed")
    from lightning.fabric.strategies import SingleDeviceStrategy

    return wrappers._FabricOptimizer(inner, SingleDeviceStrategy())


KINDS = {"Fabric": fabric, "copying": Copying, "looking up": LookingUp, "subclass": Subclass}
STEPS = 4


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in CASES if "," not in name])
def test_every_preset(name, kind):
    build, settings, _, _ = CASES[name]
    alone, behind = network(), network()
    optimizer, inner = (build(sgd(model), model=model, **settings) for model in (alone, behind))
    stand_in = KINDS[kind](inner)
    for step in range(STEPS):
        assert run(alone, optimizer, step)[1] == run(behind, stand_in, step)[1]
    assert_equal(behind, alone, tol=0)
    assert stand_in.steps == inner.steps == STEPS
    assert inner.state_dict().keys() == optimizer.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_scaler_a_schedule_and_accumulation(kind):
    def radius(step):
        return 0.3 / (1 + step)

    alone, behind = network(), network()
    optimizer, inner = (presets.GSAM(sgd(model), radius, model=model) for model in (alone, behind))
    stand_in = KINDS[kind](inner)
    for model, o in ((alone, optimizer), (behind, stand_in)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for step in range(STEPS):
            for part in range(2):
                x, y = batch(step + 10 * part)
                for evaluation in o.passes(scaler=scaler):
                    with evaluation:
                        scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(o)
            scaler.update()
            o.zero_grad()
    assert_equal(behind, alone, tol=0)
    assert stand_in.steps == inner.steps == STEPS
    assert inner.param_groups[0]["rho"] == optimizer.param_groups[0]["rho"] == radius(STEPS - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_states_and_exceptions_are_the_optimizers(kind):
    model = plain_network()
    inner = SAM(sgd(model), rho=0.3)
    stand_in = KINDS[kind](inner)
    stand_in.l2 = 0.25
    assert inner.l2 == 0.25
    before = weights(model)
    with pytest.raises(MemoryError):  # noqa: PT012
        for evaluation in stand_in.passes():
            with evaluation:
                assert inner.under_way
                losses(model, 1)[0]().backward()
                if inner.under_way == "perturbed":
                    raise MemoryError
    assert inner.under_way is None
    assert same_bits(model, before)
    with stand_in.ascent():
        losses(model, 1)[0]().backward()
    with pytest.raises(RuntimeError, match="without perturbed"):
        inner.step()
    with inner.perturbed():
        losses(model, 1)[0]().backward()
    stand_in.step()
    assert inner.steps == 1
    inner.load_state_dict(stand_in.state_dict())
    train(model, stand_in, losses(model))  # loading makes nothing that only one of them has
    assert inner.steps == stand_in.steps == 6
    other_model, other = copy.deepcopy((model, inner))
    train(other_model, other, losses(other_model, 1))
    assert (inner.steps, other.steps) == (6, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_examples(kind):
    alone, behind = plain_network(), plain_network()
    optimizer, inner = (SAM(sgd(model), rho=0.3, model=model, m=3) for model in (alone, behind))
    stand_in = KINDS[kind](inner)
    x, y = batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model, o in ((alone, optimizer), (behind, stand_in)):
            for _ in range(2):
                o.backward(lambda model=model: F.cross_entropy(model(x), y, reduction="none"))
                o.step()
                o.zero_grad()
    assert_equal(behind, alone, tol=0)
    assert inner.steps == 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "subclass"])
def test_loops_of_two_steps(kind):
    alone, behind = plain_network(), plain_network()
    optimizer, inner = (
        compat.SAM(model.parameters(), torch.optim.SGD, rho=0.3, adaptive=True, lr=0.2) for model in (alone, behind)
    )
    for model, o in ((alone, optimizer), (behind, KINDS[kind](inner))):
        for loss_fn in losses(model):
            loss_fn().backward()
            o.first_step(zero_grad=True)
            loss_fn().backward()
            o.second_step(zero_grad=True)
    assert_equal(behind, alone, tol=0)
    assert inner.steps == 5


def test_what_an_optimizer_keeps_is_shared():
    """Whatever it sets, in a step or when it is made, is declared: nothing can stay behind with a stand-in."""
    for build in (SAM, presets.WSAM, presets.LookSAM):
        model = plain_network()
        torchs = set(vars(torch.optim.SGD(model.parameters(), lr=0.1)))
        optimizer = build(sgd(model), rho=0.3, model=model)
        train(model, optimizer, losses(model, 1))
        assert set(vars(optimizer)) - torchs == {"_own"}
