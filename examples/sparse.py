"""An embedding with sparse gradients: only the rows that a batch uses are perturbed.

Run it: python examples/sparse.py
"""

import torch
from torch import nn
from torch.nn import functional as F

from common import DEVICE, batches, report
from lowland import SAM


class BagOfPixels(nn.Module):
    """Reads an image as 64 words: each is one of 17 intensities at one of 64 places."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(64 * 17, 50, mode="sum", sparse=True)
        self.last = nn.Linear(50, 10)

    def forward(self, x):
        """The logits."""
        words = (16 * x).long() + 17 * torch.arange(64, device=x.device)
        return self.last(torch.relu(self.embedding(words)))


torch.manual_seed(0)
model = BagOfPixels().to(DEVICE)
nn.init.normal_(model.embedding.weight, std=0.1)
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
report("before", model)

for epoch in range(10):
    for x, y in batches(epoch, size=16):
        for evaluation in optimizer.passes():
            with evaluation:
                F.cross_entropy(model(x), y).backward()
        optimizer.step()
        rows = model.embedding.weight.grad.coalesce().indices().numel()
        optimizer.zero_grad()
print(f"rows of the embedding that the last step touched: {rows} of {64 * 17}")

report("after", model)
