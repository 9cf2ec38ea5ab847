"""Both passes spelled out, to clip gradients; a cosine schedule of the learning rate, and a schedule of rho.

Run it: python examples/passes.py
"""

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM

EPOCHS, STEPS_PER_EPOCH = 10, 11

model = network()


def rho(step):
    """From 0.01 to 0.1 over the first half of the training; ``step`` counts the optimizer's steps."""
    return min(0.1, 0.01 + 0.09 * step / (EPOCHS * STEPS_PER_EPOCH / 2))


optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), rho)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS * STEPS_PER_EPOCH)
report("before", model)

for epoch in range(EPOCHS):
    for x, y in batches(epoch):
        for evaluation in optimizer.passes():  # at w, then at w + e
            with evaluation:
                F.cross_entropy(model(x), y).backward()
        # The weights are w again, and p.grad is SAM's gradient: clip and log it as any other.
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    group = optimizer.param_groups[0]
    print(f"epoch {epoch}: gradient norm {norm:.3f}, learning rate {group['lr']:.4f}, rho {group['rho']:.4f}")

report("after", model)
