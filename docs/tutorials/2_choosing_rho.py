# %% [markdown]
# # Choosing ρ
#
# ρ is how far from w SAM takes its gradient. `lowland.experiments.tune` trains a few values with several seeds,
# compares them by validation error, and picks one.

# %% [markdown]
# ## What one run is
#
# A function of the settings gives a network and its data. Here 500 digits to train, and 500 to validate by.

# %%
import lowland
from lowland.experiments import Picture, supervised, tune
from lowland.models import mlp

digits = lowland.data.load("digits").train
x, y = digits.inputs.flatten(1) / 16, digits.targets


def build(settings):
    model = mlp([64, 100, 10])
    return supervised(model, settings, train=(x[:500], y[:500]), validation=(x[500:1000], y[500:1000]))


# %% [markdown]
# ## The grid
#
# ρ = 0 is training without SAM. Five seeds of each; networks of this size train side by side, as one program.

# %%
tuned = tune(
    build,
    {"lr": 0.1, "rho": 0.05, "momentum": 0.9, "batch_size": 50, "steps": 400},
    grid={"rho": (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)},
    seeds=5,
    out="runs/tune",
)
print(tuned)

# %% [markdown]
# The pick has the lowest mean error over the seeds. The second number is the best with SAM less the best without it,
# paired by seed: an interval that lies wholly below 0 says that SAM helps here, one that contains 0 that five seeds
# can't tell. The figure shows how much the choice matters.

# %%
Picture(tuned.figure)

# %%
for row in tuned.rows:
    print(f"rho {row['rho']:<5} error {row[tuned.metric]:.4f} ± {row['standard_error']:.4f}")

# %% [markdown]
# ## What to do with it
#
# Train with `lowland.SAM(base, rho=tuned.rho, model=model)`, and measure the test error once, at the end. If the pick
# is the largest ρ of the grid, the printed lines say so: try larger ones. A grid over the step size as well is
# `grid={"rho": ..., "lr": ...}`. The same call on an unfinished directory goes on with what is missing.
#
# Values from papers, and what ρ depends on: [Choosing ρ, the guide](../docs/rho.md).
