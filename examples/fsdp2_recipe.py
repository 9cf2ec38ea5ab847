"""A whole training script with FSDP2: bfloat16, accumulation, clipping, a schedule, checkpoints, resuming to the bit.

Run it: torchrun --nproc-per-node 2 examples/fsdp2_recipe.py
"""

import shutil
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional as F

from common import DEVICE, batches, network, report
from lowland import SAM

MICRO, EPOCHS = 2, 10


class Training:
    """What a checkpoint holds."""

    def __init__(self, seed):
        self.model, self.epoch = network(seed), 0
        # Weights, w and the update stay in float32: only the passes, and what is gathered for them, are in bfloat16.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )
        for layer in self.model:
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mp_policy=policy)
        fully_shard(self.model, mp_policy=policy)
        base = torch.optim.AdamW(
            self.model.parameters(), lr=3e-3, weight_decay=0.01
        )  # of the shards, so after sharding
        self.optimizer = SAM(base, rho=0.05, model=self.model)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=EPOCHS)

    def run(self, until):
        """Train up to an epoch, each process on its part of every batch."""
        rank, world = dist.get_rank(), dist.get_world_size()
        while self.epoch < until:
            for x, y in batches(self.epoch):
                x, y = x[rank::world], y[rank::world]
                for x_i, y_i in zip(x.chunk(MICRO), y.chunk(MICRO), strict=True):
                    # Each micro-batch climbs for itself, along its gradient over all processes: so synchronization
                    # stays on. To do without it in the perturbed passes: docs/training.md.
                    for evaluation in self.optimizer.passes():
                        with evaluation:
                            (F.cross_entropy(self.model(x_i), y_i) / MICRO).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.scheduler.step()
            self.epoch += 1

    def state(self):
        """Everything, each process its shards."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "scheduler": self.scheduler.state_dict(), "epoch": self.epoch}

    def save(self, folder):
        """Between steps."""
        dcp.save(self.state(), checkpoint_id=folder)

    def load(self, folder):
        """Also in another number of processes than it was saved in (not to the same bits then)."""
        state = self.state()
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.epoch = state["epoch"]


dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
dist.broadcast_object_list(folder)

straight = Training(seed=0)
report("before", straight.model)
straight.run(until=EPOCHS // 2)
straight.save(folder[0])
straight.run(until=EPOCHS)

resumed = Training(seed=1)  # other weights, as a new job might have them
resumed.load(folder[0])
resumed.run(until=EPOCHS)

pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
print("the same bits" if all(torch.equal(a.to_local(), b.to_local()) for a, b in pairs) else "DIFFERENT WEIGHTS")
report("after", resumed.model)
dist.barrier()
if dist.get_rank() == 0:
    shutil.rmtree(folder[0])
dist.destroy_process_group()
