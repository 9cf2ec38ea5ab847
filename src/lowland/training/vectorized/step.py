"""A step of runs side by side: forward, both gradients and the update of every run, in one call."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import ParamSpec, TypedDict

import torch
from torch import Tensor, nn

from lowland.optim.functional import sam_gradient
from lowland.training.vectorized.runs import NotVectorizable, RunHyperparameters, Runs
from lowland.values import Tree

P = ParamSpec("P")
_LARGEST = 32_768  # multiplications in one run's product; beyond that a matrix product is faster
_compiled: dict[tuple[object, ...], "VectorizedStep"] = {}  # those of this process, since each takes seconds to make


class _Options(TypedDict):
    eps: float
    climbs: bool
    nesterov: bool


class VectorizedStep:
    """One training step of all runs of a `Runs`, which it changes in place.

    A run whose loss is not finite stops where it is; the others don't notice.

    Args:
        model: the network's code.
        loss_fn: mean over a batch.
        eps: added to the gradient norm.
        climbs: whether any run has an ascent. If not, there is one gradient a step.
        nesterov: Nesterov's momentum.
        compiled: by `torch.compile`.
    """

    def __init__(
        self, model: nn.Module, loss_fn: Callable[..., Tensor], *, eps: float, climbs: bool, nesterov: bool,
        compiled: bool,
    ):  # fmt: skip
        self.model, self.loss_fn = model, loss_fn
        self.eps, self.climbs, self.nesterov = eps, climbs, nesterov
        self._step = self._step_of_all
        if compiled:
            self._step = torch.compile(_with_own_code(self._step_of_all), fullgraph=True, dynamic=False)

    @classmethod
    def of(cls, runs: Runs, rows: int, *, compiled: bool) -> "VectorizedStep":
        """That of ``runs``, with ``rows`` examples in a batch; one that was compiled before is used again."""
        task = runs.tasks[0]
        climbs = bool((runs.hyper.rho > 0).any())
        options: _Options = {"eps": runs.eps, "climbs": climbs, "nesterov": runs.nesterov}
        if not compiled:
            return cls(task.model, task.loss_fn, **options, compiled=False)
        device = runs.step.device
        key = (runs.program, len(runs), rows, device, *options.items())
        if key not in _compiled:
            model = _with_small_layers(task.model, rows) if device.type == "cpu" else task.model
            _compiled[key] = cls(model, task.loss_fn, **options, compiled=True)
        return _compiled[key]

    def __call__(self, runs: Runs, x: Tree, y: Tree, picked: Tensor | None, shared: bool, factor: float = 1.0) -> None:
        """One step.

        Args:
            runs: changed in place.
            x: inputs: of each run, of all of them (``shared``), or, with ``picked``, those to choose from.
            y: targets, likewise.
            picked: which examples make up each run's batch, ``(runs, n)``.
            shared: whether all runs have the same batch.
            factor: what the step sizes are multiplied by.
        """
        hyper = runs.hyper if factor == 1 else runs.hyper._replace(lr=runs.hyper.lr * factor)
        with _refusing(), torch.no_grad():
            self._step(
                runs.params,
                runs.constants,
                runs.velocities,
                hyper,
                runs.bad_step,
                runs.step,
                (x, y, picked),
                shared,
            )

    def agrees(self, runs: Runs, *batch: Tree) -> bool:
        """Whether this step, compiled, makes of copies of ``runs`` what the same code does uncompiled.

        Compilers have bugs: torch 2.13's gives a wrong weight gradient for vectorized convolutions with an output of
        one pixel, in float64. A wrong gradient is far off; what rounding makes of the update is not.
        """
        compiled, eager = runs.copy(), runs.copy()
        self(compiled, *batch)
        options: _Options = {"eps": self.eps, "climbs": self.climbs, "nesterov": self.nesterov}
        task = runs.tasks[0]
        VectorizedStep(task.model, task.loss_fn, **options, compiled=False)(eager, *batch)
        return all(_close(compiled.params[name], eager.params[name], w) for name, w in runs.params.items())

    def _step_of_all(
        self,
        params: dict[str, Tensor],
        constants: dict[str, Tensor],
        velocities: dict[str, Tensor],
        hyper: RunHyperparameters,
        bad_step: Tensor,
        step: Tensor,
        batch: tuple[Tree, Tree, Tensor | None],
        shared: bool,
    ) -> None:
        lr, rho, momentum, decay = hyper
        loss, gradients = self._gradients(params, constants, rho, batch, shared)
        fine = torch.isfinite(loss)
        bad_step.copy_(torch.where((bad_step < 0) & ~fine, step, bad_step))
        alive = bad_step < 0
        for name, param in params.items():
            wide = partial(_wide, like=param)
            direction = gradients[name] + wide(decay) * param
            if velocities:
                velocity = torch.where(wide(alive), wide(momentum) * velocities[name] + direction, velocities[name])
                velocities[name].copy_(velocity)
                direction = direction + wide(momentum) * velocity if self.nesterov else velocity
            param.copy_(torch.where(wide(alive), param - wide(lr) * direction, param))
        step.add_(1)

    def _gradients(
        self,
        params: dict[str, Tensor],
        constants: dict[str, Tensor],
        rho: Tensor,
        batch: tuple[Tree, Tree, Tensor | None],
        shared: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x, y, picked = batch
        if picked is not None:
            x, y = x[picked], y[picked]
        dim = None if shared else 0
        return torch.func.vmap(self._of_one, in_dims=(0, 0, 0, dim, dim))(params, constants, rho, x, y)

    def gradients(
        self, runs: Runs, x: Tree, y: Tree, picked: Tensor | None, shared: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses ``(runs,)`` and gradients ``(runs, *shape)`` of a step, which is not made.

        Raises:
            NotVectorizable: if vmap doesn't know an operation.
        """
        with _refusing(), torch.no_grad():
            return self._gradients(runs.params, runs.constants, runs.hyper.rho, (x, y, picked), shared)

    def _of_one(
        self, params: dict[str, Tensor], constants: dict[str, Tensor], rho: Tensor, x: Tree, y: Tree
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def loss(params: dict[str, Tensor]) -> Tensor:
            return self.loss_fn(torch.func.functional_call(self.model, (params, constants), (x,)), y)

        if self.climbs:
            return sam_gradient(loss, params, rho=rho, eps=self.eps)
        gradient, value = torch.func.grad_and_value(loss)(params)
        return value, gradient


@contextmanager
def _refusing() -> Iterator[None]:
    """What vmap doesn't know is NotVectorizable."""
    try:
        yield
    except RuntimeError as error:
        if "vmap" in str(error):
            raise NotVectorizable(next(iter(str(error).splitlines()))) from error
        raise


class _SmallLinear(nn.Linear):
    """The same map as a product and a sum, which a compiler fuses with what stands around it."""

    def forward(self, input: Tensor) -> Tensor:
        output = (input.unsqueeze(-2) * self.weight).sum(-1)
        return output if self.bias is None else output + self.bias


def _with_small_layers(model: nn.Module, rows: int) -> nn.Module:
    """A copy of ``model`` that computes the same for batches of ``rows`` examples, faster when compiled for a CPU."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) is nn.Linear and rows * module.weight.numel() <= _LARGEST:
            module.__class__ = _SmallLinear
    return model


def _with_own_code(method: Callable[P, None]) -> Callable[P, None]:
    """The same method in a code object of its own: by those torch keeps what it compiled, and limits how often."""
    assert isinstance(method, MethodType)
    function = method.__func__
    assert isinstance(function, FunctionType)
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__)
    return MethodType(own, method.__self__)


def _wide(column: Tensor, like: Tensor) -> Tensor:
    """``(runs,)`` in a shape that multiplies ``(runs, *shape)``."""
    return column.view(-1, *[1] * (like.dim() - 1))


def _close(compiled: Tensor, eager: Tensor, before: Tensor) -> bool:
    """Whether an update is the same to a hundredth of its largest entry, and to the rounding of what it changes."""
    finite = torch.isfinite(eager) & torch.isfinite(before)
    rounding = 4 * torch.finfo(before.dtype).eps * before.abs().max()
    allowed = 0.01 * torch.where(finite, eager - before, 0).abs().max() + rounding
    return bool((torch.where(finite, compiled - eager, 0).abs() <= allowed).all())
