"""The loss along the straight line between two networks."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowland.curvature.nondeterminism import DeterminismCheck
from lowland.curvature.objective import LossFn, Objective, Weight
from lowland.patience import doing
from lowland.torch_tools import refuse_other_models, refuse_pieces, unwrapped

Mean = Callable[[Any, Any], Tensor | float]
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_POINTS = tuple(i / 20 for i in range(21))


@dataclass(frozen=True)
class AlongLine:
    """What was measured at w(t) = (1 − t) w_a + t w_b.

    Attributes:
        points: t, in the order given.
        loss: at each point.
        metrics: by name, each at each point.
    """

    points: list[float]
    loss: list[float]
    metrics: dict[str, list[float]]

    @property
    def barrier(self) -> float:
        """The `barrier_of` the loss."""
        return self.barrier_of(self.loss)

    def barrier_of(self, values: list[float]) -> float:
        """The maximum over the points in [0, 1] of L(t) − ((1 − t) L(0) + t L(1)), L being ``loss`` or a metric.

        Entezari et al. 2022, *The Role of Permutation Invariance in Linear Mode Connectivity*, definition 1. Linear
        mode connectivity is from Frankle et al. 2020, who subtract the mean of both ends, of the error, at every t:
        the same where the ends are equal. The points may miss the top: it is a lower bound. NaN if a value is.

        Raises:
            ValueError: unless 0 and 1 are among the points.
        """
        at = dict(zip(self.points, values, strict=True))
        if not {0.0, 1.0} <= at.keys():
            raise ValueError("the barrier is that above both ends: it needs 0 and 1 among the points")
        heights = [value - ((1 - t) * at[0.0] + t * at[1.0]) for t, value in at.items() if 0 <= t <= 1]
        return math.nan if any(map(math.isnan, heights)) else max(heights)


def along_line(
    model_a: nn.Module,
    model_b: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any],
    points: Iterable[float] = _POINTS,
    *,
    statistics: Iterable[Any] | None = None,
    metrics: Mapping[str, Mean] | None = None,
    weight: Weight | None = None,
) -> AlongLine:
    """The mean loss at w(t) = (1 − t) w_a + t w_b, w being all parameters, frozen ones too.

    It is measured in **evaluation mode**, on a copy: both models stay as they are. The running statistics of batch norm
    belong to no point in between (nor does their mean), so they are computed anew at every point, both ends included:
    the plain mean over the batches of ``statistics``, as `torch.optim.swa_utils.update_bn` takes it, but with all other
    layers in evaluation mode. Other buffers must be the same in both models.

    The loss at the first point is measured twice: where it isn't the same, a barrier would be noise, and it is refused.

    Args:
        model_a: where t = 0.
        model_b: where t = 1, of the same architecture.
        loss_fn: ``loss_fn(model(x), y)`` gives the mean loss over a batch, a 0-d tensor. It sees the network through
            its output alone: a penalty on ``model_a.parameters()`` would be a constant, and is refused.
        batches: ``(x, y)`` pairs, on the device of ``model_a``; iterated once for each point.
        points: values of t, by default 21 from 0 to 1; others than those in [0, 1] lie on the line's continuation.
        statistics: batches ``(x, y)`` or ``x`` for batch norm, by default ``batches``: take those of training, in
            their usual size. Iterated once for each point, if there is batch norm that keeps statistics.
        metrics: by name, other means over a batch, functions of ``(model(x), y)`` that give a 0-d tensor or a number.
        weight: what a batch counts, as a function of ``(x, y)``; by default its number of examples, ``len(x)``.

    Raises:
        TypeError: for a generator as ``batches`` or ``statistics``.
        ValueError: with the first difference, if the models differ by more than the values of parameters and the
            statistics of batch norm; for points that are not finite, or none; without a batch of ``statistics``; if the
            loss at one point isn't the same twice; if a loss or metric isn't a real 0-d tensor or depends on parameters
            in another way than through the model.

    Example:
        >>> a, b = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _, _ = a.weight.fill_(-1.0), b.weight.fill_(1.0)
        >>> loss = lambda out, y: ((out**2 - 1) ** 2).mean()  # two minima, at −1 and 1
        >>> line = along_line(a, b, loss, [(torch.ones(1, 1), None)], points=[0, 0.5, 1])
        >>> line.loss, line.barrier
        ([0.0, 1.0, 0.0], 1.0)
    """
    for name, model in (("model_a", model_a), ("model_b", model_b)):
        refuse_other_models(name, model)
    if not isinstance(points, Iterable):
        raise TypeError(f"points are the values of t, a list of numbers, not {points!r}")
    points = [float(t) for t in points]
    if not points or not all(map(math.isfinite, points)):
        raise ValueError(f"points are the values of t, at least one and all finite: not {points}")
    statistics = batches if statistics is None else statistics
    if isinstance(statistics, Iterator):
        raise TypeError("statistics must be iterable many times over, a list or a DataLoader: not a generator")
    model_a, model_b = unwrapped(model_a), unwrapped(model_b)
    refuse_pieces(model_a)
    refuse_pieces(model_b)
    _refuse_differences(model_a, model_b)
    model = copy.deepcopy(model_a).eval()
    for param in model.parameters():
        param.requires_grad_(_moves(param))
    objective = Objective(model, loss_fn, batches, weight=weight)
    a, other = [p.detach() for p in objective.params], dict(model_b.named_parameters())
    b = [other[name].detach().to(p.device) for name, p in zip(objective.names, a, strict=True)]
    layers = list(dict.fromkeys(_batch_norms(model).values()))
    functions: dict[str, Mean] = {
        "loss": objective.loss_fn,
        **{f"metric {name}": function for name, function in (metrics or {}).items()},
    }

    def measured() -> list[float]:
        if layers:
            _recompute(model, layers, statistics)
        return _means(objective, functions)

    seen = DeterminismCheck(objective.params, objective.dtype)
    values = []
    with doing("along the line") as now:
        for t in (points[0], *points):
            values.append(objective.inside(measured, _between(a, b, t)))
            now.what = f"along the line, {len(values)} of {len(points) + 1} points"
            if len(values) <= 2:
                seen(torch.tensor(values[-1][0], dtype=torch.float64, device="cpu"))
    curves = zip(*values[1:], strict=True)
    loss, *others = map(list, curves)
    seen.warn_beside(max(loss) - min(loss))
    return AlongLine(points, loss, dict(zip(metrics or (), others, strict=True)))


def _between(a: list[Tensor], b: list[Tensor], t: float) -> list[Tensor]:
    wide = ((p, p.to(torch.promote_types(p.dtype, torch.float32)), q) for p, q in zip(a, b, strict=True))
    return [((1 - t) * p_ + t * q.to(p_.dtype)).to(p.dtype) for p, p_, q in wide]


def _recompute(model: nn.Module, layers: list[_BatchNorm], batches: Iterable[Any]) -> None:
    """The mean over the batches of each layer's mean and variance, added up in float64 whatever the layer's type."""
    sums: dict[nn.Module, tuple[int, list[Tensor]]] = {}

    def add_up(layer: nn.Module, *_: Any) -> None:
        now = [_wide(layer.running_mean), _wide(layer.running_var)]  # type: ignore[arg-type]
        count, so_far = sums.get(layer, (0, [torch.zeros_like(part) for part in now]))
        sums[layer] = count + 1, [part + new for part, new in zip(so_far, now, strict=True)]

    hooks = []
    for layer in layers:
        layer.momentum = 1.0  # its statistics are those of the last batch
        layer.reset_running_stats()
        layer.train()
        hooks.append(layer.register_forward_hook(add_up))
    some = False
    try:
        for batch in batches:
            if isinstance(batch, Mapping):
                model(**batch)
            else:
                model(batch[0] if isinstance(batch, tuple | list) else batch)
            some = True
    finally:
        for hook in hooks:
            hook.remove()
    if not some:
        raise ValueError("batch norm needs statistics, and there are no batches to compute them from")
    for layer in layers:
        layer.eval()
        if layer in sums:
            count, (mean, variance) = sums[layer]
            with torch.no_grad():
                layer.running_mean.copy_(mean / count)  # type: ignore[union-attr]
                layer.running_var.copy_(variance / count)  # type: ignore[union-attr]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _means(objective: Objective, functions: Mapping[str, Mean]) -> list[float]:
    total, sums = 0.0, dict.fromkeys(functions, 0.0)
    for weight, x, y in objective.weighted_batches():
        total += weight
        with torch.enable_grad():  # the parameters here are constants: no graph is built of them
            output = objective.output(x)
            for name, function in functions.items():
                sums[name] += weight * _value(name, function(output, y))
    return [value / total for value in sums.values()]


def _value(name: str, value: Tensor | float) -> float:
    if not isinstance(value, Tensor | int | float):
        raise TypeError(f"the {name} must be the mean over the batch, a number, not a {type(value).__name__}")
    value = torch.as_tensor(value)
    if value.dim() != 0:
        raise ValueError(f"the {name} must be the mean over the batch, not a tensor of shape {tuple(value.shape)}")
    if value.is_complex():
        raise ValueError(f"the {name} must be a real number, not a complex one: take its abs() or .real")
    if value.requires_grad:
        raise ValueError(
            f"the {name} depends on parameters in another way than through the model's output, and those of a model "
            "that is passed in don't move along the line: leave such a penalty out"
        )
    return value.item()


def _refuse_differences(model_a: nn.Module, model_b: nn.Module) -> None:
    """Raise ValueError that names the first."""
    (tensors_a, ties_a), (tensors_b, ties_b) = map(_named, (model_a, model_b))
    for name in chain(tensors_a, tensors_b):
        if name not in tensors_a or name not in tensors_b:
            raise _differ(f"only model_{'a' if name in tensors_a else 'b'} has {name}")
        a, b = (tensors[name] for tensors in (tensors_a, tensors_b))
        if a.shape != b.shape or a.dtype != b.dtype:
            raise _differ(
                f"{name} is {tuple(a.shape)} of {a.dtype} in model_a, {tuple(b.shape)} of {b.dtype} in model_b"
            )
        if ties_a[name] != ties_b[name]:
            raise _differ(f"{name} is one tensor with another in only one of them")
    statistics = {f"{prefix}.{name}" if prefix else name for prefix in _batch_norms(model_a) for name in _STATISTICS}
    for name, a in tensors_a.items():
        if (isinstance(a, nn.Parameter) and _moves(a)) or name in statistics:
            continue
        if not torch.equal(a, tensors_b[name].to(a.device)):
            raise ValueError(
                f"{name} differs between the models, and is neither a parameter that can be interpolated nor a "
                "statistic of batch norm that can be computed anew: give both models the same"
            )


def _differ(how: str) -> ValueError:
    return ValueError(f"the models are not of one architecture: {how}")


def _named(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parameters and buffers, and for each of their names the first one of the same tensor."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    first: dict[Tensor, str] = {}
    return tensors, {name: first.setdefault(tensor, name) for name, tensor in tensors.items()}


def _moves(param: Tensor) -> bool:
    return param.is_floating_point() or param.is_complex()


def _batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Those that keep statistics, by every path."""
    modules = model.named_modules(remove_duplicate=False)
    return {name: m for name, m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None}
