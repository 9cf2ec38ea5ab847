"""SAM around the optimizer you have: a step takes a closure, as torch's own optimizers do.

Run it: python examples/basic.py
"""

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM

model = network()
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)
report("before", model)


def step(x, y):
    """Forward and backward stand in the closure: SAM runs it at w, then at w + e."""

    def closure():
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return optimizer.step(closure)  # the loss at w; gradients are cleared inside


for epoch in range(10):
    losses = [step(x, y) for x, y in batches(epoch)]
    print(f"epoch {epoch}: loss {torch.stack(losses).mean():.4f}")

report("after", model)
