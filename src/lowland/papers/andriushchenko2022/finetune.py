"""An ERM network tuned with SAM, and a SAM network with ERM (Andriushchenko & Flammarion 2022)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn import functional as F

from lowland.curvature import along_line
from lowland.errors import SettingError
from lowland.papers.andriushchenko2022 import cifar10 as clean
from lowland.papers.andriushchenko2022.image_check import ImageCheck, batches_of, error
from lowland.papers.andriushchenko2022.image_experiment import image_experiment
from lowland.papers.andriushchenko2022.image_settings import ImageSettings, scales
from lowland.papers.paired import ONE_SEED, Unfit, by_seed, difference, judged, last, shown
from lowland.training import Arm, Claim, Line, Panel, Plot, Task, Verdict, ours, read_json, repeats, setting
from lowland.training.shapes import Each, Maybe, fault
from lowland.training.weights import load_weights, read_weights

TUNED = {"erm-to-sam": "erm", "sam-to-erm": "sam", "erm-to-erm": "erm"}
CONNECTED = 0.1  # barrier of the training loss along the line; guessing has a loss of 2.3
RECOVERED = 0.5  # of SAM's gain over ERM


@dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """The settings of `cifar10`, with those of the second training."""

    tune_epochs: int = setting("passes over the training images of the second training", low=1, high=10**6)
    starts_from: str = setting(
        "whose weights the second training begins with; none: this is the first", choices=("none", "erm", "sam")
    )
    start: str = setting("finished run of andriushchenko2022/cifar10 that takes the place of the first training; none")
    line_points: int = setting("points of the line between the weights before and after", low=2, high=1001)
    line_examples: int = setting("training images for the line, the first ones, and test images", low=1)

    @property
    def trained_epochs(self) -> int:
        """None, if there is a finished run to take the weights from."""
        if self.starts_from != "none":
            return self.tune_epochs
        return self.epochs if self.start == "none" else 0


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
        if step == 0:
            self.start = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if step == settings.steps:
            record |= self._line(settings)
        return record

    def _line(self, settings: Settings) -> dict[str, list[float]]:
        assert self.start is not None
        before = clean.network(settings).to(next(self.model.parameters()).device)
        before.load_state_dict(self.start)
        first = torch.arange(settings.line_examples)
        train, test = (
            list(batches_of(split.take(first[: len(split)]), settings.batch_size))
            for split in (self.sets.train, self.sets.test)
        )
        points = [index / (settings.line_points - 1) for index in range(settings.line_points)]
        loss, wrong = (
            along_line(before, self.model, function, data, points, statistics=train).loss
            for function, data in ((F.cross_entropy, train), (error, test))
        )
        return {"line_t": points, "line_loss": list(loss), "line_error": list(wrong)}

    def state_dict(self) -> dict[str, Any]:
        """The weights that training began with."""
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up."""
        self.start = state_dict["start"]


def prepare(settings: Settings, device: torch.device) -> Task:
    """One run: a first training (or its weights, where there is a finished run), or a second one."""
    task = clean.prepare(settings, device)
    assert isinstance(task.check, ImageCheck)
    check = TunedCheck(task.model, task.check.average, task.check.sets, settings)
    first = settings.starts_from == "none"
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
    name = clean.EXPERIMENT.name
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
def _recovers(arms: Mapping[str, Arm]) -> Verdict:
    gain, tuned, by_epochs = (
        difference(arms, "erm", other, last("test_error")) for other in ("sam", "erm-to-sam", "erm-to-erm")
    )
    if gain.interval is None:
        return Verdict(None, None, ONE_SEED)
    if gain.interval[0] <= 0:
        reason = f"there is nothing to recover: SAM's gain over ERM is {gain.mean:.2g} ({shown(gain)})"
        return Verdict(None, None, reason)
    ratio = tuned.mean / gain.mean
    reason = f"as many epochs of ERM bring {by_epochs.mean / gain.mean:.2g} of it"
    return Verdict(ratio, ratio >= RECOVERED and tuned.mean > by_epochs.mean, reason)


@judged
def _connected(arms: Mapping[str, Arm]) -> Verdict:
    """The largest rise of the loss over the straight line between its ends' losses; the mean over seeds."""
    measured = fmean(by_seed(arms, "erm-to-sam", _barrier).values())
    return Verdict(measured, measured <= CONNECTED)


def _barrier(arm: Arm) -> float:
    end = arm.records[-1]
    loss = end["line_loss"]
    if None in loss:
        raise Unfit("the loss along the line is not finite")
    return float(max(value - (1 - t) * loss[0] - t * loss[-1] for t, value in zip(end["line_t"], loss, strict=True)))


def _lines(arms: Mapping[str, Arm]) -> list[Panel]:
    panels = []
    for column, label in (("line_loss", "training loss"), ("line_error", "test error")):
        lines = []
        for kind in TUNED:
            ends = [arms[name].records[-1] for name in arms if repeats(name, kind) and arms[name].records]
            ends = [end for end in ends if column in end]
            if ends:
                mean = [fmean(values) for values in zip(*(end[column] for end in ends), strict=True)]
                lines.append(Line(ends[0]["line_t"], mean, kind, "o-"))
        panels.append(Panel(label, "0: before, 1: after", label, lines))
    return panels


LAPTOP = {
    **clean.LAPTOP,
    "check_epochs": ours(4),
    "tune_epochs": ours(2),
    "examples": ours(1000),
    "test_examples": ours(500),
    "sharpness_examples": ours(25),
    "line_points": ours(7),
    "line_examples": ours(200),
}
EXPERIMENT = image_experiment(
    "finetune",
    "CIFAR-10: ERM tuned with SAM, and SAM with ERM",
    prepare,
    settings=Settings,
    scales=scales(
        LAPTOP,
        {
            "tune_epochs": ours(20, "the paper: a few"),
            "starts_from": ours("none", "what makes the arms"),
            "start": ours("none", "both first trainings are part of the run"),
            "line_points": ours(21),
            "line_examples": ours(5000),
        },
        {"tune_epochs": ours(1), "line_points": ours(3), "line_examples": ours(16)},
    ),
    arms={
        "erm": {"starts_from": "none", "rho": 0.0},
        "sam": {"starts_from": "none"},
        "erm-to-sam": {"starts_from": "erm", "lr": 0.01, "schedule": "cosine"},
        "sam-to-erm": {"starts_from": "sam", "rho": 0.0, "lr": 0.01, "schedule": "cosine"},
        "erm-to-erm": {"starts_from": "erm", "rho": 0.0, "lr": 0.01, "schedule": "cosine"},
    },
    claims=(
        Claim(
            "recovers",
            "Tuning an ERM network with SAM recovers most of SAM's gain in test error: share of it, means over seeds",
            "the experiments with fine-tuning",
            f">= {RECOVERED:g}",
            _recovers,
        ),
        Claim(
            "connected",
            "The ERM network and the tuned one are linearly connected: largest rise of the training loss above the "
            "straight line between its ends, mean over seeds (threshold ours)",
            "the experiments with fine-tuning",
            f"<= {CONNECTED:g}",
            _connected,
        ),
    ),
    figures=(Plot("line", "Between the weights before and after tuning", _lines),),
    hours="half an hour",
    grid={},
)  # fmt: skip
