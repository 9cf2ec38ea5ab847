"""Networks in the closure that are not the model's: a generator, a teacher, a critic, trainable or not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .against_the_loop import assert_exact, by_both, relative_error

B = 6
X = torch.randn(B, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PICTURES = X.reshape(B, 1, 5, 1).expand(B, 3, 5, 5)
WORDS = (X * 10).long().abs() % 7


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def normalized():
    return nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 5))


OTHERS = {
    "perceptron": lambda: nn.Sequential(normalized()).double(),
    "convolution": lambda: (net := nn.Conv2d(3, 5, 5).double()) and (lambda x: net(PICTURES).flatten(1)),
    "embedding": lambda: (net := nn.Embedding(7, 5).double()) and (lambda x: net(WORDS).mean(1)),
    "its parameters' views": lambda: (
        (w := nn.Parameter(X[:5].clone())) is not None
        and (lambda x: x @ w[:, :3].T.reshape(3, 5).T @ w.split(3)[0] + w[0])
    ),
    "attention": lambda: (
        (net := nn.MultiheadAttention(5, 1, batch_first=True).double())
        and (lambda x: net(x[:, None], x[:, None], x[:, None])[0][:, 0])
    ),
}
USES = {
    "its output detached": lambda model, other: F.softplus(model(other(X).detach())).sum(1),
    "through it": lambda model, other: F.softplus(-model(other(X))).sum(1),
    "beside it": lambda model, other: (model(X) - model(other(X))).square().sum(1),
    "without a graph": lambda model, other: F.softplus(model(torch.no_grad()(other)(X))).sum(1),
    "as a teacher": lambda model, other: F.kl_div(
        model(X).log_softmax(1), other(X)[:, :3].softmax(1), reduction="none"
    ).sum(1),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("m", [1, 4])
def test_another_network_is_data(other, use, m):
    torch.manual_seed(1)
    model, made = network(), OTHERS[other]()
    assert_exact(model, lambda: USES[use](model, made), m, audit=False)


@pytest.mark.filterwarnings("ignore:m-SAM goes group by group")
@pytest.mark.parametrize("made", [lambda model: model[2].weight * 2, lambda model: model[:2](X)[:3]])
def test_a_network_whose_weights_are_made_of_the_models_is_not(made):
    """Its parameter is a leaf still: what was written there is known all the same."""
    model, other = network(), nn.Linear(8, 3).double()

    def closure():
        with torch.no_grad():
            other.weight.copy_(made(model))
        return F.softplus(other(model[:2](X)) + model(X)).sum(1)

    (ours, _), (theirs, _), optimizer = by_both(model, closure, 2, audit=False)
    assert optimizer._own.engine.reason is not None
    assert relative_error(ours, theirs) < 1e-12
