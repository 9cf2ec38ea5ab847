"""Stop and resume: the weights come out bit for bit as if the training had never stopped.

Run it: python examples/resume.py
"""

import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM


def start(seed):
    """What a training script sets up, every time that it starts."""
    model = network(seed)
    base = torch.optim.AdamW(model.parameters(), lr=3e-3)
    optimizer = SAM(base, rho=lambda step: 0.1 * 0.99**step, model=model)
    return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)


def train(model, optimizer, scheduler, epochs):
    """Train for some epochs."""
    for epoch in epochs:
        for x, y in batches(epoch):
            for evaluation in optimizer.passes():
                with evaluation:
                    F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()


straight = start(seed=0)
report("before", straight[0])
train(*straight, range(4))

resumed = start(seed=1)  # other weights, as a new process might have them
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "checkpoint.pt")
    torch.save([part.state_dict() for part in straight], path)  # anywhere outside the passes
    for part, state in zip(resumed, torch.load(path, weights_only=True), strict=True):
        part.load_state_dict(state)
print(f"resumed after step {resumed[1].steps}")

train(*straight, range(4, 10))
train(*resumed, range(4, 10))
equal = all(torch.equal(a, b) for a, b in zip(straight[0].parameters(), resumed[0].parameters(), strict=True))
print("the same bits" if equal else "DIFFERENT WEIGHTS")
report("after", resumed[0])
