"""m-SAM: every 16 examples of a batch share a perturbation of their own.

Run it: python examples/m_sam.py
"""

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM

model = network()
base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = SAM(base, rho=0.05, model=model, m=16)
report("before", model)

for epoch in range(10):
    for x, y in batches(epoch):
        # The loss of each example, and no backward: SAM runs it for each group. Computed group by group, so slowly.
        loss = optimizer.step(lambda x=x, y=y: F.cross_entropy(model(x), y, reduction="none"))
    print(f"epoch {epoch}: loss {loss:.4f}")

report("after", model)
