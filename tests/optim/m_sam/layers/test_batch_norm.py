"""Batch norm in training mode: each group has the statistics, and the loss, of the model run on it alone."""

import copy
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lowland.models import resnet
from lowland.optim import SAM, ascent, verify_rule
from tests.optim.textbook import m_sam, penalized

from ...training import by_passes
from ..against_the_loop import by_the_loop, gradients, relative_error
from ..networks import Net, rand

RHO = 0.3


def definition(model, x, losses, m, l2=0.0, scope=None):
    """The m-SAM gradient by running the model on each group for itself."""
    model = copy.deepcopy(model)
    params = [p for p in model.parameters() if p.requires_grad]

    def loss_of(rows):
        examples = torch.arange(len(x))[rows]
        return penalized(lambda: losses(model, x[rows], examples).mean(), params, l2)()

    climbing = params if scope is None else list(scope(model))
    return m_sam(loss_of, climbing, len(x), m, RHO, wanted=params)


def plain(model, x, _):
    return model(x)


def check(model, x, m, losses=plain, **options):
    """The one pass and the loop against the definition, running statistics included; the optimizer of the former."""
    expected = definition(model, x, losses, m, options.get("l2", 0.0), options.get("scope"))
    statistics = running(model, x, losses, m)
    for way in ("loop", "one pass"):
        ours = copy.deepcopy(model)
        params = [p for p in ours.parameters() if p.requires_grad]
        optimizer = SAM(torch.optim.SGD(params, lr=0.1), rho=RHO, model=ours, m=m, **options)
        run = optimizer.backward if way == "one pass" else partial(by_the_loop, optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="m-SAM")
            run(lambda ours=ours: losses(ours, x, torch.arange(len(x))))
        assert relative_error([p.grad for p in params], expected) < 1e-9
        for name, buffer in ours.named_buffers():
            torch.testing.assert_close(buffer, statistics[name])
    assert optimizer._own.engine.reason is None
    return optimizer


def running(model, x, losses, m):
    """The buffers after one step: each moved to the groups' mean of where it would move, at w."""
    found, model = {}, copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    for chosen in torch.arange(len(x)).split(m):
        model.load_state_dict(before)
        losses(model, x[chosen], chosen)
        for name, buffer in model.named_buffers():
            share = len(chosen) / len(x)
            counts = not buffer.is_floating_point()
            found[name] = buffer.clone() if counts else found.get(name, 0) + share * buffer
    return found


LAYERS = {
    "vectors": (nn.BatchNorm1d(4), (4,)),
    "sequences": (nn.BatchNorm1d(4, momentum=None), (4, 5)),
    "images": (nn.BatchNorm2d(4, eps=0.1), (4, 3, 2)),
    "volumes": (nn.BatchNorm3d(4, momentum=0.7), (4, 2, 1, 2)),
    "no scale": (nn.BatchNorm2d(4, affine=False), (4, 3, 2)),
    "no statistics": (nn.BatchNorm1d(4, track_running_stats=False), (4,)),
    "no statistics, evaluating": (nn.BatchNorm1d(4, track_running_stats=False).eval(), (4,)),
    "neither": (nn.BatchNorm1d(4, affine=False, track_running_stats=False), (4,)),
}


def network(layer, size):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(0.5, 1.5)
    pointwise = nn.Linear if len(size) == 1 else (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 2]
    kernel = () if len(size) == 1 else (1,)
    layers = pointwise(4, 4, *kernel), layer, nn.ReLU(inplace=True), pointwise(4, 3, *kernel)
    # The first one without anything before it: what it sees needs no gradient.
    return Net(copy.deepcopy(layer), *layers)


@pytest.mark.parametrize("m", [2, 3, 4, 8, 50])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_definition(name, m):
    layer, size = LAYERS[name]
    check(network(layer, size), rand(8, *size), m)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_sizes(n, m, pixels, images):
    size = (4, pixels, 2) if images else (4, pixels)
    model, x = network(nn.BatchNorm2d(4) if images else nn.BatchNorm1d(4), size), rand(n, *size)
    if pixels == 1 and not images and (m == 1 or n % min(m, n) == 1 or n == 1):
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=RHO, model=model, m=m)
        with pytest.raises(ValueError, match=r"batch norm \(body\.[02].*one value a channel"):
            optimizer.step(lambda: model(x))
    else:
        check(model, x, m)


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("frozen", ["weight", "bias", "both"])
def test_frozen_scale_or_shift(frozen, m):
    model = network(nn.BatchNorm2d(4), (4, 3, 2))
    for layer in (model.body[0], model.body[2]):
        layer.weight.requires_grad_(frozen == "bias")
        layer.bias.requires_grad_(frozen == "weight")
    check(model, rand(8, 4, 3, 2), m)


@pytest.mark.parametrize("audit", [True, False])
@pytest.mark.parametrize("scope", [lambda net: net.body[1].parameters(), lambda net: net.body[2].parameters()])
def test_scope_and_l2(scope, audit):
    check(network(nn.BatchNorm1d(4), (4,)), rand(8, 4), 3, scope=scope, l2=0.1, audit=audit)


def entropy(model, x, chosen):
    return F.cross_entropy(model(x), chosen % 3, reduction="none")


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_residual_network(m, channels_last):
    torch.manual_seed(0)
    model, x = resnet((1, 1, 1, 1), width=4, classes=3).double(), rand(5, 3, 16, 16)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    check(model, x, m, entropy, l2=0.01)


class Twice(nn.Module):
    """One layer at two places, with rows that are positions of examples at one of them; recomputed in backward."""

    def __init__(self, recomputes=False):
        super().__init__()
        torch.manual_seed(0)
        self.recomputes = recomputes
        self.linear, self.norm = nn.Linear(4, 4).double(), nn.BatchNorm1d(4, track_running_stats=False).double()

    def forward(self, x):
        y = checkpoint(self.block, x, use_reentrant=False) if self.recomputes else self.block(x)
        return self.norm(y.mT).square().sum((1, 2))

    def block(self, x):
        return self.norm(self.linear(x.flatten(0, 1))).unflatten(0, x.shape[:2]).tanh()


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_layer_used_twice_on_words(recomputes, m):
    check(Twice(recomputes), rand(5, 3, 4), m)


@pytest.mark.parametrize("rule", [ascent.Unnormalized(), ascent.Adaptive(biases=True), ascent.MultiStep(2)], ids=str)
def test_other_ascent_rules_agree_with_the_loop(rule):
    model, x, found = network(nn.BatchNorm1d(4), (4,)), rand(8, 4), []
    for way in ("one pass", "loop"):
        ours = copy.deepcopy(model)
        optimizer = SAM(torch.optim.SGD(ours.parameters(), lr=0.1), rho=0.1, model=ours, m=3, ascent=rule)
        run = optimizer.backward if way == "one pass" else partial(by_the_loop, optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="m-SAM goes group by group")
            run(lambda ours=ours: ours(x))
        found.append((gradients(ours), list(ours.buffers())))
    assert relative_error(found[0][0], found[1][0]) < 1e-9
    torch.testing.assert_close(found[0][1], found[1][1])


def test_one_group_is_plain_sam_step_after_step():
    ours = network(nn.BatchNorm2d(4, momentum=None), (4, 3, 2))
    expected = copy.deepcopy(ours)
    optimizer = SAM(torch.optim.SGD(ours.parameters(), lr=0.1), rho=RHO, model=ours, m=100)
    reference = SAM(torch.optim.SGD(expected.parameters(), lr=0.1), rho=RHO, model=expected)
    for n in (6, 3, 4):
        x = torch.randn(n, 4, 3, 2).double()
        optimizer.step(lambda x=x: ours(x))
        by_passes(reference, lambda x=x: expected(x).mean())
        optimizer.zero_grad()
        torch.testing.assert_close(ours.state_dict(), expected.state_dict())
    assert optimizer._own.engine.reason is None


@pytest.mark.parametrize("affine", [True, False])
def test_batches_of_other_sizes(affine):
    model = network(nn.BatchNorm1d(4, affine=affine), (4,))
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=RHO, model=model, m=3)
    for n in (6, 12, 8, 3):
        x = torch.randn(n, 4).double()
        expected, statistics = definition(model, x, plain, 3), running(model, x, plain, 3)
        optimizer.zero_grad()
        optimizer.backward(lambda x=x: model(x))
        assert relative_error(gradients(model), expected) < 1e-9
        torch.testing.assert_close(dict(model.named_buffers()), statistics)
    assert optimizer._own.engine.reason is None


class Backwards(nn.Module):
    """The batch in another order."""

    def forward(self, x):
        return x.flip(0)


def test_where_the_loop_is_taken_statistics_count_a_batch_once():
    model = nn.Sequential(nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3), Backwards(), nn.Linear(5, 5), Backwards()).double()
    x = rand(6, 3, 5)
    statistics = running(model, x, lambda model, x, _: model(x), 2)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=RHO, model=model, m=2)
    with pytest.warns(UserWarning, match="group by group|no rule"):
        optimizer.step(lambda: model(x).square().sum((1, 2)))
    assert "flip" in optimizer._own.engine.reason
    torch.testing.assert_close(dict(model.named_buffers()), statistics)


def test_an_error_leaves_statistics_as_they_were():
    model, x = network(nn.BatchNorm1d(4), (4,)), rand(7, 4)
    before = copy.deepcopy(model.state_dict())
    for rule in (None, ascent.MultiStep(2)):
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=RHO, model=model, m=3, ascent=rule)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="m-SAM goes group by group")
            with pytest.raises(ValueError, match=r"body\.0.*m of at least 2 and batches that leave no example over"):
                optimizer.step(lambda: model(x))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class WordsFirst(nn.Module):
    """As many words as examples, so that sizes don't tell."""

    def __init__(self, affine):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(4, affine=affine), nn.Linear(4, 2)
        self.double()

    def forward(self, x):
        y = self.norm(x.transpose(0, 1).flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(0, 1)
        return self.linear(y).square().sum((1, 2))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("words", [6, 5])
def test_examples_along_another_dimension_are_refused(affine, words):
    model, x = WordsFirst(affine), rand(6, words, 4)
    if words != 6:
        model.forward = lambda x: model.linear(model.norm(x.flatten(0, 1)[1:])).sum() + x.sum((1, 2))
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=RHO, model=model, m=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="m-SAM goes group by group")
        with pytest.raises(ValueError, match=r"batch norm \(norm\).*examples lie along the first dimension"):
            optimizer.step(lambda: model(x))
    assert all(p.grad is None and type(p) is nn.Parameter for p in model.parameters())


@pytest.mark.parametrize("way", ["one pass", "loop"])
def test_a_compiled_model_runs_as_it_was_written(way):
    model, x = network(nn.BatchNorm1d(4), (4,)), rand(8, 4)
    expected, statistics = definition(model, x, plain, 3), running(model, x, plain, 3)
    model.compile(backend="eager")
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=RHO, model=model, m=3)
    run = optimizer.backward if way == "one pass" else partial(by_the_loop, optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"m-SAM runs what torch\.compile compiled")
        run(lambda: model(x))
    assert relative_error(gradients(model), expected) < 1e-9
    torch.testing.assert_close(dict(model.named_buffers()), statistics)


def test_statistics_of_all_processes_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4))
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=RHO, model=model, m=2)
    with pytest.raises(ValueError, match=r"SyncBatchNorm \(1\).*use BatchNorm, group or layer norm"):
        optimizer.step(lambda: model(torch.randn(4, 4)).sum(1))


def test_verified_where_single_examples_have_a_variance():
    assert verify_rule(nn.BatchNorm2d(3), torch.randn(5, 3, 2, 2)) < 1e-12
    with pytest.raises(ValueError, match=r"batch norm \(weight\) has one value a channel"):
        verify_rule(nn.BatchNorm1d(3), torch.randn(5, 3))


class Renormed(nn.Module):
    """Reads running statistics before they move, as batch renormalization does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn, self.b = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.bn.running_mean.normal_()
        self.double()
        self.fixed = None

    def forward(self, x):
        h = self.a(x)
        mean = self.bn.running_mean if self.fixed is None else self.fixed
        return self.b(((h - mean).tanh() + self.bn(h)).tanh())


@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize("audit", [True, False])
def test_running_statistics_that_are_read_are_those_before_the_step(audit, limit):
    model, x = Renormed(), rand(11, 4)
    model.fixed = model.bn.running_mean.clone()
    losses = lambda model, x, rows: F.cross_entropy(model(x), rows % 3, reduction="none")  # noqa: E731
    expected, statistics = definition(model, x, losses, 3), running(model, x, losses, 3)
    model.fixed = None
    optimizer = SAM(
        torch.optim.SGD(model.parameters(), lr=0.1), rho=RHO, model=model, m=3, audit=audit, memory_limit=limit
    )
    optimizer.backward(lambda: losses(model, x, torch.arange(11)))
    assert optimizer._own.engine.reason is None
    assert (len(optimizer._own.engine.report.parts) > 1) is (limit is not None)
    assert relative_error([p.grad for p in model.parameters()], expected) < 1e-9
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, statistics[name])
