"""A batch in parts under a memory limit, and the norms of gradients at w + e."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.models import Transformer, preact_resnet
from lowland.optim import SAM
from tests.optim import textbook

from .against_the_loop import assert_exact, entropy
from .layers.test_layers import Own
from .networks import N, Net, batch, perceptron, rand


def parts(optimizer):
    return [part.count for part in optimizer._own.engine.report.parts]


MODELS = {
    "convolutions": lambda: (Net(preact_resnet(width=2, norm="group")), rand(N, 3, 8, 8)),
    "dropout": lambda: (Net(nn.Conv1d(3, 4, 3), nn.Dropout(0.5), nn.Conv1d(4, 2, 2)), rand(N, 3, 6)),
    "batch norm": lambda: (
        Net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3, affine=False)),
        rand(N, 3, 6, 6),
    ),
    "parameters used directly": lambda: (Own(), rand(N, 5, 4)),
}


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_parts_of_one_group_give_the_same(name, m):
    torch.manual_seed(0)
    model, x = MODELS[name]()
    optimizer = assert_exact(model, lambda: model(x), m, memory_limit=1)
    assert parts(optimizer) == [1] * -(-N // m)


@pytest.mark.parametrize("limit", [1, None])
def test_running_statistics_are_those_of_the_whole_batch(limit):
    torch.manual_seed(0)
    model, x = MODELS["batch norm"]()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=3, memory_limit=limit)
    optimizer.backward(lambda: model(x))
    body = model.body
    means = torch.stack([body[0](rows).mean((0, 2, 3)) * len(rows) / N for rows in x.split(3)]).sum(0)
    torch.testing.assert_close(body[1].running_mean, 0.1 * means.detach())
    assert body[1].num_batches_tracked == body[4].num_batches_tracked == 1
    assert parts(optimizer) == ([3] if limit is None else [1, 1, 1])


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_as_few_parts_as_fit(l2):
    model, (x, y) = perceptron(nn.ReLU(inplace=True)), batch(8)
    whole = assert_exact(model, entropy(model, x, y), 1, l2=l2)
    held = sum(row.bytes for row in whole._own.engine.report.rows)
    optimizer = assert_exact(model, entropy(model, x, y), 1, l2=l2, memory_limit=held / 2)
    assert parts(optimizer) == [4, 4]
    assert "in 2 parts for memory" in optimizer._own.engine.plan()
    torch.testing.assert_close(optimizer.last.losses, whole.last.losses)
    torch.testing.assert_close(optimizer.last.gradient_norms, whole.last.gradient_norms)


def test_one_group_that_takes_more_is_said(recwarn):
    model, (x, y) = perceptron(nn.Tanh()), batch(4)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model, m=4, memory_limit=1)
    optimizer.backward(entropy(model, x, y))
    assert "memory_limit" in str(recwarn.pop(UserWarning).message)


def test_a_transformer_in_parts():
    torch.manual_seed(0)
    model = Transformer(symbols=5, length=4, layers=1, width=6, heads=2, key_size=3).double()
    x, y = torch.randint(5, (2, 6, 4), generator=torch.Generator().manual_seed(0))
    closure = lambda: F.cross_entropy(model(x).movedim(-1, 1), y, reduction="none").mean(1)  # noqa: E731
    assert parts(assert_exact(model, closure, 2, memory_limit=1)) == [1, 1, 1]


class Two(nn.Module):
    """A weight used twice, beside normalization and a parameter used directly."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.layer(self.norm(self.layer(x).tanh()) * self.gain)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(7, 4), (7, 3, 4)])
def test_norms_at_the_perturbed_weights(shape, l2, limit):
    torch.manual_seed(0)
    model, x, rho = Two().double(), rand(*shape), 0.5
    options = {"l2": l2, "perturbed_norms": True, "memory_limit": limit}
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=rho, model=model, m=3, **options)
    optimizer.backward(lambda: model(x).flatten(1).square().sum(1))

    params = list(model.parameters())

    def loss_of(rows):
        return textbook.penalized(lambda: model(x[rows]).flatten(1).square().sum(1).mean(), params, l2)()

    for j, (_, at_w, above) in enumerate(textbook.by_groups(loss_of, params, len(x), 3, rho)):
        assert optimizer.last.gradient_norms[j].item() == pytest.approx(textbook.norm(at_w), rel=1e-7)
        assert optimizer.last.perturbed_gradient_norms[j].item() == pytest.approx(textbook.norm(above), rel=1e-7)


def test_limits_are_numbers():
    model, _ = perceptron(nn.Tanh()), None
    with pytest.raises(ValueError, match="memory_limit"):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model, m=1, memory_limit=0)
