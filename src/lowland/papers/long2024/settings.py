"""Settings of every experiment of Long & Bartlett 2024, and what their values have in common."""

from dataclasses import dataclass

import lowland.training as training
from lowland.training import Curve, Selection, paper, setting

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
EIGENVALUES = paper(1, "the authors' code takes another number too")


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Settings of every experiment of the paper."""

    eps: float = setting("added to the gradient norm in the ascent", low=0)
    tol: float = setting("relative residual of the Hessian's eigenpairs", above=0, high=0.1)
    eigenvalues: int = setting("how many of the Hessian's largest eigenvalues are recorded", low=1, high=32)
