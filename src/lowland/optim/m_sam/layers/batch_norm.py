"""Batch norm in training mode: to each group its own statistics, as if the model were run on that group alone."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.layout import as_plain
from lowland.optim.m_sam.refusals import NotCovered, Refused
from lowland.optim.m_sam.rows import rows_of
from lowland.optim.m_sam.watch import by_rows, mixed, normalized
from lowland.optim.m_sam.watched import Derived, Watched
from lowland.torch_tools import uncompiled
from lowland.values import Args, Function, Kwargs, Tree

_SIGNATURE = inspect.signature(F.batch_norm)

_inside = 0  # how many layers deep


def as_a_function(what: str) -> None:
    """Raise NotCovered outside of a layer: then the statistics are those of the whole batch, in the loop, too."""
    if not _inside:
        raise NotCovered(f"{what} is called as a function, and takes the statistics of the whole batch")


def batch_norm(
    x: Tensor,
    running: tuple[Tensor | None, Tensor | None],
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    *,
    groups: Groups,
    what: str,
) -> Tensor:
    """Each group normalized by itself: groups side by side, with channels of their own, in one call.

    Running statistics take the groups' means and unbiased variances by their shares of the batch:
    (1 - momentum) · running + momentum · Σ_j (n_j/B) · that of group j.

    Args:
        x: ``(rows, channels, *pixels)``.
        running: mean and variance, ``(channels,)``, moved in place; None where none are kept.
        weight: ``(groups, channels)``, or ``(channels,)`` for all groups; None for 1.
        bias: the same; None for 0.
        momentum: of running statistics.
        eps: added to variances.
        groups: of the rows.
        what: is normalized, in messages.

    Raises:
        ValueError: for a group with one value a channel.
        NotCovered: if the rows aren't those of the examples.
    """
    rows_of(x, groups.size, what)
    normalized(what)
    channels, (_, _, smallest) = x.shape[1], groups.parts[-1]
    if len(x) // groups.size * smallest * x.shape[2:].numel() == 1:
        raise Refused(
            f"{what} has one value a channel in a group of one example, so that there is no variance: take m of at "
            "least 2 and batches that leave no example over, or group or layer norm, or batch norm in evaluation mode"
        )
    parts = []
    for index, (part, (chosen, count, n)) in enumerate(zip(groups.split(x), groups.parts, strict=True)):
        w, b = (t if t is None else t.expand(groups.count, channels)[chosen].flatten() for t in (weight, bias))
        mean, var = (t if t is None else t.new_zeros(count * channels) for t in running)
        # One group as it is: torch's backward is wrong for a single image with channels last in an odd view ...
        side_by_side = part[0] if count == 1 else part.transpose(0, 1).flatten(1, 2)
        y = F.batch_norm(side_by_side, mean, var, w, b, True, 1.0, eps)
        if len(side_by_side) == 1 and y.requires_grad:  # nor for a gradient with channels last
            y.register_hook(lambda d: d.contiguous())
        parts.append(y[None] if count == 1 else y.unflatten(1, (count, channels)).transpose(0, 1))
        with torch.no_grad():
            for kept, found in zip(running, (mean, var), strict=True):
                if kept is not None and found is not None:
                    mixed(kept, f"the running statistics of {what}")
                    kept.mul_(1.0 if index or groups.start else 1 - momentum)
                    kept.add_(found.view(count, channels).mean(0), alpha=momentum * count * n / groups.whole)
    return as_plain(groups.join(parts), F.batch_norm, x, None, None, None, None, True)


def in_training(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms of ``model`` that normalize by the batch, by name.

    Raises:
        ValueError: for SyncBatchNorm, whose statistics are those of all processes.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    }
    for name, module in found.items():
        if isinstance(module, nn.SyncBatchNorm):
            raise Refused(
                f"SyncBatchNorm ({name}) mixes the examples of all processes, so that no group has a gradient of its "
                "own: with m use BatchNorm, group or layer norm, or SyncBatchNorm in evaluation mode"
            )
    return found


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Means and variances of the batch norms of ``model`` that normalize by the batch, on which no output depends."""
    layers = [layer for layer in model.modules() if _is_torchs(layer) and layer.training]
    found = [b for layer in layers for b in (layer.running_mean, layer.running_var)]
    return [b for b in found if isinstance(b, Tensor) and not is_lazy(b)]


def has_others(model: nn.Module) -> bool:
    """Whether ``model`` has other buffers than those of batch norm."""
    return any(layer._buffers and not _is_torchs(layer) for layer in model.modules())


def _is_torchs(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and type(layer).forward is _BatchNorm.forward


@contextmanager
def by_group(model: nn.Module, groups: Groups | None, group: int | None = None) -> Iterator[None]:
    """Inside, batch norm in training mode takes the statistics of each group.

    Of watched parameters a rule takes care.

    Args:
        model: whose batch norms are looked for: without any, nothing is done.
        groups: of the batch; None for all rows as one group.
        group: the number of that whose losses alone are descended along, if so: then other rows must get no gradient.

    Raises:
        ValueError: as `batch_norm` and `in_training`; with ``group`` also if rows aren't those of the examples.
    """
    layers = in_training(model)
    if not layers:
        yield
        return
    before = {layer: layer.__dict__.get("forward") for layer in layers.values()}
    try:
        # Layer by layer: a mode around everything would be off in backward, where checkpointing calls layers again.
        for name, layer in layers.items():
            mode = _ByGroup(groups, group, f"batch norm ({name})")
            layer.__dict__["forward"] = partial(_forward, layer.forward, mode)
        with uncompiled():
            yield
    finally:
        for layer, forward in before.items():
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.__dict__["forward"] = forward


def _forward(forward: Callable[..., Tensor], mode: "_ByGroup", *args: Tree, **kwargs: Tree) -> Tensor:
    global _inside
    _inside += 1
    try:
        with mode:
            return forward(*args, **kwargs)
    finally:
        _inside -= 1


class _ByGroup(TorchFunctionMode):
    """Normalizes by group where the one layer that runs inside calls ``F.batch_norm``."""

    def __init__(self, groups: Groups | None, group: int | None, what: str):
        super().__init__()
        self.groups, self.group, self.what = groups, group, what

    def __torch_function__(self, func: Function, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Tree:
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        call = _SIGNATURE.bind(*args, **(kwargs or {}))
        call.apply_defaults()
        given = call.arguments
        if not given.pop("training") or any(isinstance(t, Watched | Derived) for t in given.values()):
            return func(*args, **(kwargs or {}))
        x, running = given.pop("input"), (given.pop("running_mean"), given.pop("running_var"))
        groups = self.groups or Groups(len(x), len(x))
        if self.group is not None and len(x) % groups.whole:
            raise Refused(self._misplaced)
        rows_of(x, groups.whole, self.what)

        def normalize() -> Tensor:
            return groups.among(batch_norm(groups.own(x), running, **given, groups=groups, what=self.what))

        y = by_rows(x, self.what, normalize)
        return y if self.group is None else self._checked(y, groups, self.group)

    def _checked(self, y: Tensor, groups: Groups, group: int) -> Tensor:
        """``y``, whose gradient must be that of the group's rows alone."""
        if groups.count == 1 or not torch.is_grad_enabled():
            return y
        # A clone: hooks of views and leaves don't go with changes in place.
        y = (y if y.requires_grad else y.requires_grad_()).clone()
        n = groups.m * (len(y) // groups.size)

        def check(d: Tensor) -> None:
            for others in (d[: group * n], d[(group + 1) * n :]):
                if (others.isfinite() & (others != 0)).any():
                    raise Refused(self._misplaced)

        y.register_hook(check)
        return y

    @property
    def _misplaced(self) -> str:
        return (
            f"the losses of a group of examples depend on rows of other groups at {self.what}: with m, examples lie "
            "along the first dimension of what batch norm in training mode sees, and each loss is that of one example "
            "alone; or leave m out"
        )
