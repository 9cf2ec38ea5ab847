"""Train with the plain optimizer first, then fine-tune with SAM: momentum and the rest go along.

Run it: python examples/switching.py
"""

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM

model = network()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
report("before", model)

for epoch in range(7):
    for x, y in batches(epoch):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
report("after 7 epochs of AdamW", model)

# From a checkpoint: SAM loads the state of its bare base optimizer, which knows nothing of rho.
# (In the same process `SAM(optimizer, rho=0.05)` around the optimizer that is there does it, too.)
checkpoint = optimizer.state_dict()
optimizer = SAM(torch.optim.AdamW(model.parameters()), rho=0.05)
optimizer.load_state_dict(checkpoint)

for epoch in range(7, 10):
    for x, y in batches(epoch):
        for evaluation in optimizer.passes():
            with evaluation:
                F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

report("after 3 more of SAM", model)
