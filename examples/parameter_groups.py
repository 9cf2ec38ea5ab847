"""Fine-tuning: frozen first layers, and groups with their own learning rate and rho (0 for biases and norms).

Run it: python examples/parameter_groups.py
"""

import torch
from torch import nn
from torch.nn import functional as F

from common import DEVICE, batches, report
from lowland import SAM

torch.manual_seed(0)
body = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.LayerNorm(100), nn.ReLU())
model = nn.Sequential(body, nn.Linear(100, 10)).to(DEVICE)


def train(optimizer, epochs, classes):
    """Train on the digits below ``classes``."""
    for epoch in range(epochs):
        for x, y in batches(epoch):
            x, y = x[y < classes], y[y < classes]
            for evaluation in optimizer.passes():
                with evaluation:
                    F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()


train(SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05), epochs=5, classes=5)
report("before, trained on the digits 0 to 4", model)

# Now all ten digits, with the first layer as it is: parameters that take no gradient are neither moved nor counted.
model[0][0].requires_grad_(False)
head = list(model[1].parameters())
matrices = [p for p in body.parameters() if p.requires_grad and p.ndim > 1]
vectors = [p for p in body.parameters() if p.requires_grad and p.ndim == 1]  # biases and norms
groups = [
    {"params": matrices, "lr": 0.05, "weight_decay": 1e-4, "rho": 0.02},
    {"params": vectors, "lr": 0.05, "rho": 0.0},  # stay where they are in the perturbed pass; their gradients count
    {"params": head, "lr": 0.2},  # no rho of its own: SAM's
]
optimizer = SAM(torch.optim.SGD(groups, momentum=0.9), rho=0.1)
print("rho of the groups:", [group["rho"] for group in optimizer.param_groups])
train(optimizer, epochs=15, classes=10)

report("after", model)
