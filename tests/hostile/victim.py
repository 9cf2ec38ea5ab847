"""A small experiment to be killed: it saves after every step, and takes its time over each."""

import time
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM
from lowland.training import Curve, Experiment, Figure, Selection, Task, drive, ours, setting
from tests.training import toy


@dataclass(frozen=True, kw_only=True)
class Settings(toy.Settings):
    pause: float = setting("seconds a step takes", low=0.0)


def pause(seconds):
    """In the middle of every step."""
    time.sleep(seconds)


def prepare(settings, device):
    drive._SECONDS = 0.0
    drive._SHARE = 1e9
    model = nn.Sequential(
        nn.Linear(settings.size, 8), nn.Dropout(0.3 if settings.noisy else 0), nn.Linear(8, 1, bias=False)
    )
    if settings.kind == "adam":
        base = torch.optim.Adam(model.to(device).parameters(), lr=settings.lr)
    else:
        base = torch.optim.SGD(model.to(device).parameters(), lr=settings.lr, momentum=0.9)

    def batch(step):
        generator = torch.Generator().manual_seed(settings.seed * 1000 + step)
        x = torch.randn(16, settings.size, generator=generator)
        pause(settings.pause)
        return x.to(device), x.sum(1, keepdim=True).to(device)

    return Task(model, F.mse_loss, SAM(base, rho=settings.rho), batch, toy.Check(model), {"loss": "loss"})


VALUES = toy.VALUES | {
    "steps": ours(12), "check_every": ours(3), "size": ours(3), "pause": ours(0.01),
    "noisy": ours(False), "kind": ours("sgd"),
}  # fmt: skip
EXPERIMENT = replace(
    toy.EXPERIMENT,
    name="tests/victim",
    settings=Settings,
    scales={"paper": VALUES, "laptop": {}, "smoke": {}},
    arms={"sam": {}, "plain": {"rho": 0.0}, "adam": {"kind": "adam", "noisy": True}},
    grid={"rho": (0.0, 0.05), "seed": (0, 1)},
    figures=(Figure("loss", "Loss", "loss", (Curve("loss", "loss"),)),),
    cost=dict.fromkeys(("paper", "laptop", "smoke"), "a second"),
    outcomes=(Curve("loss", "loss"),),
    selection=Selection("loss", "training"),
    prepare=prepare,
)
assert isinstance(EXPERIMENT, Experiment)
