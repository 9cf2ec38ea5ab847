# %% [markdown]
# # m-SAM: every few examples climb for themselves
#
# In m-SAM each group of m examples of a batch has a perturbation of its own. Andriushchenko & Flammarion (2022) find
# that small m is what makes SAM generalize. By its definition m = 1 takes two evaluations for every *example*;
# Lowland computes all groups in two passes over the batch, exactly.

# %% [markdown]
# ## The loss of each example
#
# With `m` the closure returns the losses of the examples and calls no `backward`: SAM runs it for each group.

# %%
import time

import torch
from torch.nn import functional as F

import lowland
from lowland.models import mlp

digits = lowland.data.load("digits").train
x, y = digits.inputs.flatten(1) / 16, digits.targets
a, b = x[:128], y[:128]

torch.manual_seed(0)
model = mlp([64, 1000, 1000, 10])
optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, model=model, m=1)
loss = optimizer.step(lambda: F.cross_entropy(model(a), b, reduction="none"))
print(f"mean loss at w {loss:.4f}")
optimizer.plan()

# %% [markdown]
# `plan()` says how the groups' gradients were held. In the first step two groups are also compared with the
# definition; a model that the two passes don't cover goes by a loop over the groups, with a warning.
#
# ## It is the definition
#
# The loop over single examples, written out in float64, against one step with `m=1`:

# %%
exact = mlp([64, 32, 10]).double()
a64 = a.double()


def by_definition(rho):
    total = [torch.zeros_like(p) for p in exact.parameters()]
    for i in range(len(a64)):
        g = torch.autograd.grad(F.cross_entropy(exact(a64[i : i + 1]), b[i : i + 1]), list(exact.parameters()))
        norm = sum(part.square().sum() for part in g).sqrt()
        there = {
            name: p.detach() + rho * part / (norm + 1e-12)
            for (name, p), part in zip(exact.named_parameters(), g, strict=True)
        }
        moved = {name: p.requires_grad_() for name, p in there.items()}
        output = torch.func.functional_call(exact, moved, (a64[i : i + 1],))
        gradients = torch.autograd.grad(F.cross_entropy(output, b[i : i + 1]), list(moved.values()))
        total = [t + part / len(a64) for t, part in zip(total, gradients, strict=True)]
    return torch.cat([t.flatten() for t in total])


slow = by_definition(rho=0.05)
sam = lowland.SAM(torch.optim.SGD(exact.parameters(), lr=0.1), rho=0.05, model=exact, m=1)
sam.backward(lambda: F.cross_entropy(exact(a64), b, reduction="none"))
fast = torch.cat([p.grad.flatten() for p in exact.parameters()])
print(f"relative difference {(fast - slow).norm() / slow.norm():.1e}")

# %% [markdown]
# ## What it costs
#
# Steps of plain SAM and of m-SAM on the same batch, taken in turn; the median of twenty each. On networks much
# smaller than this one what counts is Python's own time, and m-SAM has more of it.


# %%
def plain():
    for evaluation in sam_of[None].passes():
        with evaluation:
            F.cross_entropy(model(a), b).backward()
    sam_of[None].step()
    sam_of[None].zero_grad()


def grouped(m):
    sam_of[m].step(lambda: F.cross_entropy(model(a), b, reduction="none"))


def seconds(step, *arguments):
    began = time.perf_counter()
    step(*arguments)
    return time.perf_counter() - began


sam_of = {m: lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.01), model=model, m=m) for m in (None, 1, 8, 32)}
taken = {m: [] for m in sam_of}
for _ in range(20):
    for m, times in taken.items():
        times.append(seconds(plain) if m is None else seconds(grouped, m))
medians = {m: sorted(times)[10] for m, times in taken.items()}
for m in (1, 8, 32):
    print(f"m = {m}: {medians[m] / medians[None]:.2f} of plain SAM")

# %% [markdown]
# ## Does small m help here?
#
# m is a setting as any other, so a grid answers it, with ρ beside it: `tune(build, ..., grid={"m": (1, 8, 50), "rho":
# ...})` of [Choosing ρ](choosing-rho.md). What it costs on larger networks, which layers go by two passes, and how a
# wrong gradient is kept out: [m-SAM for every m](../docs/exact-m-sam.md).
