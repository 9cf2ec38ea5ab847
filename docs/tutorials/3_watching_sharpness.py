# %% [markdown]
# # Watching sharpness
#
# SAM is said to find flatter minima. `lowland.Monitor` measures that while you train: the Hessian norm, and the edge
# at which SAM and gradient descent hold it.

# %% [markdown]
# ## Two trainings, each with a monitor
#
# Full-batch gradient descent with and without SAM, as in Long & Bartlett (2024). The monitor's `step()` stands after
# the optimizer's. It leaves no trace on the training: weights, gradients and random numbers are the same bits as
# without it.

# %%
import torch

import lowland
from lowland.experiments import Picture
from lowland.models import mlp

digits = lowland.data.load("digits").train
x, target = digits.inputs.flatten(1) / 16, torch.nn.functional.one_hot(digits.targets).float()


def loss_fn(output, target):
    return (output - target).square().mean() / 2


def train(lr, rho):
    torch.manual_seed(0)
    model = mlp([64, 50, 50, 10])
    optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=lr), rho=rho, model=model)
    monitor = lowland.Monitor(optimizer, model, loss_fn, [(x, target)], every=25, max_overhead=1.0)
    for _ in range(500):
        for evaluation in optimizer.passes():
            with evaluation:
                loss_fn(model(x), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.step()
    return model, monitor.records


model, with_sam = train(lr=1.0, rho=0.1)
_, without = train(lr=1.0, rho=0.0)

# %% [markdown]
# ## What a record says

# %%
last = with_sam[-1]
for key in ("step", "loss", "gradient_norm", "hessian_norm", "residual", "edge", "gd_edge"):
    print(f"{key:14} {last[key]:.4g}")

# %% [markdown]
# `residual` bounds how wrong `hessian_norm` can be as an eigenvalue. `edge` is SAM's, at which a step along the
# principal eigenvector begins to oscillate; `gd_edge` is 2/η, that of gradient descent. SAM's is far lower, and falls
# as the gradient shrinks.

# %%
figures = lowland.report.draw_monitor({"SAM": with_sam, "gradient descent": without}, "figures", title="digits")
Picture(figures[0])

# %% [markdown]
# ## Sharpness at the end
#
# The Hessian norm is sharpness in the limit of small steps. `sharpness` climbs a given radius instead, and returns
# how much the loss rose: a lower bound on the worst rise.

# %%
worst = lowland.curvature.sharpness(model, loss_fn, [(x, target)], rho=0.1, steps=10)
print(f"the loss rises by at least {worst.value:.5f} within 0.1, from {last['loss']:.5f}")

# %% [markdown]
# `max_overhead` was set so high that every 25th step is measured. By default a monitor may take a share of the time
# only, and skips checks that are due: [Watching sharpness, the guide](../docs/monitor.md) says how much a check
# costs, and what each number is and isn't. [Which sharpness](../docs/sharpness.md) compares the definitions.
