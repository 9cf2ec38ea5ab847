"""Out of memory in the middle of a step: the weights are intact, and the step is tried again in smaller pieces.

Run it: python examples/exceptions.py
"""

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM

model = network()
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)
report("before", model)


def both_passes(x, y, pieces):
    """Fill the gradients, from ``pieces`` micro-batches one after the other."""
    for x_i, y_i in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
        with optimizer.ascent():
            (F.cross_entropy(model(x_i), y_i) / pieces).backward()
        with optimizer.perturbed():
            (F.cross_entropy(model(x_i), y_i) / pieces).backward()
            if len(x_i) > 32:  # stands for a device on which a larger batch doesn't fit
                raise torch.OutOfMemoryError("simulated")


pieces = 1
for epoch in range(10):
    for x, y in batches(epoch):
        weights = [p.detach().clone() for p in model.parameters()]  # to show that they come back; yours needs none
        while True:
            try:
                both_passes(x, y, pieces)
                break
            except torch.OutOfMemoryError:
                pass  # outside this block Python lets go of the tensors that the traceback holds
            intact = all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
            optimizer.zero_grad()  # what the failed attempt left in the gradients
            pieces *= 2
            print(f"out of memory; weights intact: {intact}; now {pieces} micro-batches a step")
        optimizer.step()
        optimizer.zero_grad()

report("after", model)
