"""Settings of every experiment of Long & Bartlett 2024, and what their values have in common."""

from collections.abc import Mapping
from dataclasses import dataclass

import lowland.training as training
from lowland.training import Curve, Selection, ours, paper, setting
from lowland.training.settings import Value

RHOS = (0.0, 0.1, 0.3, 1.0)
# The paper compares no settings: nothing is held out to select them by.
SELECTION = Selection(metric="loss", on="training", test="test_error")
OUTCOMES = (
    Curve("hessian_norm", "Hessian norm"),
    Curve("loss", "training loss"),
    Curve("test_loss", "test loss"),
    Curve("test_error", "test error"),
)
CHECKS = "the authors' code checks by the clock: by default every quarter of an hour"
# At paper scale, of its three tasks.
VALUES: Mapping[str, Value] = {
    "rho": paper(0.1, "the smallest ρ > 0 of the grid"),
    "eps": paper(1e-5),
    "tol": ours(1e-3, "the authors' code stops when the norm changes by less than that share of itself"),
    "eigenvalues": paper(1, "the authors' code takes another number too"),
    "seed": ours(0),
}


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Settings of every experiment of the paper."""

    eps: float = setting("added to the gradient norm in the ascent", low=0)
    tol: float = setting("relative residual of the Hessian's eigenpairs", above=0, high=0.1)
    eigenvalues: int = setting("how many of the Hessian's largest eigenvalues are recorded", low=1, high=32)
