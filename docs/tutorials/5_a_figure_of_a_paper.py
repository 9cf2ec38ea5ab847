# %% [markdown]
# # A figure of a paper, and whether it holds
#
# Each experiment of the three papers is one call, or one command. It trains what the paper compares, draws its
# figures, and judges its claims.

# %% [markdown]
# ## What there is

# %%
import lowland

known, problems = lowland.experiments.known()
for name in known:
    print(name)

# %% [markdown]
# ## A run
#
# `long2024/digits` is the edge of stability of Long & Bartlett (2024) on handwritten digits, which need no download.
# In a terminal it is `lowland run long2024/digits`. It trains gradient descent with SAM (`sam`), the same without SAM
# (`gd`), and with a step size so large that its edge shows (`gd-edge`). The whole has 1,500 steps, here it has
# 1,000.

# %%
run = lowland.experiments.run("long2024/digits", steps=1000)

# %%
run.figures["hessian-norm"]

# %% [markdown]
# The blue line is the Hessian norm. In the left panel it meets SAM's edge (dashed) and follows it down. In the right
# panel it settles on 2/η (dotted), the edge of gradient descent.
#
# ## The verdicts

# %%
words = {True: "holds", False: "fails", None: "undecided"}
for claim in run.claims:
    print(
        f"{words[claim['passed']]:10} {claim['id']:18} measured {claim['measured']:.3g}, threshold {claim['threshold']}"
    )
    if claim["reason"]:
        print(f"{'':10} {claim['reason']}")

# %% [markdown]
# A claim *holds*, *fails*, or is *undecided*: the run was too short, or too few seeds can't tell.
# `claim["reference"]` is the paper's own value, where it has one.
#
# The records are there to draw from yourself:

# %%
last = [record for record in run.records if record["arm"] == "sam"][-1]
print({name: round(last[name], 4) for name in ("step", "loss", "hessian_norm", "edge", "residual")})

# %% [markdown]
# What came out at larger scales, for all three papers, with the command of each: [The papers, claim by
# claim](../papers/index.md).
