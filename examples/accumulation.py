"""Gradient accumulation: each micro-batch climbs for itself, or all of them climb together.

Run it: python examples/accumulation.py
"""

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM

MICRO = 4


def each_for_itself(model, optimizer, micro_batches):
    """Accumulate over whole pairs of passes."""
    # This is m-SAM with m = the micro-batch: every micro-batch has an e of its own, from its own gradient.
    # It often generalizes better, and a micro-batch is needed only once: the loop over the data loader stays as it is.
    for x, y in micro_batches:
        for evaluation in optimizer.passes():
            with evaluation:
                (F.cross_entropy(model(x), y) / MICRO).backward()


def all_together(model, optimizer, micro_batches):
    """Accumulate inside each pass."""
    # This is SAM on the big batch, to rounding: one e, from the gradient of all micro-batches, which must be at hand
    # twice. Use it to give the same result in less memory.
    for evaluation in optimizer.passes():
        with evaluation:
            for x, y in micro_batches:
                (F.cross_entropy(model(x), y) / MICRO).backward()


for accumulate in (each_for_itself, all_together):
    model = network()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)
    report("before", model)
    for epoch in range(10):
        for x, y in batches(epoch):
            accumulate(model, optimizer, list(zip(x.chunk(MICRO), y.chunk(MICRO), strict=True)))
            optimizer.step()
            optimizer.zero_grad()
    report(f"after, {accumulate.__name__}", model)
