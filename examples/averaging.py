"""Averages of the weights with torch's own tools: an exponential one (EMA), and SWA with its schedule.

Run it: python examples/averaging.py
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from common import DEVICE, batches, report
from lowland import SAM

EPOCHS, SWA_START = 12, 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10)).to(DEVICE)
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05, model=model)
scheduler = SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=True)
swa = AveragedModel(model)
report("before", model)

for epoch in range(EPOCHS):
    for x, y in batches(epoch):
        for evaluation in optimizer.passes():
            with evaluation:
                F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update_parameters(model)  # outside the passes the weights are w: that is what is averaged
    if epoch >= SWA_START:
        swa.update_parameters(model)
        scheduler.step()
update_bn(batches(EPOCHS), swa)  # the statistics of the averaged weights

report("after", model)
report("after, EMA", ema.module)
report("after, SWA", swa.module)
