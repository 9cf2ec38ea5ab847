"""FSDP2 (fully_shard): SAM on sharded parameters, with a distributed checkpoint half-way.

Run it: torchrun --nproc-per-node 2 examples/fsdp2.py
"""

import shutil
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from common import DEVICE, batches, network, report
from lowland import SAM


def start(seed):
    """What a training script sets up: shard first, then make the optimizer."""
    model = network(seed)
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    return model, SAM(torch.optim.AdamW(model.parameters(), lr=3e-3), rho=0.05, model=model)


def train(model, optimizer, epochs):
    """Each process on its part of every batch."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for epoch in epochs:
        for x, y in batches(epoch):
            for evaluation in optimizer.passes():
                with evaluation:
                    F.cross_entropy(model(x[rank::world]), y[rank::world]).backward()
            optimizer.step()
            optimizer.zero_grad()


dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
dist.broadcast_object_list(folder)

model, optimizer = start(seed=0)
report("before", model)
train(model, optimizer, range(5))
weights, state = get_state_dict(model, optimizer)
dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder[0])

model, optimizer = start(seed=1)  # other weights, as a new job might have them
weights, state = get_state_dict(model, optimizer)
dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
report(f"before going on after step {optimizer.steps}", model)
train(model, optimizer, range(5, 10))

report("after", model)
if dist.get_rank() == 0:
    shutil.rmtree(folder[0])
dist.barrier()  # so that no thread of the backend still holds a tensor when Python ends
dist.destroy_process_group()
