"""The toy with a separate network: how much of the hard feature the last layer takes (Springer et al. 2024)."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lowland.errors import SettingError
from lowland.papers.claims import below_zero, by_seed, difference, judged, last, reached
from lowland.papers.figures import over_epochs
from lowland.papers.springer2024 import PAPER
from lowland.papers.springer2024.claims import TRAINED
from lowland.papers.springer2024.methods import METHODS, SGD
from lowland.papers.springer2024.separate_network import Weights, features, initial_weights, outputs, step
from lowland.papers.springer2024.toy import DRAWN, RHOS, ToyRuns, ToySettings, arm_name
from lowland.papers.springer2024.toy import EXPERIMENT as JOINT
from lowland.papers.springer2024.toy_probe import wrong
from lowland.training import Claim, Experiment, Line, Outcome, Panel, Plot, Record, Verdict, ours

_KINDS = [SGD, *(arm_name(method, DRAWN) for method in METHODS)]


class SeparateRuns(ToyRuns):
    """All runs as one program, as `ToyRuns`, of networks with separate features.

    Records of ``train_``, ``validation_`` and ``test_`` ``error`` and ``loss``; of the last layer's weights ``v_easy``
    and ``v_hard``, absolute, and ``ratio``, v_hard/v_easy; and of the share that the hard feature has in the outputs of
    the test points: ``hard_share``, the mean of |v_hard z_hard| over that of both.
    """

    weights: Weights  # type: ignore[assignment]

    def __init__(self, arms: Mapping[str, ToySettings], device: torch.device, dtype: torch.dtype = torch.float32):
        super().__init__(arms, device, dtype)
        if self.settings.rotate:
            raise SettingError("features that are separate can't be rotated: set rotate=false")

    def _drawn(self, seed: int) -> Weights:  # type: ignore[override]
        return initial_weights(seed, self.settings.width)

    def _step(self, x: Tensor, y: Tensor) -> None:
        self.weights = step(self.networks, self.weights, x[..., :2], y)

    def measure(self) -> dict[str, Record | FloatingPointError]:
        """The records of the class' docstring."""
        w, columns = self.weights, dict[str, Tensor]()
        for name, points in (("train", self.train_points), ("validation", self.validation), ("test", self.test)):
            margins = points.hard[:, None] * outputs(w, points.x[..., :2])
            columns[f"{name}_error"] = wrong(margins.flatten(0, 1)).view(margins.shape[:2])
            columns[f"{name}_loss"] = softplus(-margins).mean(2)
        columns |= {"v_easy": w.v[..., 0].abs(), "v_hard": w.v[..., 1].abs()}
        columns["ratio"] = columns["v_hard"] / columns["v_easy"]
        parts = (features(w, self.test.x[..., :2]) * w.v[:, :, None]).abs().mean(2)
        columns["hard_share"] = parts[..., 1] / parts.sum(-1)
        columns = {name: column.cpu() for name, column in columns.items()}
        epoch = self.step * self.settings.epochs / self.settings.steps
        records: dict[str, Record | FloatingPointError] = {}
        for s, names in enumerate(self.names):
            for k, name in enumerate(names):
                if torch.isfinite(columns["train_loss"][s, k]):
                    found = {key: column[s, k].item() for key, column in columns.items()}
                    records[name] = {"epoch": epoch, **found}
                else:
                    records[name] = FloatingPointError("the loss is not finite")
        return records


def larger_ratio(method: str) -> Callable[[Mapping[str, Outcome]], Verdict]:
    """Judges SGD's v_hard/v_easy minus that of ``method`` at ρ = `DRAWN`, at the end, paired by seed."""
    return judged(lambda outcomes: below_zero(difference(outcomes, SGD, arm_name(method, DRAWN), last("ratio")), 5))


def against_rho(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    """The ratio at the end against ρ, mean over seeds, a line for each method; SGD is at ρ = 0."""
    panels = []
    for column, title in (("ratio", "v_hard / v_easy"), ("hard_share", "share of the hard feature")):
        lines = []
        for method in METHODS:
            kinds = {0.0: SGD, **{rho: arm_name(method, rho) for rho in RHOS}}
            found = {rho: by_kind(outcomes, kind, column) for rho, kind in kinds.items()}
            points = {rho: fmean(values) for rho, values in found.items() if values}
            if points:
                lines.append(Line(list(points), list(points.values()), method, "o-"))
        panels.append(Panel(title, "ρ", title, lines))
    return panels


def by_kind(outcomes: Mapping[str, Outcome], kind: str, column: str) -> list[float]:
    """The last entries of the runs of that kind that were trained to their end."""
    done = {label: outcome for label, outcome in outcomes.items() if outcome.status == "done" and outcome.records}
    return list(by_seed(done, kind, last(column)).values())


_WORDS = {
    "sam": "SAM",
    "lsam": "LSAM, which perturbs the last layer alone,",
    "phantom-weights": "The phantom importance weights alone",
    "phantom-scaling": "The scaling by the phantom last layer alone",
}
EXPERIMENT = Experiment(
    name="springer2024/toy-separate",
    title="The toy's two features in a network each: which of them does the last layer take?",
    paper=PAPER,
    datasets=(),
    settings=ToySettings,
    scales={
        **JOINT.scales,
        "paper": {**JOINT.scales["paper"], "seeds": ours(20), "check_epochs": ours(15)},
        "laptop": {"seeds": ours(5), "epochs": ours(60)},
    },
    arms=JOINT.arms,
    grid={},
    claims=tuple(
        Claim(
            f"ratio-{method}",
            f"{_WORDS[method]} gives the hard feature more of the last layer: v_hard/v_easy of SGD minus that at ρ = "
            f"{DRAWN:g}, at the end, paired by seed",
            "the toy's figures of v_hard/v_easy", "interval < 0", larger_ratio(method),
            regime=reached(SGD, last("train_error"), TRAINED, "SGD's training error"),
        )
        for method in METHODS
    ),
    figures=(
        over_epochs(
            "ratio", "The last layer's weights over training", _KINDS,
            (("ratio", "v_hard / v_easy", "ratio", False), ("v_easy", "v_easy", "weight", False),
             ("v_hard", "v_hard", "weight", False)),
        ),
        Plot("against-rho", "At the end against ρ, mean over seeds", against_rho, columns=2),
        over_epochs(
            "training", "Training", _KINDS,
            (("train_loss", "training", "loss", True), ("test_error", "test", "error", False)),
        ),
    ),
    cost={
        "paper": "about five minutes, 2 cores (from its first steps)",
        "desk": "about five minutes, 2 cores (from its first steps)",
        "laptop": "half a minute, 2 cores",
        "smoke": "seconds",
    },
    together=SeparateRuns,
)  # fmt: skip
