"""What an optimizer says of the groups of its last batch."""

import torch
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM

from .networks import batch, perceptron


def test_last_and_plan(capsys):
    model, (x, y) = perceptron(nn.Tanh()), batch(8)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=3)
    optimizer.plan()
    assert optimizer.last is None
    assert "no step" in capsys.readouterr().out
    optimizer.backward(lambda: F.cross_entropy(model(x), y, reduction="none"))
    for j, (a, b) in enumerate(zip(x.split(3), y.split(3), strict=True)):
        params = list(model.parameters())
        loss = F.cross_entropy(model(a), b)
        gradients = torch.autograd.grad(loss, params)
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        at = {n: p + 0.5 * g / norm for (n, p), g in zip(model.named_parameters(), gradients, strict=True)}
        perturbed = F.cross_entropy(torch.func.functional_call(model, at, (a,)), b)
        ours = optimizer.last.losses[j], optimizer.last.perturbed_losses[j], optimizer.last.gradient_norms[j]
        torch.testing.assert_close(torch.stack(ours), torch.stack([loss, perturbed, norm]).detach())
    optimizer.plan()
    printed = capsys.readouterr().out
    assert "8 examples in 3 groups of 3" in printed
    assert "0.weight" in printed
    assert "together" in printed
    assert "7 evaluations" in printed
