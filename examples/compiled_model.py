"""A model through torch.compile, with activation checkpointing (on a CPU this needs a C++ compiler).

Run it: python examples/compiled_model.py
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from common import DEVICE, batches, report
from lowland import SAM


class Network(nn.Module):
    """Its hidden layers compute their activations again in the backward pass instead of keeping them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 100)
        self.hidden = nn.Sequential(nn.Linear(100, 100), nn.ReLU())
        self.last = nn.Linear(100, 10)

    def forward(self, x):
        """The logits."""
        x = checkpoint(self.hidden, F.relu(self.first(x)), use_reentrant=False)
        return self.last(x)


torch.manual_seed(0)
model = Network().to(DEVICE)
compiled = torch.compile(model)  # the same parameters; SAM moves them in place, so nothing is compiled twice
optimizer = SAM(torch.optim.SGD(compiled.parameters(), lr=0.1, momentum=0.9), rho=0.05, model=compiled)
report("before", model)

for epoch in range(10):
    for x, y in batches(epoch):
        for evaluation in optimizer.passes():
            with evaluation:
                F.cross_entropy(compiled(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

report("after", model)
