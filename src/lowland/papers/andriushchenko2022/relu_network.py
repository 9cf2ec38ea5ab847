"""Networks with one hidden layer of ReLUs on twelve points, many at once: data, initial weights, and the step of SAM.

Weights are ``(runs, 3, hidden)``: hidden weights w, hidden biases b, output weights a of x ↦ Σⱼ aⱼ max(0, wⱼ x + bⱼ).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

HIDDEN = 100
BLOCK = 4  # steps compiled together: more take longer to compile than they save


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


@dataclass(frozen=True)
class Constants:
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


def _step(
    weights: Tensor, stopped: Tensor, step: Tensor, begin: Tensor, end: Tensor,
    lr: Tensor, fall: Tensor, rho: Tensor, steps: Tensor, stop_at: Tensor, x: Tensor, y: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _, gradient = loss_and_gradient(weights, x, y)
    norm = gradient.square().sum((1, 2)).sqrt()
    ascent = torch.where(norm > 0, rho / norm, 0.0).view(-1, 1, 1) * gradient
    loss, gradient = loss_and_gradient(weights + ascent, x, y)
    goes_on = (stopped < 0) & (step >= begin) & (step < end) & (step < steps)
    rate = (lr * (1 - fall * (step + 1))).view(-1, 1, 1)
    weights = torch.where(goes_on.view(-1, 1, 1), weights - rate * gradient, weights)
    return weights, torch.where(goes_on & (loss <= stop_at), step + 1, stopped)


def _block(weights: Tensor, stopped: Tensor, first: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """Steps first, first + 1, ...: those from begin up to end are taken, by the runs that haven't stopped."""
    for k in range(BLOCK):
        weights, stopped = _step(weights, stopped, first + k, *rest)
    return weights, stopped


@cache
def _compiled_block() -> Callable[..., tuple[Tensor, Tensor]]:
    # One thread: shared among several, so little work waits for the slowest at every sum.
    return torch.compile(_block, fullgraph=True, dynamic=False, options={"cpp.threads": 1})


class ReluProgram:
    """Trains runs, changing a `State`.

    Step s is always number s mod 4 of a block, whose other steps may be left out. So it makes no difference to any
    bit how training is cut into calls.

    Args:
        constants: of the runs.
        compiled: by `torch.compile`. Without a compiler, or with one that gets it wrong, a warning says so and the
            same code runs uncompiled, about seven times as long; what it computes differs by rounding.
    """

    def __init__(self, constants: Constants, *, compiled: bool):
        self.constants = constants
        device = constants.lr.device
        self.points = points(device)
        self.run_block: Callable[..., tuple[Tensor, Tensor]] = _compiled_block() if compiled else _block
        self.tried = not compiled

    def __call__(self, state: State, begin: int, end: int) -> None:
        """Steps ``begin``, ..., ``end`` − 1."""
        with torch.no_grad():
            for first in range(begin - begin % BLOCK, end, BLOCK):
                self._advance(state, first, begin, end)

    def _advance(self, state: State, first: int, begin: int, end: int) -> None:
        one = self.constants
        device = state.weights.device
        numbers = (torch.tensor(number, device=device) for number in (first, begin, end))
        arguments = (state.weights, state.stopped, *numbers, one.lr, one.fall, one.rho, one.steps, one.stop_at)
        if not self.tried:
            self._try(*arguments, *self.points)
        state.weights, state.stopped = self.run_block(*arguments, *self.points)

    def _try(self, *arguments: Tensor) -> None:
        """Whether the compiled block can be made and is right; else do without."""
        self.tried = True
        before = arguments[0]
        expected, _ = _block(*arguments)
        try:
            found, _ = self.run_block(*arguments)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            why = f"torch can't compile ({str(error).partition(chr(10))[0]}; the variable CXX names a C++ compiler)"
        else:
            if torch.allclose(found - before, expected - before, rtol=1e-6, atol=1e-12, equal_nan=True):
                return
            why = "the compiler makes a wrong program"
        warnings.warn(f"{why}: training goes on uncompiled and takes about seven times as long", stacklevel=2)
        self.run_block = _block
