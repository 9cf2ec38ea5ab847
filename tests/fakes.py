"""The experiments that tests train: small, and each with something to look at.

`TOY` draws from every generator, `VICTIM` saves after every step, `SHAKY` has trouble on order; `RELAY` has what only
some tasks have, `PAIR` trains its arms together, and `NETWORKS` is every network that can be vectorized.
"""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lowland.training as training
from lowland.data import Shuffled, WholeBatch
from lowland.errors import DataError
from lowland.models import Transformer, mlp, norm_cnn, strided_cnn
from lowland.optim import SAM
from lowland.papers.long2024.check import EdgeCheck
from lowland.training import (
    Claim,
    Curve,
    Experiment,
    Figure,
    Line,
    Panel,
    Plot,
    Selection,
    Task,
    Verdict,
    drive,
    setting,
)  # fmt: skip


def experiment(name, settings, values, arms, laptop=None, smoke=None, **others):
    """One whose settings are ``values`` but for what smaller scales change; ``others`` is what else it has."""
    scales = {"paper": values, "laptop": laptop or {}, "smoke": smoke or {}}
    return Experiment(name=f"tests/{name}", settings=settings, scales=scales, arms=arms, **others)


class Check:
    """Counts its calls, so that a resumed run shows whether the check's state came back."""

    def __init__(self, model, loss_fn=F.mse_loss):
        self.model, self.loss_fn, self.calls = model, loss_fn, 0

    def __call__(self, step, batch):
        self.calls += 1
        x, y = batch
        loss = self.loss_fn(self.model(x), y).item()  # may draw a dropout mask
        if not abs(loss) < float("inf"):
            raise FloatingPointError
        return {"loss": loss, "calls": self.calls, "weight": next(self.model.parameters()).sum().item()}

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def sums(size, count, settings, device):
    """Batches of ``count`` random inputs of this ``size``, and their sums."""

    def batch(step):
        x = torch.randn(count, size, generator=torch.Generator().manual_seed(settings.seed * 1000 + step))
        return x.to(device), x.sum(1, keepdim=True).to(device)

    return batch


# Noisy linear regression with dropout.


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    size: int = setting("inputs", low=1)
    noisy: bool = setting("with dropout")
    kind: str = setting("of optimizer", choices=("sgd", "adam"))


def toy(settings, device, momentum=0.0):
    model = nn.Sequential(nn.Linear(settings.size, 8), nn.Dropout(0.3 if settings.noisy else 0), nn.Linear(8, 1))
    params = model.to(device).parameters()
    if settings.kind == "adam":
        base = torch.optim.Adam(params, lr=settings.lr)
    else:
        base = torch.optim.SGD(params, lr=settings.lr, momentum=momentum)
    batch = sums(settings.size, 16, settings, device)
    return Task(model, F.mse_loss, SAM(base, rho=settings.rho), batch, Check(model), {"loss": "loss"})


def judge(arms):
    measured = arms["sam"].records[-1]["loss"]
    return Verdict(measured, measured < 1)


VALUES = {"lr": 0.01, "rho": 0.05, "steps": 40, "check_every": 7, "seed": 3, "size": 4, "noisy": True, "kind": "adam"}
LOSS = Figure("loss", "Loss", "loss", (Curve("loss", "loss"),))
TOY = experiment(
    "toy", Settings, VALUES, {"sam": {}, "plain": {"rho": 0.0}},
    laptop={"steps": 20},
    smoke={"steps": 3},
    grid={"lr": (0.01, 0.1)},
    claims=(Claim("learns", "the loss falls", "here", "< 1", judge),),
    figures=(LOSS,),
    prepare=toy,
)  # fmt: skip


# To be killed.


@dataclass(frozen=True, kw_only=True)
class Slow(Settings):
    pause: float = setting("seconds a step takes", low=0.0)


def pause(seconds):
    """In the middle of every step."""
    time.sleep(seconds)


def save_always():
    drive._SECONDS = 0.0
    drive._SHARE = 1e9


def victim(settings, device):
    save_always()
    task = toy(settings, device, momentum=0.9)
    return replace(task, batch=lambda step: (pause(settings.pause), task.batch(step))[1])


VICTIM = experiment(
    "victim", Slow,
    VALUES | {"steps": 12, "check_every": 3, "size": 3, "pause": 0.01, "noisy": False, "kind": "sgd"},
    {"sam": {}, "plain": {"rho": 0.0}, "adam": {"kind": "adam", "noisy": True}},
    grid={"rho": (0.0, 0.05), "seed": (0, 1)},
    claims=TOY.claims,
    figures=(LOSS,),
    cost=dict.fromkeys(("paper", "laptop", "smoke"), "a second"),
    outcomes=LOSS.curves,
    selection=Selection("loss", "training"),
    prepare=victim,
)  # fmt: skip


# With trouble on order; what happens to a run is marked in a folder.

TROUBLES = ("none", "held once", "killed once", "killed", "raise", "fault, exit", "refuse")
TROUBLED_STEP = 12


@dataclass(frozen=True, kw_only=True)
class Shaky(Slow):
    trouble: str = setting("what happens halfway", choices=TROUBLES)
    marks: str = setting("where a run marks its steps")


def shaky(settings, device):
    """``pause`` is for the first time that a run is trained."""
    if settings.trouble == "refuse":
        raise DataError("there are no data\nat all")
    if settings.pause:  # then somebody means to cut it off
        save_always()
    task = toy(settings, device)
    marks = Path(settings.marks)
    marks.mkdir(parents=True, exist_ok=True)
    name = f"{settings.seed}-{settings.rho}"
    seconds = 0.0 if (marks / f"{name}.steps").exists() else settings.pause

    def batch(step):
        if step == TROUBLED_STEP:
            cause(settings.trouble, marks / f"{name}.once")
        with (marks / f"{name}.steps").open("a") as file:
            file.write(f"{step} {os.getpid()}\n")
        pause(seconds)
        return task.batch(step)

    return replace(task, batch=batch)


def cause(trouble, once):
    first = not once.exists()
    once.touch()
    while trouble == "held once" and first:  # until it is killed
        time.sleep(0.1)
    if trouble == "killed" or (trouble == "killed once" and first):
        print("on the way out", flush=True)
        os.kill(os.getpid(), 9)
    if trouble == "raise":
        raise ZeroDivisionError("one\nover zero")
    if trouble == "fault, exit":
        if first:
            raise RuntimeError("CUDA error: one\nover zero")  # the machine's, not the experiment's
        os._exit(3)


SHAKY = experiment(
    "shaky", Shaky,
    VALUES | {"steps": 20, "check_every": 5, "seed": 0, "trouble": "none", "pause": 0.0, "marks": "marks"},
    {"run": {}},
    prepare=shaky,
)  # fmt: skip


# With averaged weights, a second training, groups, files.


@dataclass(frozen=True, kw_only=True)
class Relay(training.Settings):
    seeds: int = setting("seeds", low=1)
    first: str = setting("the arm that comes first; none", choices=("none", "first", "missing"))
    m: int = setting("group", low=0)


class AveragingCheck(Check):
    average = None

    def __call__(self, step, batch):
        averaged = next(self.average.module.parameters()).sum().item()
        return super().__call__(step, batch) | {"averaged": averaged}


def relay(settings, device):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(device)
    base = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=0.9)
    optimizer, check = SAM(base, rho=settings.rho, model=model, m=settings.m or None), AveragingCheck(model)
    check.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    return replace(
        Task(model, F.mse_loss, optimizer, sums(3, 6, settings, device), check),
        losses_fn=lambda output, target: (output - target).square().mean(1),
        average=check.average,
        starts_from=None if settings.first == "none" else settings.first,
        files={f"seed-{settings.seed}.json": {"seed": settings.seed}},
    )


RELAY = experiment(
    "relay", Relay,
    {"lr": 0.05, "rho": 0.05, "steps": 9, "check_every": 4, "seed": 5, "seeds": 2, "first": "none", "m": 0},
    {"first": {"rho": 0.0}, "grouped": {"m": 4}, "second": {"first": "first", "rho": 0.1}},
    grid={"lr": (0.01, 0.1)},
    prepare=relay,
)  # fmt: skip


# Trained together: w ← w − η w for each arm, and one that explodes.


@dataclass(frozen=True, kw_only=True)
class Pair(training.Settings):
    seeds: int = setting("seeds", low=1, high=100)


class Rows:
    def __init__(self, arms, device):
        self.lr = torch.tensor([s.lr for s in arms.values()], dtype=torch.float64, device=device)
        self.names, self.step = list(arms), 0
        self.w = torch.tensor([1.0 + s.seed for s in arms.values()], dtype=torch.float64, device=device)

    def train(self, steps):
        self.step += steps
        for _ in range(steps):
            self.w = self.w - self.lr * self.w

    def measure(self):
        rows = zip(self.names, self.w.tolist(), strict=True)
        return {name: FloatingPointError() if abs(w) > 1e3 else {"loss": w * w} for name, w in rows}

    def ended(self):
        return bool((self.w.abs() < 1e-3).logical_or(self.w.abs() > 1e3).all())

    def state_dict(self):
        return {"w": self.w, "step": self.step}

    def load_state_dict(self, state):
        self.w, self.step = state["w"].to(self.w.device), state["step"]


def panels(arms):
    lines = [Line(arm.column("step"), arm.column("loss"), name) for name, arm in arms.items() if arm.records]
    return [Panel("w²", "step", "loss", lines, logy=True)]


PAIR = experiment(
    "pair", Pair,
    {"lr": 0.1, "rho": 0.0, "steps": 25, "check_every": 10, "seed": 0, "seeds": 2},
    {"slow": {}, "wild": {"lr": 9.0}, "long": {"steps": 32}},
    smoke={"steps": 3},
    grid={"lr": (0.1, 0.2)},
    figures=(Plot("loss", "Loss", panels),),
    together=Rows,
    digest=lambda arms: {"last": {name: arm.records[-1]["loss"] for name, arm in arms.items()}},
)  # fmt: skip


# Every network, kind of batch and kind of check that can be vectorized, in float64.


@dataclass(frozen=True, kw_only=True)
class Networks(training.Settings):
    heads: int = setting("of the transformer", low=1)
    network: str = setting("which", choices=("mlp", "norm_cnn", "strided_cnn", "transformer"))
    batches: str = setting("which", choices=("whole", "shuffled", "own"))
    checked: str = setting("how", choices=("together", "alone"))
    momentum: float = setting("of SGD", low=0)
    weight_decay: float = setting("of SGD", low=0)
    nesterov: bool = setting("momentum")
    decaying: bool = setting("step size")
    eps: float = setting("of the ascent", low=0)
    eigenvalues: int = setting("that are recorded", low=1)
    tol: float = setting("of eigenpairs", above=0)


class DrawingCheck(Check):
    """Draws from the global generator."""

    def __call__(self, step, batch):
        size = sum(p.detach().abs().sum().item() for p in self.model.parameters())
        return super().__call__(step, batch) | {"size": size, "drawn": torch.rand(()).item()}


def tokens_loss(output, target):
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


_DATA = {}


def data(network):
    """The same tensors for every run."""
    if network not in _DATA:
        draw = torch.Generator().manual_seed(0)
        if network == "transformer":
            text = torch.randint(7, (11, 6), generator=draw)
            _DATA[network] = text[:, :-1], text[:, 1:]
        else:
            shape = {"mlp": (4,), "norm_cnn": (3, 8, 8), "strided_cnn": (3, 8, 4)}[network]
            x = torch.randn(11, *shape, generator=draw, dtype=torch.float64)
            _DATA[network] = x, (x.flatten(1).sum(1) > 0).long()
    return _DATA[network]


def networks(settings, device):
    model, loss_fn = {
        "mlp": lambda: (mlp([4, 6, 2]), F.cross_entropy),
        "norm_cnn": lambda: (norm_cnn([8, 8], size=8, classes=2), F.cross_entropy),
        "strided_cnn": lambda: (strided_cnn(8, 4, 2), F.cross_entropy),
        "transformer": lambda: (
            Transformer(7, 5, layers=1, width=8, heads=settings.heads, key_size=8 // settings.heads),
            tokens_loss,
        ),
    }[settings.network]()
    model.double().to(device)
    x, y = (tensor.to(device) for tensor in data(settings.network))

    def own(step):
        picked = torch.randint(len(x), (5,), generator=torch.Generator().manual_seed(1000 * settings.seed + step))
        return x[picked], y[picked]

    batch = {
        "whole": lambda: WholeBatch(x, y),
        "shuffled": lambda: Shuffled(x, y, 4, settings.seed),
        "own": lambda: own,
    }[settings.batches]()
    base = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )  # fmt: skip
    check = EdgeCheck(model, loss_fn, settings) if settings.checked == "together" else DrawingCheck(model, loss_fn)
    schedule = (lambda step: 1 - step / settings.steps) if settings.decaying else None
    return Task(model, loss_fn, SAM(base, rho=settings.rho, eps=settings.eps), batch, check, {"loss": "loss"}, schedule)


NETWORKS = experiment(
    "networks", Networks,
    {
        "lr": 0.1, "rho": 0.05, "steps": 12, "check_every": 4, "seed": 0, "heads": 2, "network": "mlp",
        "batches": "shuffled", "checked": "alone", "momentum": 0.0, "weight_decay": 0.0, "nesterov": False,
        "decaying": False, "eps": 1e-12, "tol": 1e-3, "eigenvalues": 1,
    },
    {"sam": {}},
    grid={"lr": (0.1, 0.2), "rho": (0.0, 0.05), "seed": (0, 1)},
    prepare=networks,
    selection=Selection("loss", on="training"),
)  # fmt: skip
