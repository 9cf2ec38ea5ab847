"""An attribute of a public object takes effect when it is assigned, or says what to do instead: all of them."""

import copy
import inspect
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lowland
from lowland import compat, curvature, data
from lowland.optim import ascent, descent, presets
from lowland.training import RunDirectory


class Network(nn.Module):
    """With dropout, a buffer that moves, and no two layers alike."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.double()

    def forward(self, x):
        self.calls += 1
        return self.last(self.drop(self.first(x).tanh()))


X, Y = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 2


def trace(network, optimizer, steps=2):
    """All that settings can change: weights, buffers, evaluations, what is frozen in them, and what is kept of them."""
    seen = []

    def losses():
        seen.append([float(p.requires_grad) for p in network.parameters()])
        return F.cross_entropy(network(X), Y, reduction="none")

    def closure():
        loss = losses()
        if optimizer.per_example:
            return loss
        loss.mean().backward()
        return loss.mean()

    torch.manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            optimizer.step(closure)
    norms = [] if optimizer.last is None else optimizer.last.perturbed_gradient_norms
    return (
        [p.tolist() for p in network.parameters()],
        network.calls.item(),
        seen,
        None if norms is None else list(norms),
        optimizer.keep_on,
    )


def made(network, **settings):
    base = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    return lowland.SAM(base, 0.3, **settings)


GROUPS = {"m": 2}
#: Of SAM: what it is made with, and the value that is assigned; functions of the network.
SETTINGS = {
    "scope": ({}, lambda network: [network.last.weight]),
    "scope, of a module": (GROUPS, lambda network: network.first),
    "scope, by a function": ({}, lambda network: lowland.optim.scope.last_layer),
    "m": ({}, lambda network: 2),
    "m, other groups": (GROUPS, lambda network: 3),
    "l2": ({}, lambda network: 0.3),
    "eps": ({}, lambda network: 1.0),
    "same_masks": ({}, lambda network: True),
    "freeze": ({"scope": lowland.optim.scope.last_layer}, lambda network: True),
    "audit": (GROUPS, lambda network: False),
    "memory_limit": (GROUPS | {"ascent": ascent.Adaptive()}, lambda network: 1),
    "perturbed_norms": (GROUPS, lambda network: True),
    "keep_on": ({}, lambda network: "cpu"),
    "ascent_rule": ({}, lambda network: ascent.Adaptive()),
    "ascent_rule, of groups": (GROUPS, lambda network: ascent.Unnormalized()),
    "ascent_rule, with a memory": ({}, lambda network: ascent.Friendly()),
    "descent_rule": ({}, lambda network: descent.SurrogateGap(0.5)),
    "descent_rule, of examples": ({"eps": 1e-6}, lambda network: descent.Selected(0.5)),
    "model": ({"model": None}, lambda network: network),
}
ARGUMENTS = {"ascent_rule": "ascent", "descent_rule": "descent"}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_of_sam_takes_effect(case):
    given, value = SETTINGS[case]
    name = case.partition(",")[0]
    results = []
    for way in ("as it is", "assigned", "given"):
        network = Network()
        settings = {"model": network} | given
        if way == "given":
            settings[ARGUMENTS.get(name, name)] = value(network)
        optimizer = made(network, **settings)
        if way == "assigned":
            setattr(optimizer, name, value(network))
        results.append(trace(network, optimizer))
        assert copy.deepcopy(optimizer).keep_on == optimizer.keep_on
    before, assigned, given = results
    assert assigned == given
    assert assigned != before


@pytest.mark.parametrize("case", SETTINGS)
def test_between_steps_too(case):
    """After a step with the old value, that is: what was learned by it is not what is gone by."""
    given, value = SETTINGS[case]
    name = case.partition(",")[0]
    network = Network()
    optimizer = made(network, **{"model": network} | given)
    trace(network, optimizer, 1)
    setattr(optimizer, name, value(network))
    other = copy.deepcopy(network)
    settings = {"model": other} | given | {ARGUMENTS.get(name, name): value(other)}
    another = made(other, **settings)
    another.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares its tensors
    found, expected = trace(network, optimizer, 1), trace(other, another, 1)
    if optimizer.m is not None:  # the first evaluations look at more
        found, expected = (found[:2], found[3:]), (expected[:2], expected[3:])
    assert found == expected


REFUSED = [
    ("scope", [torch.zeros(3)], ValueError, "none of the optimizer's parameters"),
    ("m", 0, ValueError, "at least 1"),
    ("l2", -1, ValueError, "l2 must be"),
    ("eps", -1, ValueError, "eps is added"),
    ("memory_limit", 0, ValueError, "memory_limit"),
    ("keep_on", "disk", ValueError, "keep_on"),
    ("ascent_rule", ascent.Adaptive, TypeError, "the class Adaptive"),
    ("descent_rule", "gsam", TypeError, "descent= is a rule"),
    ("model", nn.Linear(2, 2), ValueError, "another model"),
    ("model", "resnet", TypeError, "model must be the network itself"),
]


@pytest.mark.parametrize(("name", "value", "error", "says"), REFUSED)
def test_what_the_constructor_refuses_is_refused_later(name, value, error, says):
    network = Network()
    optimizer = made(network, model=network)
    before = getattr(optimizer, name)
    with pytest.raises(error, match=says):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) is before


def test_what_goes_together_still_has_to():
    network = Network()
    optimizer = made(network, model=network, m=2)
    with pytest.raises(ValueError, match="m goes with"):
        optimizer.descent_rule = descent.SurrogateGap()
    with pytest.raises(ValueError, match="m needs model="):
        optimizer.model = None
    optimizer = made(network, model=network, scope=lowland.optim.scope.last_layer)
    with pytest.raises(ValueError, match="give model="):
        optimizer.model = None
    with optimizer.ascent():
        F.cross_entropy(network(X), Y).backward()
    for name in ("scope", "ascent_rule", "descent_rule", "m", "model"):
        with pytest.raises(RuntimeError, match=f"{name} assigned in the middle of a step"):
            setattr(optimizer, name, None)


def test_a_rule_with_another_number_goes_on_with_what_the_old_one_remembered():
    network = Network()
    optimizer = made(network, ascent=ascent.Friendly(decay=0.9))
    trace(network, optimizer, 1)
    before = optimizer.state_dict()["state"][0]["sam_average"].clone()
    optimizer.ascent_rule = ascent.Friendly(decay=0.5)
    assert torch.equal(optimizer.state_dict()["state"][0]["sam_average"], before)
    optimizer.ascent_rule = ascent.Unnormalized()
    assert "sam_average" not in optimizer.state_dict()["state"][0]


def test_a_compiled_step_notices():
    network = Network()
    optimizer = made(network)
    step = lowland.optim.compiled_step(optimizer, network, F.cross_entropy)
    optimizer.scope = network.last
    with pytest.raises(ValueError, match="no other rule or scope"):
        step(X, Y)


# Monitor


def monitor(network, **settings):
    base = torch.optim.SGD(network.parameters(), lr=0.1)
    given = {"optimizer": base, "model": network, "loss_fn": F.cross_entropy, "batches": [(X, Y)], "max_overhead": None}
    return curvature.Monitor(**given | settings)


def halved(x, y):
    return 1.0 if len(x) == 4 else 5.0


def wave(output, y):
    return output.mul(3).sin().mean()


OF_MONITOR = {
    "optimizer": ({}, lambda network: torch.optim.SGD(network.last.parameters(), lr=0.3)),
    "model": ({}, lambda network: nn.Sequential(network, nn.Softmax(1))),
    "loss_fn": ({}, lambda network: wave),
    "batches": ({}, lambda network: [(X[:4], Y[:4])]),
    "weight": ({"batches": [(X[:4], Y[:4]), (X[4:], Y[4:])]}, lambda network: halved),
    "every": ({}, lambda network: 2),
    "max_overhead": ({}, lambda network: 1e-9),
    "radius": ({}, lambda network: 0.2),
    "m": ({"radius": 0.2}, lambda network: 2),
    "ascent_steps": ({"radius": 2.0, "loss_fn": wave}, lambda network: 5),
    "tol": ({}, lambda network: 0.5),
    "max_basis": ({"tol": 1e-12}, lambda network: 4),
    "to": ({}, lambda network: lambda step, record: SENT.append(step)),
}
SENT: list[int] = []


@pytest.mark.parametrize("name", OF_MONITOR)
@pytest.mark.filterwarnings("ignore:.*not certified")
def test_a_setting_of_the_monitor_takes_effect(name):
    given, value = OF_MONITOR[name]
    results = []
    for way in ("as it is", "assigned", "given"):
        SENT.clear()
        network = Network().eval()
        settings = {"every": 1} | given
        watch = monitor(network, **settings | ({name: value(network)} if way == "given" else {}))
        if way == "assigned":
            setattr(watch, name, value(network))
        for _ in range(3):
            watch.step()
        records = [{k: v for k, v in r.items() if "seconds" not in k} for r in watch.records]
        results.append((records, list(SENT)))
    before, assigned, given = results
    assert assigned == given
    assert assigned != before


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("optimizer", None, TypeError), ("batches", iter([(X, Y)]), TypeError), ("every", 0, ValueError),
        ("max_overhead", 2, ValueError), ("radius", -1, ValueError), ("m", 0, ValueError), ("tol", 0, ValueError),
        ("ascent_steps", 0, ValueError), ("max_basis", 1, ValueError), ("to", 3, TypeError),
        ("model", nn.Linear(2, 2), ValueError),
    ],
)  # fmt: skip
def test_what_the_monitor_refuses_it_refuses_later(name, value, error):
    watch = monitor(Network().eval())
    with pytest.raises(error):
        setattr(watch, name, value)
    watch.step()


def test_progress_of_a_monitor_may_be_set():
    watch = monitor(Network().eval())
    watch.steps, watch.records = 7, []
    assert watch.step()["step"] == 8
    assert len(watch.records) == 1


# All attributes of all objects


def sams():
    network = Network()
    return made(network, model=network)


def of_a_preset():
    network = Network()
    return presets.GSAM(torch.optim.SGD(network.parameters(), lr=0.1), model=network)


def of_compat():
    return compat.SAM(Network().parameters(), torch.optim.SGD, lr=0.1)


def hessian():
    return curvature.Hessian(Network().eval(), F.cross_entropy, [(X, Y)])


#: How to make each, and the names that take effect: here, for the base optimizer, or in another test.
OBJECTS = {
    "SAM": (sams, {name.partition(",")[0] for name in SETTINGS}),
    "a preset": (of_a_preset, {name.partition(",")[0] for name in SETTINGS}),
    "compat.SAM": (of_compat, {"scope", "eps", "model", "keep_on"}),
    "Monitor": (lambda: monitor(Network().eval()), {*OF_MONITOR, "steps", "records"}),
    "Hessian": (hessian, set()),
    "Objective": (lambda: hessian().objective, set()),
    "Shuffled": (lambda: data.Shuffled(X, Y, 2, 0), set()),
    "TextPieces": (lambda: data.TextPieces(torch.arange(99), 2, 3, 0), set()),
}
OF_BASE = {"param_groups", "state", "defaults", "grad_scale", "found_inf"}


@pytest.mark.parametrize("kind", OBJECTS)
def test_every_attribute_takes_effect_or_says_what_to_do(kind):
    build, effective = OBJECTS[kind]
    thing = build()
    arguments = inspect.signature(type(thing).__init__).parameters.keys() - {"self", "args", "kwargs"}
    if isinstance(thing, compat.SAM):  # made into groups, and one by one in them
        arguments -= {"params", "adaptive", "perturb_eps"}
    if isinstance(thing, lowland.SAM):
        arguments |= inspect.signature(lowland.SAM).parameters.keys()
    found = {name for name in {*dir(thing), *arguments} if not name.startswith("_")}
    assert effective <= found
    for name in sorted(found):
        if isinstance(thing, lowland.SAM) and name in OF_BASE:
            value = {} if name == "state" else []
            setattr(thing, name, value)
            assert getattr(thing.base, name) is value
            thing = build()
        elif callable(getattr(type(thing), name, None)) and name not in arguments:
            continue  # a method in the place of a method is the one that is called
        elif name not in effective:
            with pytest.raises(AttributeError, match=rf"{type(thing).__name__}\.{name} can't be assigned: \w+"):
                setattr(thing, name, getattr(thing, name, None))


def test_help_says_what_a_setting_is():
    for name in {name.partition(",")[0] for name in SETTINGS} - {"keep_on"}:
        argument = name.removesuffix("_rule")
        assert f"argument ``{argument}`` of `lowland.SAM`" in inspect.getdoc(getattr(lowland.SAM, name))
        assert f"        {argument}: " in lowland.SAM.__doc__
    assert "can't be assigned: it keeps the optimizer" in inspect.getdoc(lowland.SAM.base)
    assert "rho stands in the parameter groups" in inspect.getdoc(lowland.SAM.rho)


def test_a_method_in_the_place_of_a_method_is_the_one_that_is_called():
    network = Network()
    optimizer = made(network)
    called = []
    optimizer.zero_grad = lambda: called.append("zero_grad")
    optimizer.passes = lambda: called.append("passes") or []
    optimizer.step(lambda: F.cross_entropy(network(X), Y).backward())
    assert called == ["zero_grad", "passes"]


def test_names_that_other_libraries_have():
    optimizer = sams()
    assert not hasattr(optimizer, "rho")
    with pytest.raises(AttributeError, match=r"group\['rho'\] = 0.1"):
        _ = optimizer.rho
    with pytest.raises(AttributeError, match=r"group\['rho'\] = 0.1"):
        optimizer.rho = 0.1
    with pytest.raises(AttributeError, match="the rule is"):
        optimizer.descent = descent.SurrogateGap()
    with pytest.raises(AttributeError, match="The rule is"):
        optimizer.ascent = ascent.Adaptive()
    with pytest.raises(AttributeError, match="second_step"):
        of_compat().m = 2


def test_a_run_directory_is_one(tmp_path):
    directory = RunDirectory(tmp_path / "run", {})
    for name in ("path", "config", "figures"):
        with pytest.raises(AttributeError, match="Make another"):
            setattr(directory, name, getattr(directory, name))
