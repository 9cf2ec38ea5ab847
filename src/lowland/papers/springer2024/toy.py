"""The toys: points with an easy feature and a hard one, and many small networks as one program (Springer et al. 2024).

In ``toy`` a network sees both features, and probes say what it has learned of each. In ``toy-separate`` each feature
has a network of its own, and the last layer says how much it takes of each.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lowland.data.batches import seeded
from lowland.errors import SettingError
from lowland.features import gini
from lowland.papers.figures import over_epochs
from lowland.papers.springer2024 import PAPER
from lowland.papers.springer2024.check import lorenz_points, probing_errors
from lowland.papers.springer2024.claims import CLAIMS, RATIO_CLAIMS, table
from lowland.papers.springer2024.data import Points, draw_points, together
from lowland.papers.springer2024.figures import feature_figures, ratio_against_rho
from lowland.papers.springer2024.methods import LSAM_NOTE, METHODS, SGD, toy_arm
from lowland.papers.springer2024.settings import TOY_RHO, TOY_RHOS, TOY_SEPARATE_VALUES, TOY_VALUES, ToySettings
from lowland.papers.springer2024.toy_networks import AnyWeights, JointWeights, Networks, SeparateWeights
from lowland.training import Experiment, Plot, Record
from lowland.training.settings import SettingValue

PROBE_CS = (0.01, 0.1, 1.0, 10.0)
_FREE = ("lr", "rho", "method", "seed")  # in which the arms may differ


class _Runs(Generic[AnyWeights]):
    """All runs as one program: those of a seed side by side."""

    seeds_at_once: ClassVar[int]  # that are measured

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

        def column(value: Callable[[ToySettings], Any], dtype: torch.dtype = torch.bool) -> Tensor:
            rows = [[value(arms[name]) for name in names] for names in self.names]
            return torch.tensor(rows, dtype=dtype, device=device)

        self.networks = Networks(
            lr=column(lambda s: s.lr, dtype),
            rho=column(lambda s: s.rho, dtype),
            last_only=column(lambda s: s.method == "lsam" and s.rho > 0),
            phantom_weights=column(lambda s: s.method != "phantom-scaling"),
            phantom_scaling=column(lambda s: s.method != "phantom-weights"),
            phantom_features=column(lambda s: s.method in ("sam", "lsam")),
        )
        drawn, count = [self.drawn(seed) for seed in self.seeds], len(self.names[0])
        self.weights = type(drawn[0])(
            *(
                torch.cat(each).repeat_interleave(count, 1).to(device, dtype)
                for each in zip(*(weights.tensors for weights in drawn), strict=True)
            )
        )
        sizes = {"train": first.examples, "validation": first.validation_examples, "test": first.test_examples}
        self.points = {
            name: self._draw_points(n, first.correlation, part) for part, (name, n) in enumerate(sizes.items())
        }
        self.step, self._epoch = 0, -1

    def drawn(self, seed: int) -> AnyWeights:
        """The initial weights of a seed."""
        raise NotImplementedError

    def measured(self, w: AnyWeights, part: slice) -> dict[str, Tensor]:
        """What is recorded of weights beside errors and losses: name → ``(s, k, …)``; ``part`` of the seeds."""
        raise NotImplementedError

    def _draw_points(self, n: int, correlation: float, part: int) -> Points:
        settings = self.settings
        several = [
            draw_points(n, settings.slabs, settings.noise, correlation, seed, part, rotate=settings.rotate)
            for seed in self.seeds
        ]
        return together(several).to(self.device, self.dtype)

    def _shuffle(self, epoch: int) -> None:
        """The training points in the order of ``epoch``, of each seed its own."""
        n, points = self.settings.examples, self.points["train"]
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
            self.weights = self.networks.step(self.weights, self._x[:, batch], self._y[:, batch])
        self.step += steps

    def measure(self) -> dict[str, Record | FloatingPointError]:
        """The record of each run, or that its loss is not finite."""
        records: dict[str, Record | FloatingPointError] = {}
        for start in range(0, len(self.seeds), self.seeds_at_once):
            records |= self._measure(slice(start, start + self.seeds_at_once))
        return records

    def _measure(self, part: slice) -> dict[str, Record | FloatingPointError]:
        w = type(self.weights)(*(tensor[part] for tensor in self.weights.tensors))
        columns: dict[str, Tensor] = {}
        for name, points in self.points.items():
            found = w.errors_and_losses(points.x[part], points.hard[part])
            columns[f"{name}_error"], columns[f"{name}_loss"] = found
        fine = torch.isfinite(columns["train_loss"])
        # What has diverged would keep the probes of the others from being fitted.
        columns |= self.measured(w.where(fine), part)
        columns = {name: column.cpu() for name, column in columns.items()}
        epoch = self.step * self.settings.epochs / self.settings.steps
        records: dict[str, Record | FloatingPointError] = {}
        for s, names in enumerate(self.names[part]):
            for k, name in enumerate(names):
                if fine[s, k]:
                    records[name] = {"epoch": epoch, **{key: column[s, k].tolist() for key, column in columns.items()}}
                else:
                    records[name] = FloatingPointError("the loss is not finite")
        return records

    def ended(self) -> bool:
        """Never before the last step."""
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"weights": list(self.weights.tensors), "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights = type(self.weights)(*(tensor.to(self.device, copy=True) for tensor in state_dict["weights"]))
        self.step = state_dict["step"]


class ToyRuns(_Runs[JointWeights]):
    """The runs of ``toy``. Records hold what `FeatureCheck` records of a network, where it applies."""

    seeds_at_once = 10

    def drawn(self, seed: int) -> JointWeights:
        """The initial weights of a seed."""
        return JointWeights.initial(seed, self.settings.width, 2 + self.settings.noise)

    @cached_property
    def apart(self) -> list[Points]:
        """The points of the probes: to fit, to choose the regularization, to test."""
        n = self.settings.probe_examples
        return [self._draw_points(m, 0.0, 3 + k) for k, m in enumerate((n, -(-n // 3), self.settings.test_examples))]

    def measured(self, w: JointWeights, part: slice) -> dict[str, Tensor]:
        """Probing errors, errors of the worst group, and how even the importance weights are."""
        columns = self._probed(w, part) | {"worst_group_error": self._worst_group(w, part)}
        for name, weights in self._importance(w, part).items():
            several = [row.unbind(1) for row in weights]
            columns[f"gini_{name}"] = _doubles([[gini(each) for each in row] for row in several])
            if self.step == self.settings.steps:
                columns[f"lorenz_{name}"] = _doubles([[lorenz_points(each) for each in row] for row in several])
        return columns

    def _probed(self, w: JointWeights, part: slice) -> dict[str, Tensor]:
        s, k = w.c.shape
        found = [w.hidden(points.x[part]).transpose(1, 2).flatten(0, 1) for points in self.apart]

        def labels(points: Points, name: str) -> Tensor:
            return getattr(points, name)[part].repeat_interleave(k, 0)

        columns = {}
        for name in ("easy", "hard"):
            train, validation, test = ((x, labels(points, name)) for x, points in zip(found, self.apart, strict=True))
            columns[f"{name}_error"] = probing_errors(train, validation, test, PROBE_CS).view(s, k)
        return columns

    def _worst_group(self, w: JointWeights, part: slice) -> Tensor:
        points = self.apart[2]
        missed = (points.hard[part, :, None] * w.outputs(points.x[part]) <= 0).double()
        groups = 2 * (points.hard[part] > 0) + (points.easy[part] > 0)
        errors = []
        for group in range(4):
            inside = (groups == group).double()
            errors.append((missed * inside[..., None]).sum(1) / inside.sum(1)[:, None])
        return torch.stack(errors).nan_to_num(-1).amax(0)  # a group without points is no group

    def _importance(self, w: JointWeights, part: slice) -> dict[str, Tensor]:
        """The importance weights of the training points, ``(s, n, k)``, float64 on the CPU."""
        x, y = self.points["train"].x[part], self.points["train"].hard[part]
        rho = torch.full_like(w.c, self.settings.phantom_rho)
        h = w.hidden(x)
        phantom = w.perturbed(w.gradient(w.pulls(h, y), h, x), rho, self.networks.last_only[part])

        def importance(w: JointWeights) -> Tensor:
            return logsigmoid(-y[..., None].double() * w.outputs(x).double()).softmax(1).cpu()

        return {"real": importance(w), "phantom": importance(phantom)}


class SeparateRuns(_Runs[SeparateWeights]):
    """The runs of ``toy-separate``.

    Records of ``train_``, ``validation_`` and ``test_`` ``error`` and ``loss``; of the last layer's weights ``v_easy``
    and ``v_hard``, absolute, and ``ratio``, v_hard/v_easy; and of the share that the hard feature has in the outputs of
    the test points: ``hard_share``, the mean of |v_hard z_hard| over that of both.
    """

    seeds_at_once = 1000

    def __init__(self, arms: Mapping[str, ToySettings], device: torch.device, dtype: torch.dtype = torch.float32):
        super().__init__(arms, device, dtype)
        if self.settings.rotate:
            raise SettingError("features that are separate can't be rotated: set rotate=false")

    def drawn(self, seed: int) -> SeparateWeights:
        """The initial weights of a seed."""
        return SeparateWeights.initial(seed, self.settings.width)

    def measured(self, w: SeparateWeights, part: slice) -> dict[str, Tensor]:
        """The last layer's weights, and the share of the hard feature."""
        easy, hard = w.v.abs().unbind(-1)
        shares = (w.features(w.hidden(self.points["test"].x[part])) * w.v[:, :, None]).abs().mean(2)
        return {"v_easy": easy, "v_hard": hard, "ratio": hard / easy, "hard_share": shares[..., 1] / shares.sum(-1)}


def _doubles(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


_DRAWN = [SGD, *(toy_arm(method, TOY_RHO) for method in METHODS)]
_ARMS: dict[str, dict[str, SettingValue]] = {
    SGD: {"rho": 0.0},
    **{toy_arm(method, rho): {"method": method, "rho": rho} for method in METHODS for rho in TOY_RHOS},
}
_NOTES = {toy_arm("lsam", rho): LSAM_NOTE for rho in TOY_RHOS}

TOY = Experiment(
    name="springer2024/toy",
    title="A linear feature and one of slabs: does SAM learn the harder feature better than SGD?",
    paper=PAPER,
    datasets=(),
    settings=ToySettings,
    scales=TOY_VALUES,
    arms=_ARMS,
    arm_notes=_NOTES,
    grid={},
    claims=CLAIMS,
    figures=feature_figures(_DRAWN),
    cost={
        "paper": "12 minutes, 1 core (measured)",
        "desk": "12 minutes, 1 core (measured)",
        "laptop": "2 to 3 minutes, 1 core (a fifth of the seeds)",
        "smoke": "seconds",
    },
    together=ToyRuns,
    table=table,
)
TOY_SEPARATE = Experiment(
    name="springer2024/toy-separate",
    title="The toy's two features in a network each: which of them does the last layer take?",
    paper=PAPER,
    datasets=(),
    settings=ToySettings,
    scales=TOY_SEPARATE_VALUES,
    arms=_ARMS,
    arm_notes=_NOTES,
    grid={},
    claims=RATIO_CLAIMS,
    figures=(
        over_epochs(
            "ratio", "The last layer's weights over training", _DRAWN,
            (("ratio", "v_hard / v_easy", "ratio", False), ("v_easy", "v_easy", "weight", False),
             ("v_hard", "v_hard", "weight", False)),
        ),
        Plot("against-rho", "At the end against ρ, mean over seeds", ratio_against_rho, columns=2),
        over_epochs(
            "training", "Training", _DRAWN,
            (("train_loss", "training", "loss", True), ("test_error", "test", "error", False)),
        ),
    ),
    cost={
        "paper": "a minute, 1 core (measured)",
        "desk": "a minute, 1 core (measured)",
        "laptop": "half a minute, 1 core",
        "smoke": "seconds",
    },
    together=SeparateRuns,
)  # fmt: skip
