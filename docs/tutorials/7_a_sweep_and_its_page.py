# %% [markdown]
# # A sweep and its page
#
# A sweep trains every point of a grid, selects the best settings by a rule that never sees test data, and says what
# SAM makes of it at each point. Then one page for the browser, to look at it all.

# %% [markdown]
# ## The grid
#
# SAM against SGD on 500 digits, as in the file that `lowland new` writes. Three step sizes, four ρ, three seeds: 36
# runs, trained side by side as one program.

# %%
import subprocess

import lowland
from lowland.data import load
from lowland.experiments import Experiment, defaults, supervised
from lowland.models import mlp

digits = load("digits").train
x, y = digits.inputs.flatten(1) / 16, digits.targets


def build(settings):
    model = mlp([64, settings.width, 10])
    return supervised(model, settings, (x[:500], y[:500]), (x[500:800], y[500:800]), (x[800:], y[800:]))


DIGITS = Experiment(
    name="digits-grid",
    build=build,
    settings=defaults(lr=0.1, rho=0.1, momentum=0.9, batch_size=50, epochs=20, examples=500, width=50),
)
grid = {"lr": (0.03, 0.1, 0.3), "rho": (0.0, 0.1, 0.2, 0.4), "seed": (0, 1, 2)}
swept = lowland.experiments.sweep(DIGITS, grid=grid, out="runs/digits-grid")

# %% [markdown]
# ## What came out
#
# The settings with the lowest mean validation error:

# %%
print(swept.summary["selection"]["selected"])

# %% [markdown]
# SAM against ρ = 0 at the same step size, paired by seed, corrected for looking at several points:

# %%
name, found = next(iter(swept.summary["differences"]["metrics"].items()))
print(name)
for point in found["points"]:
    difference = point["difference"]
    print(point["settings"], f"{difference['mean']:+.4f}", point["verdict"])

# %%
list(swept.figures)

# %%
next(iter(swept.figures.values()))

# %% [markdown]
# ## The page
#
# `lowland report DIR...` makes one HTML file of runs and sweeps, finished or under way. It needs no network: mail it,
# or put it beside a paper.

# %%
said = subprocess.run(["lowland", "report", "runs/digits-grid"], capture_output=True, text=True, check=True)
print(said.stdout)

# %% [markdown]
# Open `report.html` in a browser: [Runs side by side](../docs/report.md) shows what it looks like. A grid that has
# grown adds only the new runs; larger networks go to worker processes or to a cluster: [Whole
# grids](../docs/sweeps.md).
