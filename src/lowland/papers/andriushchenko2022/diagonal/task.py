"""Diagonal linear networks x·(u∘v) on sparse regression: the data, gradients of n-SAM and 1-SAM, and training.

Everything that training does is elementwise arithmetic, and sums whose order is fixed here. IEEE 754 leaves no choice
in either: a run has the same bits whatever runs beside it, with any number of threads, on any processor.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland.errors import SettingError
from lowland.papers.andriushchenko2022.diagonal.settings import DIMENSIONS, EXAMPLES, SPARSITY, TEST_EXAMPLES, Settings
from lowland.training import Record


@dataclass(frozen=True)
class Regression:
    """Targets y = Xθ without noise; float64.

    Attributes:
        x: ``(n, d)``.
        y: ``(n,)``.
        test_x: ``(test examples, d)``.
        test_y: ``(test examples,)``.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    def losses(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Training and test loss, ‖X(u∘v) − y‖²/(2n), of networks ``u`` and ``v``, ``(runs, d)``: each ``(runs,)``."""
        w = (u * v).T
        train, test = (
            (x @ w - y.unsqueeze(1)).square().sum(0) / (2 * len(y))
            for x, y in ((self.x, self.y), (self.test_x, self.test_y))
        )
        return train, test


def sparse_regression(seed: int, device: torch.device | None = None) -> Regression:
    """The paper's data: standard normal X, and a non-negative θ of norm 1 whose first three entries are not zero.

    The authors' draws from ``multivariate_normal(0, I)`` are NumPy's legacy standard normals, up to signs that depend
    on the library for linear algebra; here they are drawn as such.
    """
    random = np.random.RandomState(seed)
    x, test_x = random.randn(EXAMPLES, DIMENSIONS), random.randn(TEST_EXAMPLES, DIMENSIONS)
    theta = random.randn(DIMENSIONS)
    theta[SPARSITY:] = 0
    theta = np.abs(theta) / np.sqrt(np.cumsum(theta**2)[-1])
    # Not x @ theta: libraries for linear algebra round it in ways that depend on the processor, and after 10,001 steps
    # with large radii a last bit of y is 1e-8 of the test loss.
    y, test_y = ((part[:, :SPARSITY] * theta[:SPARSITY]).cumsum(1)[:, -1] for part in (x, test_x))
    return Regression(*(torch.from_numpy(part).to(device) for part in (x, y, test_x, test_y)))


def ordered_sum(terms: Tensor, dim: int) -> Tensor:
    """The sum over ``dim``, the first half added to the second until one is left; ``terms`` is used up."""
    count = terms.shape[dim]
    while count > 1:
        half = (count + 1) // 2
        terms.narrow(dim, 0, count - half).add_(terms.narrow(dim, half, count - half))
        count = half
    return terms.select(dim, 0)


def n_sam_gradient(x: Tensor, y: Tensor, u: Tensor, v: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients for u and v at u + ρ ∇ᵤL, v + ρ ∇ᵥL, L the mean loss; ρ = 0 is gradient descent.

    Args:
        x: ``(n, d, runs)``.
        y: ``(n, runs)``.
        u: ``(d, runs)``.
        v: ``(d, runs)``.
        rho: radius, ``(runs,)``.
    """

    def gradient(w: Tensor) -> Tensor:
        residual = ordered_sum(x * w, 1) - y
        return ordered_sum(x * residual.unsqueeze(1), 0) / len(x)

    ascent = rho * gradient(u * v)
    u, v = u + ascent * v, v + ascent * u
    descent = gradient(u * v)
    return descent * v, descent * u


def one_sam_gradient(x: Tensor, y: Tensor, u: Tensor, v: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the examples of the gradients for u and v, example k's at u + 2ρ rₖ xₖ∘v, v + 2ρ rₖ xₖ∘u.

    rₖ is its residual at u, v. Arguments as of `n_sam_gradient`.
    """
    residual = ordered_sum(x * (u * v), 1) - y
    ascent = (2 * rho * residual).unsqueeze(1) * x
    u, v = u + ascent * v, v + ascent * u  # (n, d, runs)
    residual = ordered_sum(x * u * v, 1) - y
    descent = x * residual.unsqueeze(1)
    return ordered_sum(descent * v, 0) / len(x), ordered_sum(descent * u, 0) / len(x)


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
        """The weights of all runs, and the step."""
        return {"u": self.u, "v": self.v, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.u, self.v = (state_dict[name].to(self.device, copy=True) for name in "uv")
        self.step = state_dict["step"]
