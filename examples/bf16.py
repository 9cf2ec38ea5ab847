"""Mixed precision with bfloat16: autocast around each forward pass, or one region around the whole step.

Run it: python examples/bf16.py
"""

import torch
from torch.nn import functional as F

from common import DEVICE, batches, network, report
from lowland import SAM


def around_each_pass(model, optimizer, x, y):
    """As torch recommends: forward and loss inside, backward outside."""
    for evaluation in optimizer.passes():
        with evaluation:
            with torch.autocast(DEVICE, dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def around_the_step(model, optimizer, x, y):
    """One region for both passes: autocast's cached copies of w are dropped when the weights move."""

    def closure():
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        optimizer.step(closure)


for step in (around_each_pass, around_the_step):
    model = network()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)
    report("before", model)
    for epoch in range(10):
        for x, y in batches(epoch):
            step(model, optimizer, x, y)
    report(f"after, {step.__name__}", model)
