"""An experiment for tests of stacks: every supported network, kind of batch and kind of check, in float64."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

import lowland.training as training
from lowland.data import Shuffled, WholeBatch
from lowland.models import Transformer, mlp, norm_cnn, strided_cnn
from lowland.optim import SAM
from lowland.papers.long2024.check import EdgeCheck
from lowland.training import Experiment, Selection, Task, ours, setting


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
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


class Check:
    """Loss on the batch and size of the weights, with a draw from the global generator and a count of its calls."""

    def __init__(self, model, loss_fn):
        self.model, self.loss_fn, self.calls = model, loss_fn, 0

    def __call__(self, step, batch):
        self.calls += 1
        x, y = batch
        loss = self.loss_fn(self.model(x), y).item()
        if not abs(loss) < float("inf"):
            raise FloatingPointError
        size = sum(p.detach().abs().sum().item() for p in self.model.parameters())
        return {"loss": loss, "size": size, "calls": self.calls, "drawn": torch.rand(()).item()}

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


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


def prepare(settings, device):
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
    check = EdgeCheck(model, loss_fn, settings) if settings.checked == "together" else Check(model, loss_fn)
    schedule = (lambda step: 1 - step / settings.steps) if settings.decaying else None
    return Task(model, loss_fn, SAM(base, rho=settings.rho, eps=settings.eps), batch, check, {"loss": "loss"}, schedule)


VALUES = {
    "lr": ours(0.1), "rho": ours(0.05), "steps": ours(12), "check_every": ours(4), "seed": ours(0),
    "heads": ours(2), "network": ours("mlp"), "batches": ours("shuffled"), "checked": ours("alone"),
    "momentum": ours(0.0), "weight_decay": ours(0.0), "nesterov": ours(False), "decaying": ours(False),
    "eps": ours(1e-12), "tol": ours(1e-3), "eigenvalues": ours(1),
}  # fmt: skip
EXPERIMENT = Experiment(
    name="tests/networks",
    title="every network that can be stacked",
    paper="none",
    datasets=(),
    settings=Settings,
    scales={"paper": VALUES, "laptop": {}, "smoke": {}},
    arms={"sam": {}},
    grid={"lr": (0.1, 0.2), "rho": (0.0, 0.05), "seed": (0, 1)},
    claims=(),
    figures=(),
    cost={},
    prepare=prepare,
    selection=Selection("loss", on="training"),
)
