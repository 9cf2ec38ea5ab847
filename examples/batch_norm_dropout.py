"""Batch norm and dropout: statistics that move once a step, and the same dropout masks in both passes.

Run it: python examples/batch_norm_dropout.py
"""

import torch
from torch import nn
from torch.nn import functional as F

from common import DEVICE, batches, report
from lowland import SAM

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(64, 100, bias=False), nn.BatchNorm1d(100), nn.ReLU(), nn.Dropout(0.2), nn.Linear(100, 10)
).to(DEVICE)

optimizer = SAM(
    torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    rho=0.05,
    model=model,  # its batch-norm statistics, and other buffers, are those of w: the pass at w + e leaves them alone
    same_masks=True,  # both passes drop the same units; by default each draws its own
)
report("before", model)

for epoch in range(10):
    for x, y in batches(epoch):
        for evaluation in optimizer.passes():
            with evaluation:
                F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
print(f"{optimizer.steps} steps, {model[1].num_batches_tracked} batches in the statistics")

report("after", model)
