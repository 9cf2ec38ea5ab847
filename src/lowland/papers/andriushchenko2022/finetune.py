"""An ERM network tuned with SAM, and a SAM network with ERM (Andriushchenko & Flammarion 2022, figure 9)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn import functional as F

from lowland.curvature import along_line
from lowland.errors import SettingError
from lowland.papers.andriushchenko2022 import cifar
from lowland.papers.andriushchenko2022.check import ImageCheck, batches_of, error
from lowland.papers.andriushchenko2022.claims import FITS, MOST, TEST_ERROR, share_of_gain
from lowland.papers.andriushchenko2022.experiment import image_experiment
from lowland.papers.andriushchenko2022.figures import reported
from lowland.papers.andriushchenko2022.settings import DATASETS, ImageSettings, scales
from lowland.papers.andriushchenko2022.task import image_task, network
from lowland.papers.claims import OURS_BEFORE, Unfit, by_seed, judged, smaller
from lowland.papers.figures import over_epochs, since
from lowland.training import (
    Claim,
    Outcome,
    Panel,
    Plot,
    Reference,
    Task,
    Verdict,
    ours,
    over_seeds,
    paper,
    read_json,
    repeats,
    setting,
)  # fmt: skip
from lowland.training.files import Each, Maybe, fault
from lowland.training.weights import load_weights, read_weights

TUNED = {"erm-to-sam": "erm", "sam-to-erm": "sam", "erm-to-erm": "erm"}
CONNECTED = 0.1  # barrier of the training loss along the line; guessing has a loss of 2.3
_FIGURE = "figure 9, read by eye"


@dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """The settings of `cifar10`, with those of the second training."""

    dataset: str = setting("which images; the network is that of cifar10, or of cifar100", choices=DATASETS)
    tune_share: float = setting("share of all epochs that the second training takes, between 0 and 1")
    tune_rho: float = setting("radius ρ of SAM in the second training", above=0, high=1e30)
    starts_from: str = setting(
        "whose weights the second training begins with; none: this is the first", choices=("none", "erm", "sam")
    )
    start: str = setting("finished run of andriushchenko2022/cifar10 that takes the place of the first training; none")
    line_from: float = setting("where the line begins: 0 are the weights before tuning, 1 those after", high=0)
    line_until: float = setting("where it ends", low=1)
    line_points: int = setting("points of the line", low=2, high=1001)
    line_examples: int = setting("training images for the line, the first ones, and test images", low=1)

    def __post_init__(self) -> None:
        """Refuse a share that leaves one of the trainings nothing, and what doesn't go with ``start``."""
        if not 0 < self.tune_share < 1:
            raise SettingError(
                f"tune_share is a share of all epochs: set it between 0 and 1, not to {self.tune_share:g}"
            )
        if not 0 < self.tune_epochs < self.epochs:
            raise SettingError(
                f"tune_share = {self.tune_share:g} of {self.epochs} epochs leaves one of the two trainings none: "
                "set epochs higher, or another tune_share"
            )
        if self.start != "none" and self.dataset != DATASETS[0]:
            raise SettingError("start is a run of andriushchenko2022/cifar10: set dataset=cifar-10, or leave start out")
        super().__post_init__()

    @property
    def tune_epochs(self) -> int:
        """Passes over the training images of the second training."""
        return round(self.tune_share * self.epochs)

    @property
    def trained_epochs(self) -> int:
        """None, if there is a finished run to take the weights from."""
        if self.starts_from != "none":
            return self.tune_epochs
        return self.epochs - self.tune_epochs if self.start == "none" else 0


class TunedCheck(ImageCheck):
    """As `ImageCheck`; at the end also what lies between the weights it began with and the last ones."""

    start: dict[str, Any] | None = None

    def __call__(self, step: int, batch: tuple[Any, Any]) -> dict[str, Any]:
        """The last record has ``line_t``, ``line_loss`` (training) and ``line_error`` (test), lists."""
        settings = self.settings
        assert isinstance(settings, Settings)
        record = super().__call__(step, batch)
        if settings.starts_from == "none":
            return record
        record["epoch"] += settings.epochs - settings.tune_epochs  # after those of the first training
        if step == 0:
            self.start = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if step == settings.steps:
            record |= self._line(settings)
        return record

    def _line(self, settings: Settings) -> dict[str, list[float]]:
        assert self.start is not None
        before = network(settings.dataset, settings).to(next(self.model.parameters()).device)
        before.load_state_dict(self.start)
        first = torch.arange(settings.line_examples)
        train, test = (
            list(batches_of(split.take(first[: len(split)]), settings.batch_size))
            for split in (self.sets.train, self.sets.test)
        )
        span = settings.line_until - settings.line_from
        points = [settings.line_from + span * k / (settings.line_points - 1) for k in range(settings.line_points)]
        loss, wrong = (
            along_line(before, self.model, function, data, points, statistics=train).loss
            for function, data in ((F.cross_entropy, train), (error, test))
        )
        return {"line_t": points, "line_loss": list(loss), "line_error": list(wrong)}

    def state_dict(self) -> dict[str, Any]:
        """The weights that training began with."""
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the weights that training began with."""
        self.start = state_dict["start"]


def prepare(settings: Settings, device: torch.device) -> Task:
    """One run: a first training (or its weights, where there is a finished run), or a second one."""
    first = settings.starts_from == "none"
    rho = settings.rho if first or settings.rho == 0 else settings.tune_rho
    task = image_task(settings.dataset, settings, device, rho=rho)
    assert isinstance(task.check, ImageCheck)
    check = TunedCheck(task.model, task.check.average, task.check.sets, settings)
    if settings.start != "none":
        kind = settings.starts_from
        if first:
            kind = "erm" if settings.rho == 0 else "sam"
        weights = _finished(Path(settings.start), kind, settings)
        load_weights(task.model, weights, settings.start)
        return replace(task, check=check)
    return replace(task, check=check, starts_from=None if first else settings.starts_from)


def _finished(directory: Path, kind: str, settings: Settings) -> dict[str, Any]:
    """The last weights of the arm of that kind and seed in a run of `cifar10`.

    Raises:
        SettingError: if it is none, or has no such arm.
    """
    name = cifar.CIFAR10.name
    if not (directory / "config.json").exists():
        raise SettingError(f"start: there is no run in {directory}: give the directory of a finished run of {name}")
    config = read_json(directory / "config.json", {"arms": Maybe(Each({"seed": Maybe(int), "examples": Maybe(int)}))})
    if config.get("experiment") != name:
        raise SettingError(f"start: {directory} holds a run of {config.get('experiment')}, not of {name}")
    arms = config.get("arms") or {}
    found = [label for label in arms if repeats(label, kind) and arms[label].get("seed") == settings.seed]
    if not found:
        raise SettingError(f"start: {directory} has no arm {kind} with seed {settings.seed}; it has {', '.join(arms)}")
    if not (directory / "summary.json").exists():
        raise SettingError(f"start: the run in {directory} is not finished: the command that began it goes on with it")
    summary = read_json(directory / "summary.json", {"metrics": Each(object)})
    if fault(summary["metrics"].get(found[0]), {"status": str}) or summary["metrics"][found[0]]["status"] != "done":
        raise SettingError(f"start: arm {found[0]} of {directory} diverged: there is nothing to start from")
    there, here = arms[found[0]].get("examples"), settings.examples
    if there != here:  # the split depends on their number: the first training saw what would be held out now
        raise SettingError(
            f"start: {directory} was trained on {there} images, this run on {here}: set examples={there}"
        )
    return read_weights(directory, arm=found[0])


@judged
def _connected(outcomes: Mapping[str, Outcome]) -> Verdict:
    """The largest rise of the loss over the straight line between its ends' losses; the mean over seeds."""
    measured = fmean(by_seed(outcomes, "erm-to-sam", _barrier).values())
    return Verdict(measured, measured <= CONNECTED)


def _barrier(outcome: Outcome) -> float:
    end = outcome.records[-1]
    loss = end["line_loss"]
    if None in loss:
        raise Unfit("the loss along the line is not finite")
    curve = dict(zip(end["line_t"], loss, strict=True))
    ends = [loss[min(range(len(loss)), key=lambda k: abs(end["line_t"][k] - t))] for t in (0, 1)]
    return float(max(value - (1 - t) * ends[0] - t * ends[1] for t, value in curve.items() if 0 <= t <= 1))


def _lines(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    panels = []
    for column, label in (("line_loss", "training loss"), ("line_error", "test error")):
        lines = []
        for kind in TUNED:
            found = [outcome for name, outcome in outcomes.items() if repeats(name, kind) and outcome.records]
            curves = {
                outcome.settings.seed: {t: y for t, y in zip(end["line_t"], end[column], strict=True) if y is not None}
                for outcome in found
                if column in (end := outcome.records[-1])
            }
            if any(curves.values()):
                lines.append(over_seeds(curves, kind))
        where, against = "α, 0: before tuning, 1: after", [line.label for line in lines[-1:]]
        panels.append(Panel(label, where, label, lines, against=against))
    return panels


# Final test errors in %, read by eye.
FIGURE_9 = {
    "cifar-10": {"erm-to-erm": 4.65, "erm-to-sam": 4.2, "sam-to-erm": 3.95},
    "cifar-100": {"erm-to-erm": 20.85, "erm-to-sam": 19.8, "sam-to-erm": 19.0},
}
_REPORTED = reported(
    {
        dataset: {"test_error": [(kind, f"{kind}, paper", value) for kind, value in errors.items()]}
        for dataset, errors in FIGURE_9.items()
    }
)
_ACROSS = over_epochs(
    "switch", "Test error across the switch", ["erm", "sam", *TUNED],
    (("test_error", "test", "error", False), ("train_error", "training", "error", False)), _REPORTED,
)  # fmt: skip
_BEFORE = 0.2  # of the first training, which the closer look begins with


def _switch(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    """Both errors over all epochs; and the test error from shortly before the switch on, which alone is near it."""
    whole = [panel for panel in _ACROSS.panels(outcomes) if isinstance(panel, Panel)]
    tuned = [x for panel in whole for line in panel.lines if line.label in TUNED for x in line.x if x is not None]
    if not tuned:
        return whole
    test = whole[0]
    return [
        replace(test, levels=()),
        *whole[1:],
        replace(
            since(test, (1 - _BEFORE) * min(tuned)), title="test, around the switch", ylabel="test error", against=()
        ),
    ]


_TUNING = {"lr": 0.01, "schedule": "cosine"}
EXPERIMENT = image_experiment(
    "finetune",
    "CIFAR-10 and CIFAR-100: ERM tuned with SAM, and SAM with ERM",
    prepare,
    datasets=DATASETS,
    settings=Settings,
    scales=scales(
        paper={
            "dataset": paper("cifar-10", "and cifar-100"),
            "epochs": paper(1100, "both trainings together"),
            "check_epochs": ours(10),
            "tune_share": paper(1 / 11, "100 epochs after 1,000"),
            "tune_rho": ours(0.2, "the paper: larger than in training"),
            "starts_from": ours("none", "what makes the arms"),
            "start": ours("none", "both first trainings are part of the run"),
            "line_from": paper(-1.0),
            "line_until": paper(2.0),
            "line_points": ours(61),
            "line_examples": ours(5000),
        },
        desk={
            "epochs": ours(33, "3 after 30: the paper's share"),
            "check_epochs": ours(3),
            "test_examples": ours(5000),
            "line_points": ours(31),
            "line_examples": ours(1000),
        },
        laptop={
            "seeds": ours(3),
            "epochs": ours(6),
            "check_epochs": ours(2),
            "tune_share": ours(1 / 3),
            "examples": ours(1000),
            "test_examples": ours(500),
            "sharpness_examples": ours(25),
            "line_points": ours(10),
            "line_examples": ours(200),
        },
        smoke={"epochs": ours(3), "tune_share": ours(1 / 3), "line_points": ours(4), "line_examples": ours(16)},
    ),
    arms={
        "erm": {"starts_from": "none", "rho": 0.0},
        "sam": {"starts_from": "none"},
        "erm-to-sam": {"starts_from": "erm", **_TUNING},
        "sam-to-erm": {"starts_from": "sam", "rho": 0.0, **_TUNING},
        "erm-to-erm": {"starts_from": "erm", "rho": 0.0, **_TUNING},
    },
    arm_notes=dict.fromkeys(TUNED, "lr and schedule are ours: the paper's step size after the switch is not known"),
    claims=(
        Claim(
            "recovers",
            "Tuning an ERM network with SAM (ERM → SAM) brings more than half of what training with SAM does (SAM → "
            "ERM). A gain is by how much the test error is below that of ERM for as long, seed by seed. "
            "Measured: half of the gain of SAM → ERM, minus that of ERM → SAM; mean over seeds (threshold ours)",
            "figure 9", "interval < 0", share_of_gain("erm-to-sam", "sam-to-erm", "erm-to-erm", TEST_ERROR),
            over_seeds=True, regime=FITS, why=MOST, figure="switch",
            reference=Reference("ERM 4.65 %, ERM → SAM 4.2, SAM → ERM 3.95; CIFAR-100 20.85, 19.8, 19.0", _FIGURE),
        ),
        Claim(
            "keeps",
            "What SAM found ERM does not lose: test error of SAM → ERM minus that of ERM for as long, paired by seed",
            "figure 9", "interval < 0", smaller("sam-to-erm", "erm-to-erm", TEST_ERROR),
            over_seeds=True, regime=FITS, reference=Reference("-0.007; CIFAR-100 -0.0185", _FIGURE),
            figure="switch",
        ),
        Claim(
            "connected",
            "The ERM network and the tuned one are linearly connected: largest rise of the training loss above the "
            "straight line between the two, mean over seeds (threshold ours)",
            "the experiments with fine-tuning", f"<= {CONNECTED:g}", _connected, regime=FITS,
            reference=Reference("they are linearly connected", "the experiments with fine-tuning"),
            why=f"{OURS_BEFORE}: guessing among ten classes has 2.3", figure="line",
        ),
    ),
    figures=(
        Plot("switch", "Test error across the switch", _switch),
        Plot("line", "Between the weights before and after tuning", _lines),
    ),
    cost={
        "paper": "four hours, one H100 (estimated)",
        "desk": "under two hours, 1 core (measured)",
        "laptop": "2 to 4 minutes, 1 core",
    },
    grid={},
)  # fmt: skip
