"""Diagonal linear networks: 1-SAM finds the sparse solution, n-SAM doesn't (Andriushchenko & Flammarion 2022)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lowland.training as training
from lowland.errors import SettingError
from lowland.papers.andriushchenko2022 import PAPER
from lowland.papers.andriushchenko2022.diagonal_claims import CLAIMS
from lowland.papers.andriushchenko2022.diagonal_figures import FIGURES
from lowland.papers.andriushchenko2022.diagonal_network import (
    DIMENSIONS,
    EXAMPLES,
    n_sam_gradient,
    one_sam_gradient,
    sparse_regression,
)
from lowland.papers.andriushchenko2022.diagonal_runs import final_loss, losses_on_line, made_arms, tabled
from lowland.training import Experiment, Outcome, Record, derived, ours, paper, setting

_PER_OCTAVE = 32


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Those of a single run."""

    alpha: float = setting("scale of the initial weights: u = α, v = 0", above=0)
    m: int = setting(f"examples that share a perturbation: 1 (1-SAM) or all {EXAMPLES} (n-SAM)", low=1, high=EXAMPLES)
    phases: int = setting("phases of training: 2 with radius rho first and then_rho then", low=1, high=2)
    phase_steps: int = setting("training steps of a phase", low=1, high=10**8)
    then_rho: float = setting("radius in the second phase", low=0)
    long: bool = setting("whether it is a run of figure 6, of one phase with long_steps")
    long_steps: int = setting("training steps of the runs of figure 6", low=1, high=10**8)
    steps: int = derived()

    def __post_init__(self) -> None:
        """The steps of all phases."""
        object.__setattr__(self, "steps", self.long_steps if self.long else self.phases * self.phase_steps)

    @property
    def events(self) -> tuple[int, ...]:
        """The steps at which a phase ends."""
        return (self.steps,) if self.long else (self.phase_steps, self.steps)

    def radius(self, step: int) -> float:
        """The radius of a step."""
        return self.rho if self.long or step < self.phase_steps else self.then_rho

    def recorded(self, step: int) -> bool:
        """Whether a check at that step is recorded: of figure 6 thirty-two in each doubling of the steps."""
        if not self.long or step == self.steps:
            return True
        octave = max(step // (_PER_OCTAVE * self.check_every), 1).bit_length() - 1
        return step % (self.check_every << octave) == 0


class DiagonalRuns:
    """All runs as rows of one program. One that overflows fills with NaN and touches no other."""

    def __init__(self, arms: Mapping[str, Settings], device: torch.device):
        for name, settings in arms.items():
            if settings.m not in (1, EXAMPLES):
                raise SettingError(f"{name}.m must be 1 (1-SAM) or {EXAMPLES} (n-SAM), not {settings.m}")
        self.names, self.settings, self.device = list(arms), list(arms.values()), device
        self.data = {seed: sparse_regression(seed, device) for seed in {s.seed for s in self.settings}}
        alpha = torch.tensor([s.alpha for s in self.settings], dtype=torch.float64, device=device)
        self.u = alpha.expand(DIMENSIONS, -1).clone()  # (d, runs)
        self.v = torch.zeros_like(self.u)
        self.step = 0

    def train(self, steps: int) -> None:
        """Each run to its own last step at most."""
        end = self.step + steps
        while self.step < end:
            events = {t for s in self.settings for t in s.events if self.step < t < end}
            until = min(events, default=end)
            for m, gradient in ((1, one_sam_gradient), (EXAMPLES, n_sam_gradient)):
                rows = [k for k, s in enumerate(self.settings) if s.m == m and s.steps > self.step]
                if rows:
                    self._descend(rows, gradient, until - self.step)
            self.step = until

    def _descend(self, rows: list[int], gradient: Callable[..., tuple[Tensor, Tensor]], steps: int) -> None:
        chosen = [self.settings[k] for k in rows]
        x = torch.stack([self.data[s.seed].x for s in chosen], -1)
        y = torch.stack([self.data[s.seed].y for s in chosen], -1)
        lr, rho = (
            torch.tensor(values, dtype=torch.float64, device=self.device)
            for values in ([s.lr for s in chosen], [s.radius(self.step) for s in chosen])
        )
        u, v = self.u[:, rows], self.v[:, rows]
        for _ in range(steps):
            of_u, of_v = gradient(x, y, u, v, rho)
            u, v = u - lr * of_u, v - lr * of_v
        self.u[:, rows], self.v[:, rows] = u, v

    def measure(self) -> dict[str, Record | FloatingPointError | None]:
        """Training and test loss; after a run's last step also u and v. None for a run that has no record now."""
        u, v = self.u.T, self.v.T
        records: dict[str, Record | FloatingPointError | None] = dict.fromkeys(self.names)
        now = [k for k, s in enumerate(self.settings) if self.step <= s.steps and s.recorded(self.step)]
        for seed, data in self.data.items():
            rows = [k for k in now if self.settings[k].seed == seed]
            if not rows:
                continue
            train_losses, test_losses = (losses.tolist() for losses in data.losses(u[rows], v[rows]))
            for k, train, test in zip(rows, train_losses, test_losses, strict=True):
                if not (math.isfinite(train) and math.isfinite(test)):
                    records[self.names[k]] = FloatingPointError(f"the loss is {train}")
                    continue
                record: Record = {"train_loss": train, "test_loss": test}
                if self.step == self.settings[k].steps:
                    record |= {"u": u[k].tolist(), "v": v[k].tolist()}
                records[self.names[k]] = record
        return records

    def ended(self) -> bool:
        """Never: runs end by their number of steps."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Weights and the step."""
        return {"u": self.u, "v": self.v, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up."""
        self.u, self.v = (state_dict[name].to(self.device, copy=True) for name in "uv")
        self.step = state_dict["step"]


# What a run comes to.


def _radius(outcome: Outcome) -> float:
    """That of the part with 1-SAM, where a run switches."""
    settings = outcome.settings
    assert isinstance(settings, Settings)
    return max(settings.rho, settings.then_rho)


def _status(outcome: Outcome) -> str:
    """With the step of the check that found it diverged."""
    return outcome.status if outcome.diverged_at is None else f"diverged at step {outcome.diverged_at}"


def digest(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """``test_loss``, ``rho`` and ``status`` as `tabled`, and the losses along the ``line`` (None if there is none)."""
    return {
        "test_loss": tabled(lambda name: final_loss(outcomes, name)),
        "rho": tabled(lambda name: _radius(outcomes[name])),
        "status": tabled(lambda name: _status(outcomes[name])),
        "line": losses_on_line(outcomes),
    }


EXPERIMENT = Experiment(
    name="andriushchenko2022/diagonal",
    title="1-SAM, n-SAM and gradient descent on a diagonal linear network",
    paper=PAPER,
    datasets=(),
    settings=Settings,
    scales={
        "paper": {
            "lr": paper(5 / DIMENSIONS, "γ; each arm has its own; ours in the arms figure-6-…"),
            "rho": paper(0.0, "each arm has its own; ours in the arms figure-6-…"),
            "alpha": paper(0.1, "or 0.02: each arm has its own; ours in the arms figure-6-…"),
            "m": paper(EXAMPLES, "each arm has its own"),
            "phases": paper(1, "2 in the arms switch-…"),
            "phase_steps": paper(10_001),
            "then_rho": paper(0.0, "each arm that switches has its own"),
            "long": paper(False, "true in the arms figure-6-…"),
            "long_steps": paper(1_000_000),
            "check_every": ours(50),
            "seed": paper(0),
        },
        "desk": {},
        "laptop": {"long_steps": ours(50_000)},
        "smoke": {"phase_steps": ours(10), "long_steps": ours(20), "check_every": ours(10)},
    },
    arms=made_arms(),
    grid={},
    claims=CLAIMS,
    figures=FIGURES,
    cost=dict.fromkeys(("paper", "desk"), "10 minutes, 2 cores (measured)")
    | {"laptop": "half a minute, 2 cores (measured)", "smoke": "seconds"},
    together=DiagonalRuns,
    digest=digest,
)
