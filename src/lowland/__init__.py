"""Sharpness-aware training: the optimizer, the instruments that measure what it does, three papers as commands.

    optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, model=model)
    pairs = lowland.curvature.Hessian(model, loss_fn, batches).eigenpairs()

`lowland.data`, `lowland.models`, `lowland.training` and `lowland.papers` are imported by name.
"""

__version__ = "0.1.0"

from lowland import curvature, optim
from lowland.optim import SAM

__all__ = ["SAM", "__version__", "curvature", "optim"]
