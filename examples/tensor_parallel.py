"""Tensor parallelism: layers split between processes; the norm of the ascent spans all pieces.

Run it: torchrun --nproc-per-node 2 examples/tensor_parallel.py
"""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

from common import DEVICE, batches, network, report
from lowland import SAM

dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
mesh = init_device_mesh(DEVICE, (dist.get_world_size(),))
model = parallelize_module(network(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})  # the last layer is whole
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05, model=model)
report("before", model)

for epoch in range(10):
    for x, y in batches(epoch):  # the same batch in every process
        for evaluation in optimizer.passes():
            with evaluation:
                F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

report("after", model)
dist.barrier()  # so that no thread of the backend still holds a tensor when Python ends
dist.destroy_process_group()
