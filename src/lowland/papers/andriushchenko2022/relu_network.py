"""Networks with one hidden layer of ReLUs on twelve points: data, initial weights, SAM's steps of many, their kinks.

Weights are ``(runs, 3, hidden)``: hidden weights w, hidden biases b, output weights a of x ↦ Σⱼ aⱼ max(0, wⱼ x + bⱼ).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowland.optim.ascent import length
from lowland.patience import doing

HIDDEN = 100
BLOCK = 4  # steps compiled together: more take longer to compile than they save
_THRESHOLD = 0.01  # of the larger slope: a change by more is a kink
_COINCIDENT = 1e-9  # of the interval: breakpoints nearer to each other are one
_ROUNDING = 1e-12  # of the sum of the units' absolute slopes: slopes that differ by less are equal


def points(device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The twelve points x and y, ``(12,)`` each."""
    x = (torch.arange(12, dtype=torch.float64) - 5.5) / 4 + 0.07
    y = 0.345 + torch.tensor([-2, 1.5, 0, 0, 2, 1, 0, -1, 0, 1, 2, -1], dtype=torch.float64)
    return x.to(device), y.to(device)


def initial_weights(seed: int) -> Tensor:
    """W = ±2.5, b ~ N(0, 2.5²), a ~ N(0, 4²): ``(3, hidden)``, drawn in this order."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (HIDDEN,), generator=generator, dtype=torch.float64) * 2 - 1
    normal = torch.randn(2, HIDDEN, generator=generator, dtype=torch.float64)
    return torch.stack([2.5 * signs, 2.5 * normal[0], 4 * normal[1]])


def loss_and_gradient(weights: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Half the summed squared error, ``(runs,)``, and its gradient, in closed form."""
    w, b, a = weights.unbind(1)
    before = x.unsqueeze(1) * w.unsqueeze(1) + b.unsqueeze(1)  # (runs, points, hidden)
    residual = (before.relu() * a.unsqueeze(1)).sum(-1) - y
    active = (before > 0) * residual.unsqueeze(2)
    sum_r, sum_rx = active.sum(1), (active * x.unsqueeze(1)).sum(1)  # over the points where a unit is active
    gradient = torch.stack([a * sum_rx, a * sum_r, w * sum_rx + b * sum_r], 1)
    return residual.square().sum(-1) / 2, gradient


@dataclass
class State:
    """Of many runs.

    Attributes:
        weights: ``(runs, 3, hidden)``.
        stopped: the number of steps after which a run has stopped, −1 for those that haven't, ``(runs,)``.
    """

    weights: Tensor
    stopped: Tensor


class ReluHyperparameters(NamedTuple):
    """What runs are trained with, ``(runs,)`` each.

    Attributes:
        lr: step size.
        fall: what the step size has lost, as a share of it, after a step: 1/steps if it falls to zero, or 0.
        rho: radius of the ascent; 0 is gradient descent.
        steps: at most.
        stop_at: loss at which a run stops: that at the weights of its descent gradient.
    """

    lr: Tensor
    fall: Tensor
    rho: Tensor
    steps: Tensor
    stop_at: Tensor


def _block(
    weights: Tensor,
    stopped: Tensor,
    first: Tensor,
    begin: Tensor,
    end: Tensor,
    hyper: ReluHyperparameters,
    x: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    """Steps first, first + 1, ...: those from begin up to end are taken, by the runs that haven't stopped."""
    for step in (first + k for k in range(BLOCK)):
        _, gradient = loss_and_gradient(weights, x, y)
        ascent = length(gradient.square().sum((1, 2)).sqrt(), 0.0, hyper.rho).view(-1, 1, 1) * gradient
        loss, gradient = loss_and_gradient(weights + ascent, x, y)
        goes_on = (stopped < 0) & (step >= begin) & (step < end) & (step < hyper.steps)
        rate = (hyper.lr * (1 - hyper.fall * (step + 1))).view(-1, 1, 1)
        weights = torch.where(goes_on.view(-1, 1, 1), weights - rate * gradient, weights)
        stopped = torch.where(goes_on & (loss <= hyper.stop_at), step + 1, stopped)
    return weights, stopped


@cache
def _compiled_block() -> Callable[..., tuple[Tensor, Tensor]]:
    # One thread: shared among several, so little work waits for the slowest at every sum.
    return torch.compile(_block, fullgraph=True, dynamic=False, options={"cpp.threads": 1})


class SamSteps:
    """Trains runs, changing a `State`.

    Step s is always number s mod 4 of a block, whose other steps may be left out. So it makes no difference to any
    bit how training is cut into calls.

    Args:
        hyper: what the runs are trained with.
        compiled: by `torch.compile`. Without a compiler, or with one that gets it wrong, a warning says so and the
            same code runs uncompiled, about seven times as long; what it computes differs by rounding.
    """

    def __init__(self, hyper: ReluHyperparameters, *, compiled: bool):
        self.hyper = hyper
        self.points = points(hyper.lr.device)
        self.run_block: Callable[..., tuple[Tensor, Tensor]] = _compiled_block() if compiled else _block
        self.tried = not compiled

    def __call__(self, state: State, begin: int, end: int) -> None:
        """Take the steps ``begin``, ..., ``end`` − 1 of every run that hasn't stopped."""
        with torch.no_grad():
            for first in range(begin - begin % BLOCK, end, BLOCK):
                self._advance(state, first, begin, end)

    def _advance(self, state: State, first: int, begin: int, end: int) -> None:
        at, from_, until = (torch.tensor(number, device=state.weights.device) for number in (first, begin, end))
        arguments = (state.weights, state.stopped, at, from_, until, self.hyper, *self.points)
        if not self.tried:
            self._try(arguments)
        state.weights, state.stopped = self.run_block(*arguments)

    def _try(
        self, arguments: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, ReluHyperparameters, Tensor, Tensor]
    ) -> None:
        """Whether the compiled block can be made and is right; else do without."""
        self.tried = True
        before = arguments[0]
        expected, _ = _block(*arguments)
        try:
            with doing("compiling"):
                found, _ = self.run_block(*arguments)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            why = f"torch can't compile ({str(error).partition(chr(10))[0]}; the variable CXX names a C++ compiler)"
        else:
            if torch.allclose(found - before, expected - before, rtol=1e-6, atol=1e-12, equal_nan=True):
                return
            why = "the compiler makes a wrong program"
        warnings.warn(f"{why}: training goes on uncompiled and takes about seven times as long", stacklevel=2)
        self.run_block = _block


@dataclass(frozen=True)
class PiecewiseLinear:
    """A continuous function on an interval.

    Attributes:
        x: the ends of the interval and, ascending, the breakpoints between them: ``(pieces + 1,)``.
        y: the function's values there.
        slopes: of the pieces, ``(pieces,)``.
        rounding: slopes that differ by less are the same.
    """

    x: np.ndarray
    y: np.ndarray
    slopes: np.ndarray
    rounding: float = 0.0

    def kinks(self) -> int:
        """At how many breakpoints the slope changes by more than 1 % of the larger of the two absolute slopes."""
        left, right = self.slopes[:-1], self.slopes[1:]
        change = np.abs(right - left)
        larger = np.maximum(np.abs(left), np.abs(right))
        return int(((change > _THRESHOLD * larger) & (change > self.rounding)).sum())


def relu_function(w: np.ndarray, b: np.ndarray, a: np.ndarray, low: float, high: float) -> PiecewiseLinear:
    """The function x ↦ Σⱼ aⱼ max(0, wⱼ x + bⱼ) on [low, high].

    Its slopes are sums over the units that are active in the middle of a piece; breakpoints −bⱼ/wⱼ less than 1e-9 of
    the interval apart, or from its ends, count as one.

    Args:
        w: hidden weights, ``(units,)``.
        b: hidden biases, ``(units,)``.
        a: output weights, ``(units,)``.
        low: where the interval begins.
        high: where it ends.
    """
    bends = w != 0
    breaks = np.sort(-b[bends] / w[bends])
    distance = _COINCIDENT * (high - low)
    x = [low]
    for point in breaks[(breaks > low) & (breaks < high - distance)]:
        if point > x[-1] + distance:
            x.append(point)
    knots = np.array([*x, high])
    middles = (knots[:-1] + knots[1:]) / 2
    slopes = (np.outer(middles, w) + b > 0) @ (a * w)
    values = np.maximum(np.outer(knots, w) + b, 0) @ a
    return PiecewiseLinear(knots, values, slopes, _ROUNDING * float(np.abs(a * w).sum()))
