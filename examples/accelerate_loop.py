"""Hugging Face Accelerate: its loop, with passes() around forward and backward; accumulation, clipping, save_state.

Run it: python examples/accelerate_loop.py
"""
# In several processes: torchrun --nproc-per-node 2 examples/accelerate_loop.py

import shutil
import tempfile

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM
from lowland.adapters.accelerate import passes

accelerator = Accelerator(gradient_accumulation_steps=2)  # mixed_precision="bf16" or "fp16", as you like
rank, world = accelerator.process_index, accelerator.num_processes
model = network()
optimizer = SAM(torch.optim.AdamW(model.parameters(), lr=3e-3), rho=0.05)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=132 * world)  # a step for each process
model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)


def train(epochs):
    """Accelerate's loop. Each micro-batch climbs for itself; its last pass adds to the gradient."""
    for epoch in epochs:
        for x, y in batches(epoch, size=64):
            x, y = x[rank::world], y[rank::world]  # this process's part; your DataLoader, prepared
            with accelerator.accumulate(model):
                for evaluation in passes(accelerator, optimizer, model):
                    with evaluation:
                        accelerator.backward(F.cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()


report("before", model)
train(range(4))
(folder,) = broadcast_object_list([tempfile.mkdtemp()])
accelerator.save_state(folder)
train(range(4, 12))
straight = [p.detach().clone() for p in model.parameters()]
accelerator.load_state(folder)
train(range(4, 12))
equal = all(torch.equal(a, b) for a, b in zip(straight, model.parameters(), strict=True))
print("the same bits" if equal else "DIFFERENT WEIGHTS")
report("after", model)
accelerator.wait_for_everyone()
if accelerator.is_main_process:
    shutil.rmtree(folder)
accelerator.end_training()
