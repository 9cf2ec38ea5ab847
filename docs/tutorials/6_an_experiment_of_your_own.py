# %% [markdown]
# # An experiment of your own
#
# Data, a network and two values are an experiment. It can do all that the papers' can: repeat with seeds, resume,
# draw, judge a claim, sweep.

# %% [markdown]
# ## Build it
#
# The Wisconsin data of breast tumours, which come with scikit-learn. `build(settings)` gives one run.

# %%
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

import lowland
from lowland.experiments import Claim, Experiment, defaults, last, reached, smaller, supervised

inputs, labels = (torch.from_numpy(array) for array in load_breast_cancer(return_X_y=True))
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
x, y = inputs[order].float(), labels[order]
x = (x - x[:200].mean(0)) / x[:200].std(0)  # by the training examples alone


def build(settings):
    model = nn.Sequential(nn.Linear(30, settings.width), nn.ReLU(), nn.Linear(settings.width, 2))
    return supervised(model, settings, (x[:200], y[:200]), validation=(x[200:300], y[200:300]), test=(x[300:], y[300:]))


# %% [markdown]
# ## Say what would count
#
# A claim has its threshold before anything is run. This one is about a difference over seeds: it holds if the whole
# 95 % interval lies below 0. It is undecided where SGD hasn't fitted its training data.

# %%
TUMOURS = Experiment(
    name="tumours",
    build=build,
    settings=defaults(lr=0.05, rho=0.1, momentum=0.9, batch_size=20, epochs=30, examples=200, width=50, seeds=10),
    arms={"sam": {}, "sgd": {"rho": 0.0}},
    claims=(
        Claim(
            id="lower-test-loss",
            text="SAM's test loss is below SGD's: mean difference, paired by seed",
            source="ours",
            threshold="interval < 0",
            judge=smaller("sam", "sgd", last("test_loss")),
            regime=reached("sgd", last("train_error"), 0.01, "SGD's training error"),
            over_seeds=True,
        ),
    ),
)

# %% [markdown]
# ## Run it
#
# As the last line of a cell a run shows its tables and figures.

# %%
run = lowland.experiments.run(TUMOURS, out="runs/tumours")
run

# %% [markdown]
# The verdict stands in the table. A claim that fails is a result, too, and stays on record; changing the threshold
# until it holds would be none.
#
# ## Go on
#
# Calling it again does nothing, as the directory is finished; an interrupted one goes on where it stopped, to the
# same bits. The records are `run.records`, or with pandas `run.frame()`; the tables become text for a paper:

# %%
print(run.summary.to_latex(["test_error"]))

# %% [markdown]
# In a file instead of a notebook, `lowland run tumours.py` does the same, in as many processes as you like. [An
# experiment of your own, the guide](../docs/experiments.md) has what else one can say; `lowland new FILE.py` writes
# one to start from.
