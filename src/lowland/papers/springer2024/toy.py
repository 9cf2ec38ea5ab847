"""Two features of points: a linear one, easy, and one of slabs, hard; two-layer networks (Springer et al. 2024)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

import lowland.training as training
from lowland.data.batches import seeded
from lowland.errors import SettingError
from lowland.features import gini
from lowland.papers.springer2024 import PAPER
from lowland.papers.springer2024.check import lorenz_points
from lowland.papers.springer2024.claims import CLAIMS, table
from lowland.papers.springer2024.figures import feature_figures
from lowland.papers.springer2024.methods import METHODS, SGD
from lowland.papers.springer2024.toy_data import Points, draw_points, together
from lowland.papers.springer2024.toy_network import (
    Networks,
    Weights,
    features,
    gradient,
    initial_weights,
    outputs,
    pulls,
)
from lowland.papers.springer2024.toy_probe import probing_errors
from lowland.training import Experiment, Record, derived, ours, paper, setting

RHOS = (0.03, 0.1, 0.3)
DRAWN = 0.1  # the ρ whose arms are drawn over epochs
PROBE_CS = (0.01, 0.1, 1.0, 10.0)
_AT_ONCE = 10  # seeds that are measured at a time
_FREE = ("lr", "rho", "method", "seed")  # in which the arms may differ


@dataclass(frozen=True, kw_only=True)
class ToySettings(training.Settings):
    """Those of a run; ``steps`` and ``check_every`` follow from the epochs."""

    steps: int = derived()
    check_every: int = derived()
    method: str = setting("what climbs, and what of it is kept; with rho = 0 each is SGD", choices=METHODS)
    seeds: int = setting("runs of each arm, with seed, seed + 1, ...", low=1, high=1000)
    epochs: int = setting("passes over the training points", low=1, high=10**6)
    check_epochs: int = setting("epochs between two checks, each of which fits both probes", low=1)
    batch_size: int = setting("points in a batch; what an epoch has left over is dropped", low=1)
    width: int = setting("hidden units", low=1, high=10_000)
    examples: int = setting("training points", low=2, high=10**6)
    validation_examples: int = setting("validation points", low=2, high=10**6)
    test_examples: int = setting("test points; and as many in which the features are independent", low=2, high=10**6)
    probe_examples: int = setting(
        "points that probes are fitted on, the features independent; a third as many choose their regularization",
        low=30, high=10**6,
    )  # fmt: skip
    correlation: float = setting("of the two features in training, validation and test: 1 is redundant", low=0, high=1)
    slabs: int = setting("of the hard coordinate, with alternating labels: 3 or 5", low=3, high=5)
    noise: int = setting("coordinates without meaning", low=0, high=1000)
    rotate: bool = setting("whether points are rotated at random, alike in all parts of a seed")
    phantom_rho: float = setting("ρ of the phantom importance weights that are recorded", above=0, high=1e6)

    def __post_init__(self) -> None:
        """Compute what follows from the settings."""
        if self.batch_size > self.examples:
            raise SettingError(f"batch_size is {self.batch_size}, and there are {self.examples} examples: take fewer")
        if self.slabs == 4:
            raise SettingError("slabs are 3 or 5, an odd number: not 4")
        per_epoch = self.examples // self.batch_size
        object.__setattr__(self, "steps", self.epochs * per_epoch)
        object.__setattr__(self, "check_every", self.check_epochs * per_epoch)


class ToyRuns:
    """All runs as one program: those of a seed side by side."""

    def __init__(self, arms: Mapping[str, ToySettings], device: torch.device, dtype: torch.dtype = torch.float32):
        first = next(iter(arms.values()))
        by_seed: dict[int, list[str]] = {}
        for name, settings in arms.items():
            others = {key for key, value in vars(settings).items() if value != getattr(first, key)} - set(_FREE)
            if others:
                raise SettingError(f"{min(others)} must be the same in all arms: they are trained together")
            by_seed.setdefault(settings.seed, []).append(name)
        if len({len(names) for names in by_seed.values()}) > 1:
            raise SettingError("every arm must have the same seeds: they are trained together")
        self.settings, self.device, self.dtype = first, device, dtype
        self.seeds, self.names = list(by_seed), list(by_seed.values())
        chosen = [[arms[name] for name in names] for names in self.names]

        def column(values: list[list[Any]], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        def among(*methods: str) -> Tensor:
            return column([[s.method in methods for s in row] for row in chosen], torch.bool)

        self.networks = Networks(
            lr=column([[s.lr for s in row] for row in chosen], dtype),
            rho=column([[s.rho for s in row] for row in chosen], dtype),
            last_only=column([[s.method == "lsam" and s.rho > 0 for s in row] for row in chosen], torch.bool),
            phantom_weights=among("sam", "lsam", "phantom-weights"),
            phantom_scaling=among("sam", "lsam", "phantom-scaling"),
            phantom_features=among("sam", "lsam"),
        )
        drawn = [self._drawn(seed) for seed in self.seeds]
        count = len(self.names[0])
        self.weights = type(drawn[0])(
            *(torch.cat(each).repeat_interleave(count, 1).to(device, dtype) for each in zip(*drawn, strict=True))
        )
        self.train_points, self.validation, self.test = (
            self._points(n, first.correlation, part)
            for part, n in enumerate((first.examples, first.validation_examples, first.test_examples))
        )
        self.step, self._epoch = 0, -1

    def _drawn(self, seed: int) -> Weights:
        """The initial weights of a seed."""
        return initial_weights(seed, self.settings.width, 2 + self.settings.noise)

    @cached_property
    def apart(self) -> list[Points]:
        """The points of the probes: to fit, to choose the regularization, to test."""
        n = self.settings.probe_examples
        return [self._points(m, 0.0, 3 + k) for k, m in enumerate((n, -(-n // 3), self.settings.test_examples))]

    def _points(self, n: int, correlation: float, part: int) -> Points:
        settings = self.settings
        several = [
            draw_points(n, settings.slabs, settings.noise, correlation, seed, part, rotate=settings.rotate)
            for seed in self.seeds
        ]
        return together(several).to(self.device, self.dtype)

    def _shuffle(self, epoch: int) -> None:
        """The training points in the order of ``epoch``, of each seed its own."""
        n, points = self.settings.examples, self.train_points
        orders = torch.stack([torch.randperm(n, generator=seeded(seed, epoch)) for seed in self.seeds]).to(self.device)
        rows = torch.arange(len(self.seeds), device=self.device)[:, None]
        self._epoch, self._x, self._y = epoch, points.x[rows, orders], points.hard[rows, orders]

    def train(self, steps: int) -> None:
        """So many steps of all networks."""
        size = self.settings.batch_size
        for step in range(self.step, self.step + steps):
            epoch, position = divmod(step, self.settings.examples // size)
            if epoch != self._epoch:
                self._shuffle(epoch)
            batch = slice(position * size, (position + 1) * size)
            self._step(self._x[:, batch], self._y[:, batch])
        self.step += steps

    def _step(self, x: Tensor, y: Tensor) -> None:
        """A step of all networks on a batch of each seed."""
        self.weights = self.networks.step(self.weights, x, y)

    def measure(self) -> dict[str, Record | FloatingPointError]:
        """What `lowland.papers.springer2024.check.FeatureCheck` records of a network, where it applies."""
        records: dict[str, Record | FloatingPointError] = {}
        for start in range(0, len(self.seeds), _AT_ONCE):
            records |= self._measure(slice(start, start + _AT_ONCE))
        return records

    def _measure(self, part: slice) -> dict[str, Record | FloatingPointError]:
        settings, w = self.settings, Weights(*(tensor[part] for tensor in self.weights))
        columns: dict[str, Tensor] = {}
        for name, points in (("train", self.train_points), ("validation", self.validation), ("test", self.test)):
            margins = points.hard[part, :, None] * outputs(w, points.x[part])
            columns[f"{name}_error"] = (margins <= 0).double().mean(1)
            columns[f"{name}_loss"] = softplus(-margins).mean(1)
        fine = torch.isfinite(columns["train_loss"])
        # What has diverged would keep the probes of the others from being fitted.
        w = Weights(*(torch.where(fine.view(*fine.shape, *[1] * (t.dim() - 2)), t, 0) for t in w))
        columns |= self._probed(w, part)
        pulled = self._importance(w, part)
        columns = {name: column.cpu() for name, column in columns.items()}
        records: dict[str, Record | FloatingPointError] = {}
        for s, names in enumerate(self.names[part]):
            for k, name in enumerate(names):
                if not fine[s, k]:
                    records[name] = FloatingPointError("the loss is not finite")
                    continue
                record: Record = {"epoch": self.step * settings.epochs / settings.steps}
                record |= {key: column[s, k].item() for key, column in columns.items()}
                for key, weights in pulled.items():
                    record[f"gini_{key}"] = gini(weights[s, :, k])
                    if self.step == settings.steps:
                        record[f"lorenz_{key}"] = lorenz_points(weights[s, :, k])
                records[name] = record
        return records

    def _probed(self, w: Weights, part: slice) -> dict[str, Tensor]:
        """Probing errors and the networks' worst group, each ``(s, k)``."""
        s, k = w.c.shape
        found = [features(w, points.x[part]).transpose(1, 2).flatten(0, 1) for points in self.apart]

        def labels(points: Points, name: str) -> Tensor:
            return getattr(points, name)[part].repeat_interleave(k, 0)

        columns = {}
        for name in ("easy", "hard"):
            train, validation, test = ((x, labels(points, name)) for x, points in zip(found, self.apart, strict=True))
            columns[f"{name}_error"] = probing_errors(train, validation, test, PROBE_CS).view(s, k)
        points = self.apart[2]
        missed = (points.hard[part, :, None] * outputs(w, points.x[part]) <= 0).double()
        groups = 2 * (points.hard[part] > 0) + (points.easy[part] > 0)
        errors = []
        for group in range(4):
            inside = (groups == group).double()
            errors.append((missed * inside[..., None]).sum(1) / inside.sum(1)[:, None])
        worst = torch.stack(errors).nan_to_num(-1).amax(0)  # a group without points is no group
        return columns | {"worst_group_error": worst}

    def _importance(self, w: Weights, part: slice) -> dict[str, Tensor]:
        """The importance weights of the training points, ``(s, n, k)``, float64 on the CPU."""
        x, y = self.train_points.x[part], self.train_points.hard[part]
        kept = Networks(*(column[part] for column in vars(self.networks).values()))
        rho = torch.full_like(w.c, self.settings.phantom_rho)
        phantom = kept.phantom(w, gradient(pulls(w, x, y), w.v, features(w, x), x), rho)

        def importance(w: Weights) -> Tensor:
            return logsigmoid(-y[..., None].double() * outputs(w, x).double()).softmax(1).cpu()

        return {"real": importance(w), "phantom": importance(phantom)}

    def ended(self) -> bool:
        """Never before the last step."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Weights and the step."""
        return {"weights": list(self.weights), "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up."""
        self.weights = type(self.weights)(*(tensor.to(self.device, copy=True) for tensor in state_dict["weights"]))
        self.step = state_dict["step"]


def arm_name(method: str, rho: float) -> str:
    """``sam-rho-0.1``."""
    return f"{method}-rho-{rho:g}"


EXPERIMENT = Experiment(
    name="springer2024/toy",
    title="A linear feature and one of slabs: does SAM learn the harder feature better than SGD?",
    paper=PAPER,
    datasets=(),
    settings=ToySettings,
    scales={
        "paper": {
            "lr": paper(0.01, "constant"),
            "rho": ours(DRAWN, "of the grid"),
            "method": paper("sam"),
            "seed": ours(0),
            "seeds": ours(100),
            "epochs": ours(300),
            "check_epochs": ours(60),
            "batch_size": paper(5),
            "width": ours(20),
            "examples": paper(300),
            "validation_examples": ours(300),
            "test_examples": ours(1000),
            "probe_examples": ours(300),
            "correlation": ours(1.0, "both features say the label, as in the public generator"),
            "slabs": ours(3, "SGD learns them alone: correlation=0"),
            "noise": ours(0, "the paper has some; the public generator has none unless asked"),
            "rotate": ours(False, "an option of the public generator"),
            "phantom_rho": ours(0.1, "one radius for all arms, so that they can be compared"),
        },
        "laptop": {"seeds": ours(20)},
        "desk": {},
        "smoke": {"seeds": ours(2), "epochs": ours(2), "check_epochs": ours(1), "examples": ours(40)},
    },
    arms={SGD: {"rho": 0.0}}
    | {arm_name(method, rho): {"method": method, "rho": rho} for method in METHODS for rho in RHOS},
    grid={},
    claims=CLAIMS,
    figures=feature_figures([SGD, *(arm_name(method, DRAWN) for method in METHODS)]),
    cost={
        "paper": "two minutes, 2 cores",
        "desk": "two minutes, 2 cores",
        "laptop": "half a minute, 2 cores",
        "smoke": "seconds",
    },
    together=ToyRuns,
    table=table,
)
