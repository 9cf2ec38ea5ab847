"""DistributedDataParallel: one ascent for all processes, or with --m-sam one for each; and accumulation.

Run it: torchrun --nproc-per-node 2 examples/ddp.py [--m-sam]
"""

import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from common import DEVICE, batches, network, report
from lowland import SAM

MICRO = 2  # micro-batches a step

# By default all processes climb along one gradient, that of the global (micro-)batch, averaged as usual. With
# sync=False each climbs along its own: m-SAM with m = the (micro-)batch of one process, no all-reduce for the ascent.
sync = "--m-sam" not in sys.argv

dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
rank, world = dist.get_rank(), dist.get_world_size()
model = DistributedDataParallel(network())
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05, model=model)  # the DDP wrapper
report("before", model.module)

for epoch in range(10):
    for x, y in batches(epoch):
        x, y = x[rank::world], y[rank::world]  # this process's part; your DistributedSampler
        for i, (x_i, y_i) in enumerate(zip(x.chunk(MICRO), y.chunk(MICRO), strict=True)):
            # The gradients to accumulate are averaged once, with the last of them. An ascent is synchronized as
            # `sync` says, whether no_sync() is around it or not: its gradient is used at once.
            with nullcontext() if i == MICRO - 1 else model.no_sync():
                for evaluation in optimizer.passes(sync=sync):
                    with evaluation:
                        (F.cross_entropy(model(x_i), y_i) / MICRO).backward()
        optimizer.step()
        optimizer.zero_grad()

report("after", model.module)
dist.barrier()  # so that no thread of the backend still holds a tensor when Python ends
dist.destroy_process_group()
