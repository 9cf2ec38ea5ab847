"""SAM converges: training loss and gradient norm with a falling step size (Andriushchenko & Flammarion 2022)."""

import math
from collections.abc import Mapping

from lowland.papers.andriushchenko2022.experiment import image_experiment
from lowland.papers.andriushchenko2022.methods import ARMS
from lowland.papers.andriushchenko2022.settings import scales
from lowland.papers.andriushchenko2022.task import image_task
from lowland.papers.claims import OURS_BEFORE, Unfit, at_most, by_seed, last
from lowland.papers.figures import over_epochs
from lowland.training import Claim, Outcome, Reference, ours

ZERO = 0.01  # training loss that counts as zero; guessing has 2.3
FALLEN = 0.1  # gradient norm at the end over that at the beginning
_NEITHER = "neither does ERM get there in this run:"
_CONVERGES = Reference("m-SAM converges to a global minimum in practice", "the authors' README")


def _fall(outcome: Outcome) -> float:
    first = outcome.records[0]["gradient_norm"]
    if not first:
        raise Unfit(f"the gradient norm is {'not finite' if first is None else 'zero'} at the beginning")
    return last("gradient_norm")(outcome) / float(first)


def _long_enough(outcomes: Mapping[str, Outcome]) -> str:
    """Why a run is too short to tell whether SAM converges: ERM's training loss isn't zero by half of it.

    A step size that falls to zero ends any training. So SAM must have as long again as ERM takes, and ERM alone says
    whether it has.
    """
    try:
        lowest = by_seed(outcomes, "erm", _early_loss)
    except Unfit:  # the judge says why
        return ""
    worst = max(lowest.values(), default=0.0)
    if worst <= ZERO:
        return ""
    shown = f"{worst:.2g}" if math.isfinite(worst) else "not finite"
    return (
        f"ERM's training loss is {shown} after half of the epochs, and the claim is about runs twice as long as ERM "
        f"takes to get to {ZERO:g}"
    )


def _early_loss(outcome: Outcome) -> float:
    """The lowest training loss at checks in the first half of training."""
    half = outcome.records[-1]["epoch"] / 2
    losses = [record["train_loss"] for record in outcome.records if record["epoch"] <= half]
    return min((loss for loss in losses if loss is not None), default=math.inf)


EXPERIMENT = image_experiment(
    "convergence",
    "CIFAR-10: SAM's training loss and gradient norm",
    lambda settings, device: image_task("cifar-10", settings, device),
    scales=scales(
        paper={
            "epochs": ours(200, "as many as figure 1's; the paper's for convergence not known"),
            "augment": ours(False, "so that the training loss is that of fixed images"),
            "l2": ours(0.0, "so that the loss can become zero"),
            "schedule": ours("cosine", "falls to zero"),
            "sharpness_examples": ours(5000, "the gradient norm is of these, too"),
        },
        desk={
            "seeds": ours(1),
            "epochs": ours(100, "by ERM alone: its loss is zero before half of them"),
            "check_epochs": ours(20),
            "sharpness_examples": ours(512),
        },
        laptop={
            "seeds": ours(2),
            "epochs": ours(45),
            "check_epochs": ours(9),
            "examples": ours(300),
            "test_examples": ours(200),
        },
    ),
    claims=(
        Claim(
            "zero-loss",
            "With a falling step size SAM's training loss becomes zero, as ERM's does: the largest over seeds "
            "(threshold ours)",
            "the convergence experiments", f"<= {ZERO:g}", at_most(ZERO, last("train_loss"), _NEITHER),
            reference=_CONVERGES, regime=_long_enough, figure="convergence",
            why=f"{OURS_BEFORE}: guessing among ten classes has 2.3",
        ),
        Claim(
            "gradient-vanishes",
            "With a falling step size SAM's gradient at w vanishes, too: its norm at the end over that at the "
            "beginning, the largest over seeds (threshold ours)",
            "the convergence experiments", f"<= {FALLEN:g}", at_most(FALLEN, _fall, _NEITHER),
            reference=_CONVERGES, regime=_long_enough, figure="convergence", why=OURS_BEFORE,
        ),
    ),
    figures=(
        over_epochs(
            "convergence", "Convergence", list(ARMS),
            (("train_loss", "training loss", "loss", True), ("gradient_norm", "gradient norm", "norm", True),
             ("train_error", "training error", "error", False)),
        ),
    ),
    cost={
        "paper": "half an hour, one H100 (estimated)",
        "desk": "half an hour, 1 core (measured)",
        "laptop": "2 to 4 minutes, 1 core",
    },
)  # fmt: skip
