"""What the experiments of Long & Bartlett 2024 share: settings, the check, the six claims, the four figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lowland.training as training
from lowland.curvature import stability
from lowland.data import Split
from lowland.data.transforms import center, one_hot, scale
from lowland.optim import SAM
from lowland.training import Arm, Claim, Curve, Figure, Task, Verdict, setting

PAPER = (
    "Long & Bartlett 2024, Sharpness-Aware Minimization and the Edge of Stability, "
    "Journal of Machine Learning Research 25"
)
RHOS = (0.0, 0.1, 0.3, 1.0)


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Settings of every experiment of the paper."""

    eps: float = setting("added to the gradient norm in the ascent", low=0)
    tol: float = setting("relative residual of the Hessian's principal eigenpair", above=0)


class EdgeCheck:
    """Hessian norm, SAM edge and alignments on the batch at hand, warm-started from the check before."""

    def __init__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], settings: Settings):
        self.model, self.loss_fn, self.settings = model, loss_fn, settings
        self.vector: Tensor | None = None

    def __call__(self, step: int, batch: tuple[Any, Any]) -> dict[str, Any]:
        """A record with the fields of `lowland.curvature.Stability`."""
        settings = self.settings
        measured = stability(
            self.model, self.loss_fn, [batch],
            lr=settings.lr, rho=settings.rho, eps=settings.eps, tol=settings.tol, start=self.vector,
        )  # fmt: skip
        self.vector = measured.vector
        return {name: value for name, value in vars(measured).items() if name != "vector"}

    def state_dict(self) -> dict[str, Any]:
        """The warm start."""
        return {"vector": self.vector}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a warm start."""
        self.vector = state_dict["vector"]


def task(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batch: Callable[[int], tuple[Any, Any]],
    settings: Settings,
) -> Task:
    """SAM around plain gradient descent, checked for its edge of stability."""
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=settings.lr), rho=settings.rho, eps=settings.eps)
    check = EdgeCheck(model, loss_fn, settings)
    return Task(model, loss_fn, optimizer, batch, check, {"loss": "loss", "‖H‖": "hessian_norm", "edge": "edge"})


def one_batch(split: Split, divisor: float, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A whole split as one batch: pixels/``divisor`` minus their mean over the split, and one-hot targets."""
    split = split.to(device)
    (x,) = center(scale(split.inputs, divisor))
    assert split.targets is not None
    return x, one_hot(split.targets, classes)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean over batch and outputs."""
    return F.mse_loss(output, target)


# The figures.

_NORMS = (
    Curve("hessian_norm", "Hessian norm", "-"),
    Curve("edge", "SAM edge", "--"),
    Curve("gd_edge", "2/η", ":"),
)
FIGURES = (
    Figure("hessian-norm", "Hessian norm and the edge of stability", "Hessian norm", _NORMS),
    Figure("hessian-norm-sam-edge", "Hessian norm and the SAM edge", "Hessian norm", _NORMS[:2]),
    Figure(
        "alignment",
        "Alignment with the principal eigenvector v",
        "|cos|",
        (
            Curve("gradient_alignment", "gradient at w", "-"),
            Curve("sam_gradient_alignment", "gradient at w + ε (SAM)", "--"),
        ),
        log=False,
    ),
    Figure("loss", "Training loss", "loss", (Curve("loss", "loss", "-"),)),
)


# The claims. Each looks at the second half of training, except where it says so.


def claims(deviation: float | None, sam: str = "sam", gd: str = "gd", gd_edge: str = "gd") -> tuple[Claim, ...]:
    """The paper's six claims.

    Args:
        deviation: largest median of |norm/edge − 1| that counts as settled; None for minibatches, where the
            deviation is only reported.
        sam: arm with ρ > 0.
        gd: arm with ρ = 0 at the same η.
        gd_edge: arm with ρ = 0 and η large enough to reach 2/η.
    """
    settled = f"<= {deviation:g}" if deviation is not None else None
    return (
        Claim(
            "sam-edge",
            "With ρ > 0 the Hessian norm settles on the SAM edge: median |norm/edge − 1| over the second half",
            "section 4", settled, _on(sam, lambda arm: _settles(arm, "edge", deviation)),
        ),
        Claim(
            "far-below-gd-edge",
            "There the SAM edge lies far below 2/η: median edge/(2/η) over the second half (threshold ours)",
            "section 4", "<= 0.5", _on(sam, _far_below),
        ),
        Claim(
            "edge-falls",
            "The SAM edge falls as the gradient norm falls: last tenth over the first tenth of the second half",
            "sections 3 and 4", "< 1", _on(sam, _falls),
        ),
        Claim(
            "gd-edge",
            "With ρ = 0 and η large enough the Hessian norm settles on 2/η: median |norm·η/2 − 1| over the second half",
            "section 4", settled, _on(gd_edge, lambda arm: _settles(arm, "gd_edge", deviation)),
        ),
        Claim(
            "alignment",
            "The gradient at w + ε is more aligned with the principal eigenvector than that at w: "
            "mean difference of |cos| over training",
            "section 4", "> 0", _on(sam, _aligned),
        ),
        Claim(
            "flatter",
            "SAM ends with a smaller Hessian norm than gradient descent at the same η: ratio over the last tenth",
            "section 4", "< 1", _on(sam, _flatter, gd),
        ),
    )  # fmt: skip


def _on(*parts: Any) -> Callable[[Mapping[str, Arm]], Verdict]:
    """A judge for the named arms; null if one of them diverged."""
    names = [part for part in parts if isinstance(part, str)]
    (decide,) = (part for part in parts if not isinstance(part, str))

    def judge(arms: Mapping[str, Arm]) -> Verdict:
        for name in names:
            if arms[name].diverged_at is not None:
                return Verdict(None, None, f"arm {name} diverged at step {arms[name].diverged_at}")
        return decide(*(arms[name] for name in names))

    return judge


def _settles(arm: Arm, edge: str, deviation: float | None) -> Verdict:
    """Null unless the norm reached the edge (to a tenth) before the second half: else there was no time to settle."""
    ratios = [norm / limit for norm, limit in zip(arm.column("hessian_norm"), arm.column(edge), strict=True)]
    late = [norm / limit for norm, limit in zip(arm.late("hessian_norm"), arm.late(edge), strict=True)]
    measured = median(abs(ratio - 1) for ratio in late)
    arrival = next((r["step"] for r, ratio in zip(arm.records, ratios, strict=True) if ratio >= 0.9), None)
    if arrival is None:
        reason = f"the norm never reached the edge: at most {max(ratios):.2g} of it in {arm.settings.steps} steps"
        return Verdict(measured, None, reason)
    if arrival > arm.settings.steps / 2:
        return Verdict(measured, None, f"the norm reached the edge only at step {arrival} of {arm.settings.steps}")
    if deviation is None:
        return Verdict(measured, None, "reported without a threshold: the edge is derived for full batches")
    return Verdict(measured, measured <= deviation)


def _far_below(arm: Arm) -> Verdict:
    measured = median(edge / limit for edge, limit in zip(arm.late("edge"), arm.late("gd_edge"), strict=True))
    return Verdict(measured, measured <= 0.5)


def _tenths(arm: Arm, column: str) -> tuple[float, float]:
    """Medians over the first and the last tenth of training that the second half has."""
    late = [(record["step"] / arm.settings.steps, record[column]) for record in arm.records]
    first = [value for at, value in late if 0.5 <= at <= 0.6]
    last = [value for at, value in late if at >= 0.9]
    return median(first), median(last)


def _falls(arm: Arm) -> Verdict:
    (edge, edge_end), (norm, norm_end) = _tenths(arm, "edge"), _tenths(arm, "gradient_norm")
    if norm_end >= norm:
        return Verdict(edge_end / edge, None, "the gradient norm didn't fall over the second half")
    return Verdict(edge_end / edge, edge_end < edge)


def _aligned(arm: Arm) -> Verdict:
    measured = fmean(arm.column("sam_gradient_alignment")) - fmean(arm.column("gradient_alignment"))
    return Verdict(measured, measured > 0)


def _flatter(sam: Arm, gd: Arm) -> Verdict:
    if sam.settings.lr != gd.settings.lr:
        return Verdict(None, None, f"the arms have different η: {sam.settings.lr:g} and {gd.settings.lr:g}")
    measured = _tenths(sam, "hessian_norm")[1] / _tenths(gd, "hessian_norm")[1]
    return Verdict(measured, measured < 1)
