"""Mixed precision with float16 and a GradScaler: the scaler goes into passes(), the rest is torch's recipe.

Run it: python examples/fp16_scaler.py
"""

import torch
from torch.nn import functional as F

from common import DEVICE, batches, network, report
from lowland import SAM

model = network()
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)
scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**24)  # too high, to see it back off
report("before", model)

steps = 0
for epoch in range(10):
    for x, y in batches(epoch):
        for evaluation in optimizer.passes(scaler=scaler):
            with evaluation:
                with torch.autocast(DEVICE, dtype=torch.float16):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        scaler.step(optimizer)  # skips where a gradient overflowed, in either pass
        scaler.update()
        optimizer.zero_grad()
        steps += 1
print(f"{steps - optimizer.steps} of {steps} steps skipped, scale {scaler.get_scale():g}")

report("after", model)
