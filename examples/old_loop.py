"""A loop written for another SAM, with first_step and second_step: only the import is new.

Run it: python examples/old_loop.py
"""

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland.compat import SAM

model = network()
optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, adaptive=False, lr=0.1, momentum=0.9)
report("before", model)

for epoch in range(10):
    for x, y in batches(epoch):
        F.cross_entropy(model(x), y).backward()
        optimizer.first_step(zero_grad=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.second_step(zero_grad=True)

report("after", model)
