"""A loss that differs from one evaluation to the next is refused by every instrument; rounding is not."""

import itertools
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import (
    Hessian,
    Monitor,
    along_line,
    average_sharpness,
    m_sharpness,
    sharpness,
    stability,
    stability_of_stack,
)
from lowland.models import Transformer
from tests.curvature.test_hessian import data, small


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


INSTRUMENTS = {
    "product": lambda model, loss, batches: Hessian(model, loss, batches) @ torch.ones(26, dtype=torch.float64),
    "eigenpairs": lambda model, loss, batches: Hessian(model, loss, batches).eigenpairs(),
    "stability": lambda model, loss, batches: stability(model, loss, batches, lr=0.1, rho=0.1),
    "sharpness": lambda model, loss, batches: sharpness(model, loss, batches, 0.1),
    "sharpness-m": lambda model, loss, batches: sharpness(model, loss, batches, 0.1, 2, steps=3),
    "m_sharpness": lambda model, loss, batches: m_sharpness(model, loss, batches, 0.1),
    "m_sharpness-m": lambda model, loss, batches: m_sharpness(model, loss, batches, 0.1, 2),
    "average": lambda model, loss, batches: average_sharpness(model, loss, batches, 0.1),
    "line": lambda model, loss, batches: along_line(model, model, loss, batches),
    "monitor": lambda model, loss, batches: Monitor(sgd(model), model, loss, batches).check(),
}


class Augmented:
    """Batches with a little noise, the first ``calm`` times without."""

    def __init__(self, noise, sizes=(7,), calm=0):
        self.noise, self.sizes, self.calm = noise, sizes, calm
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self):
        x, y = data()
        self.calm -= 1
        if self.calm < 0:
            x = x + self.noise * torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        yield from zip(x.split(self.sizes), y.split(self.sizes), strict=True)


@pytest.mark.parametrize("sizes", [(7,), (3, 4)])
@pytest.mark.parametrize("name", INSTRUMENTS)
def test_random_augmentation_is_refused_with_its_size(name, sizes):
    with pytest.raises(
        ValueError, match=r"not a function of the weights alone: .* differ by (\S+) in the loss"
    ) as error:
        INSTRUMENTS[name](small(), F.cross_entropy, Augmented(0.01, sizes))
    size = float(str(error.value).split("differ by ")[1].split(" ")[0])
    assert 1e-6 < size < 0.1
    assert "list of (x, y)" in str(error.value)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_a_network_that_draws_for_itself_is_refused(name):
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.draw = small(), random.Random(0)

        def forward(self, x):
            return self.layers(x) * (1 + 0.01 * self.draw.random())

    model = Drawing()
    with pytest.raises(ValueError, match="not a function of the weights alone"):
        INSTRUMENTS[name](model, F.cross_entropy, [data()])


def test_one_that_draws_for_itself_is_refused_of_a_stack():
    draw = random.Random(0)
    model, (x, y) = small(), data()
    loss = lambda out, y: F.cross_entropy(out, y) * (1 + 0.01 * draw.random())  # noqa: E731
    params = {name: torch.stack([p.detach()] * 2) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match="not a function of the weights alone"):
        stability_of_stack(model, loss, params, x, y, shared=True, lr=[0.1] * 2, rho=[0.1] * 2)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_rounding_is_not(name):
    # What a kernel that adds up in changing order makes of a loss: some units in the last place, of values and slopes.
    draw = random.Random(0)

    def loss(out, y):
        return F.cross_entropy(out * (1 + 4e-16 * draw.randint(-8, 8)), y)

    INSTRUMENTS[name](small(), loss, [data()])
    INSTRUMENTS[name](nn.Sequential(*small()[:1], nn.Dropout(0.5), *small()[1:]), F.cross_entropy, [data()])


#: With a radius at which the rise is about 1e-14.
RISES = {
    "sharpness": (lambda loss, rho: sharpness(small(), loss, [data()], rho), 3e-14),
    "sharpness-m": (lambda loss, rho: sharpness(small(), loss, [data()], rho, 2), 3e-14),
    "m_sharpness": (lambda loss, rho: m_sharpness(small(), loss, [data()], rho), 3e-14),
    "average": (lambda loss, rho: average_sharpness(small(), loss, [data()], rho, draws=3), 1e-7),
    "line": (lambda loss, rho: along_line(small(), small(), loss, [data()], [0, 1]), None),
}


@pytest.mark.parametrize("name", RISES)
def test_chance_that_might_be_rounding_is_said_where_the_rise_is_as_small(name, recwarn):
    """The loss changes by 1e-14, 50 rounding units."""
    measure, radius = RISES[name]

    def loss():
        steps = itertools.cycle([0, 2, 1])
        return lambda out, y: F.cross_entropy(out, y) * (1 + 5e-15 * next(steps))

    if radius is not None:
        measure(loss(), 0.01)
        assert not recwarn.list
    with pytest.warns(UserWarning, match="two evaluations of the loss at the same weights differ by") as said:
        measure(loss(), radius)
    assert said[-1].filename == __file__


def test_rounding_is_not_in_half_precision():
    draw = random.Random(0)
    model, (x, y) = small(torch.bfloat16), data(dtype=torch.bfloat16)

    def loss(out, y):
        return F.cross_entropy(out * (1 + 2**-8 * draw.randint(-1, 1)), y)

    sharpness(model, loss, [(x, y)], 1.0)
    Hessian(model, loss, [(x, y)]).eigenpairs(tol=0.3)


def test_the_same_examples_in_another_order():
    model, (x, y) = small(), data(40)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    assert Hessian(model, F.cross_entropy, loader).eigenpairs().converged  # of the mean: the same but for rounding
    along_line(model, small(), F.cross_entropy, loader, [0, 1])
    with pytest.raises(ValueError, match="not a function of the weights alone"):  # the batches are others
        sharpness(model, F.cross_entropy, loader, 0.1)


def test_a_loader_that_gives_fewer_batches():
    class Shrinking:
        left = 5

        def __iter__(self):
            self.left -= 1
            return iter([data(4)] * self.left)

    with pytest.raises(ValueError, match=r"there were 4 groups of examples, now 3"):
        sharpness(small(), F.cross_entropy, Shrinking(), 0.1)


def test_what_begins_later_is_found_in_the_products():
    with pytest.raises(ValueError, match="not a function of the weights alone"):
        Hessian(small(), F.cross_entropy, Augmented(0.01, (3, 4), calm=6)).eigenpairs()


def noisy(example):
    x, y = example
    return x + 0.1 * torch.randn(3, dtype=torch.float64), y


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        x, y = data(8)
        return noisy((x[i], y[i]))


def test_persistent_workers():
    loader = torch.utils.data.DataLoader(Noisy(), batch_size=4, num_workers=1, persistent_workers=True)
    for measure in (INSTRUMENTS["eigenpairs"], INSTRUMENTS["line"]):
        with pytest.raises(ValueError, match="persistent workers"):
            measure(small(), F.cross_entropy, loader)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("factor", [1, 100])
def test_a_gradient_that_is_rounding_is_no_chance_and_certifies_nothing(factor, chunked):
    torch.manual_seed(0)
    model = Transformer(11, 8, layers=1, width=16, heads=2, key_size=8)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(factor)
    x = torch.randint(11, (4, 8))
    loss = lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten())  # noqa: E731
    batches = [(x[:2], x[:2]), (x[2:], x[2:])] if chunked else [(x, x)]
    if factor == 1:
        assert stability(model, loss, batches, lr=0.1, rho=0.05).converged
        return
    said = "matter of rounding|is not certified"  # which of them notices first depends on the processor's sums
    with pytest.warns(UserWarning, match=said):
        found = stability(model, loss, batches, lr=0.1, rho=0.05)
    assert not found.converged
    assert found.reason
    with pytest.warns(UserWarning, match=said):
        record = Monitor(sgd(model), model, loss, batches).check()
    assert not record["converged"]


def test_a_gradient_that_is_random_is_refused_though_the_loss_is_not():
    model, (x, y) = small(), data()
    generator = torch.Generator().manual_seed(0)

    def loss(output, y):
        noise = torch.randn(output.shape, generator=generator, dtype=output.dtype) * output
        return F.cross_entropy(output + noise - noise.detach(), y)

    with pytest.raises(ValueError, match="not a function of the weights alone"):
        stability(model, loss, [(x, y)], lr=0.1, rho=0.1)
