"""Calls written for other libraries' SAM: an error that says what they are here."""

import copy
import inspect
import pickle

import pytest
import torch

import lowland
from lowland import SAM, compat
from lowland.optim import presets

from .training import network, sgd

CALLS = {
    "params and a class": (lambda p: SAM(p, torch.optim.AdamW, rho=0.05, lr=1e-3), "AdamW(params, lr=", "compat.SAM"),
    "and no settings": (lambda p: SAM(p, torch.optim.SGD), "SGD(params, lr=", "compat.SAM"),
    "by name": (lambda p: SAM(p, base_optimizer=torch.optim.SGD, rho=0.05), "SGD(params, lr=", "compat.SAM"),
    "all by name": (lambda p: SAM(params=p, base_optimizer=torch.optim.Adam), "Adam(params, lr=", "compat.SAM"),
    "adaptive, too": (
        lambda p: SAM(p, torch.optim.SGD, rho=2.0, adaptive=True, lr=0.1), "compat.SAM", "presets.ASAM",
    ),
    "a function that makes it": (lambda p: SAM(p, torch.optim.SGD.__call__), "goes around an optimizer", "compat.SAM"),
    "adaptive": (lambda p: SAM(torch.optim.SGD(p), rho=2.0, adaptive=True), "no argument adaptive", "eta=0.0"),
    "eta": (lambda p: SAM(torch.optim.SGD(p), rho=2.0, eta=0.01), "no argument eta", "presets.ASAM"),
    "settings of the base": (lambda p: SAM(torch.optim.SGD(p), lr=0.1), "no argument lr", "SGD(params, lr=...)"),
    "eps": (lambda p: SAM(torch.optim.SGD(p), perturb_eps=0.1), "no argument perturb_eps", "eps= here"),
    "radius": (lambda p: SAM(torch.optim.SGD(p), radius=0.1), "no argument radius", "rho= here"),
    "centralization": (lambda p: SAM(torch.optim.SGD(p), use_gc=True), "use_gc", "no counterpart"),
    "its name": (lambda p: SAM(optimizer=torch.optim.SGD(p)), "no argument optimizer", "first argument"),
    "a preset": (lambda p: presets.ASAM(p, torch.optim.SGD, rho=2.0, lr=0.1), "ASAM(SGD(params, lr=", "compat.SAM"),
    "a preset given the base's": (lambda p: presets.GSAM(torch.optim.SGD(p), lr=0.1), "GSAM has no argument lr: "),
    "misspelt": (lambda p: SAM(torch.optim.SGD(p), roh=0.1), "SAM has no argument roh. Did you mean rho?"),
    "nothing near": (lambda p: SAM(torch.optim.SGD(p), 0.1, zzz=1), "no argument zzz. Known: ascent, audit, base,"),
    "both": (lambda p: SAM(torch.optim.SGD(p), modle=None, adaptive=True), "no argument adaptive"),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_says_what_it_is_here(call):
    make, *says = CALLS[call]
    with pytest.raises(TypeError) as caught:
        make(network().parameters())
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("method", "says"),
    [("first_step", "runs unchanged with lowland.compat.SAM"), ("second_step", "compat"), ("ascent_step", "passes()")],
)
def test_methods_of_others_say_so_too(method, says):
    optimizer = SAM(sgd(network()))
    assert not hasattr(optimizer, method)
    with pytest.raises(AttributeError, match=f"SAM has no {method}\\(\\): ") as caught:
        getattr(optimizer, method)
    assert says in str(caught.value)
    optimizer.base.first_step = lambda: "the base optimizer's own"
    assert optimizer.first_step() == "the base optimizer's own"


def test_what_is_named_works():
    model = network()
    compat.SAM(model.parameters(), torch.optim.SGD, rho=2.0, adaptive=True, lr=0.1, perturb_eps=0.0)
    compat.SAM(model.parameters(), base_optimizer=torch.optim.AdamW, lr=0.1)
    presets.ASAM(sgd(model), rho=2.0, eta=0.0, biases=True)


def test_subclasses_have_arguments_of_their_own_and_the_signature_stays():
    assert list(inspect.signature(lowland.SAM).parameters)[:3] == ["base", "rho", "model"]

    class Mine(SAM):
        def __init__(self, params, lr, adaptive):
            super().__init__(torch.optim.SGD(params, lr=lr))
            self.adaptive = adaptive

    class HandsOn(SAM):
        def __init__(self, params, **of_base):
            super().__init__(torch.optim.SGD(params, **of_base))

    model = network()
    optimizer = Mine(model.parameters(), lr=0.1, adaptive=True)
    assert isinstance(copy.deepcopy(optimizer), Mine)
    with pytest.raises(TypeError, match=r"Mine has no argument adaptiv\. Did you mean adaptive\?"):
        Mine(model.parameters(), lr=0.1, adaptiv=True)
    assert HandsOn(model.parameters(), lr=0.3).param_groups[0]["lr"] == 0.3
    assert pickle.loads(pickle.dumps(SAM(sgd(model), rho=0.3))).param_groups[0]["rho"] == 0.3


def test_a_loss_in_place_of_a_closure():
    model = network()
    loss = next(model.parameters()).square().sum()
    loss.backward()
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    plain, other = SAM(torch.optim.SGD(model.parameters(), lr=0.1)), compat.SAM(model.parameters(), torch.optim.SGD)
    by_example = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model, m=1)
    for call in (plain.step, other.step, by_example.step, by_example.backward):
        with pytest.raises(TypeError, match=r"computes the loss anew in each pass, not a Tensor: .*closure\), or"):
            call(loss)
    for p, gradient in zip(model.parameters(), before, strict=True):
        assert gradient is None if p.grad is None else torch.equal(p.grad, gradient)
