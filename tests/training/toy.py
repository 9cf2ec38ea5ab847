"""A small experiment for tests of the loop: noisy linear regression with dropout, so that every generator counts."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

import lowland.training as training
from lowland.optim import SAM
from lowland.training import Claim, Curve, Experiment, Figure, Task, Verdict, ours, setting


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    size: int = setting("inputs", low=1)
    noisy: bool = setting("with dropout")
    kind: str = setting("of optimizer", choices=("sgd", "adam"))


class Check:
    """Counts its calls, so that a resumed run shows whether the check's state came back."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, step, batch):
        self.calls += 1
        x, y = batch
        loss = F.mse_loss(self.model(x), y).item()  # draws a dropout mask
        if loss != loss or loss == float("inf"):
            raise FloatingPointError
        return {"loss": loss, "calls": self.calls, "weight": next(self.model.parameters()).sum().item()}

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def prepare(settings, device):
    model = nn.Sequential(nn.Linear(settings.size, 8), nn.Dropout(0.3 if settings.noisy else 0), nn.Linear(8, 1))
    base = torch.optim.Adam if settings.kind == "adam" else torch.optim.SGD

    def batch(step):
        generator = torch.Generator().manual_seed(settings.seed * 1000 + step)
        x = torch.randn(16, settings.size, generator=generator)
        return x.to(device), x.sum(1, keepdim=True).to(device)

    optimizer = SAM(base(model.to(device).parameters(), lr=settings.lr), rho=settings.rho)
    return Task(model, F.mse_loss, optimizer, batch, Check(model), {"loss": "loss"})


def judge(arms):
    measured = arms["sam"].records[-1]["loss"]
    return Verdict(measured, measured < 1)


VALUES = {
    "lr": ours(0.01), "rho": ours(0.05), "steps": ours(40), "check_every": ours(7), "seed": ours(3),
    "size": ours(4), "noisy": ours(True), "kind": ours("adam"),
}  # fmt: skip
EXPERIMENT = Experiment(
    name="tests/toy",
    title="toy",
    paper="none",
    datasets=(),
    settings=Settings,
    scales={"paper": VALUES, "laptop": {"steps": ours(20)}, "smoke": {"steps": ours(3)}},
    arms={"sam": {}, "plain": {"rho": 0.0}},
    grid={"lr": (0.01, 0.1)},
    claims=(Claim("learns", "the loss falls", "here", "< 1", judge),),
    figures=(Figure("loss", "Loss", "loss", (Curve("loss", "loss"),)),),
    cost={},
    prepare=prepare,
)
