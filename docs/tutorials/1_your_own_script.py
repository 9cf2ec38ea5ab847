# %% [markdown]
# # SAM in your own training script
#
# A training script as there are many, and the three lines that change. Then what people have in such scripts:
# clipping, a schedule, batch norm, a checkpoint.

# %% [markdown]
# ## The script without SAM
#
# Handwritten digits, 8 × 8 pixels. A loader, a network, an optimizer, a schedule, and a loop.

# %%
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lowland

digits = lowland.data.load("digits").train
x, y = digits.inputs.flatten(1) / 16, digits.targets
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:500], order[500:]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def loader():
    torch.manual_seed(1)
    return DataLoader(TensorDataset(x[train], y[train]), batch_size=50, shuffle=True)


@torch.no_grad()
def report(name, model):
    model.eval()
    print(f"{name}: training loss {F.cross_entropy(model(x[train]), y[train]):.4f}, "
          f"test error {(model(x[test]).argmax(1) != y[test]).float().mean():.2%}")  # fmt: skip
    model.train()


model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
batches = loader()
for _ in range(30):
    for a, b in batches:
        loss = F.cross_entropy(model(a), b)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    scheduler.step()
report("SGD", model)

# %% [markdown]
# ## The same with SAM
#
# `lowland.SAM` goes around the optimizer that is there. SAM takes two gradients a step, at w and at w + ε, so forward
# and backward stand in a loop over `passes()`. **Both must stand inside**: a forward pass before it would run at w
# twice.
#
# `model=` keeps the statistics of batch norm from moving twice.

# %%
model = network()
base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
optimizer = lowland.SAM(base, rho=0.1, model=model)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
batches = loader()
for _ in range(30):
    for a, b in batches:
        for evaluation in optimizer.passes():
            with evaluation:
                loss = F.cross_entropy(model(a), b)
                loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    scheduler.step()
report("SAM", model)

# %% [markdown]
# After the passes the weights are w again, and `p.grad` holds SAM's gradient: clipping, logging and the schedule are
# as they were. One run of each says little about which is better: [Choosing ρ](choosing-rho.md) compares with several
# seeds.
#
# ## A closure instead
#
# Where nothing happens between backward and step, a closure is shorter. `step` returns the loss at w.

# %%
a, b = next(iter(loader()))


def closure():
    loss = F.cross_entropy(model(a), b)
    loss.backward()
    return loss


print(f"loss at w {optimizer.step(closure):.4f}")

# %% [markdown]
# ## Save and resume
#
# `state_dict()` is the base optimizer's, with ρ and the number of steps. A run that is resumed goes on to the same
# bits.

# %%
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "checkpoint.pt")

again = network()
resumed = lowland.SAM(torch.optim.SGD(again.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4), model=again)
saved = torch.load("checkpoint.pt")
again.load_state_dict(saved["model"])
resumed.load_state_dict(saved["optimizer"])


def step(model, optimizer):
    for evaluation in optimizer.passes():
        with evaluation:
            F.cross_entropy(model(a), b).backward()
    optimizer.step()
    optimizer.zero_grad()


step(model, optimizer)
step(again, resumed)
same = all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
print(f"rho {resumed.param_groups[0]['rho']}, the same bits: {same}")

# %% [markdown]
# ## Where to go
#
# [SAM in your training](../docs/training.md) has the rest: accumulation, mixed precision, DDP and FSDP2, compilation,
# what happens after an exception. [SAM where you already train](../docs/trainers.md) is for Lightning and Hugging
# Face.
