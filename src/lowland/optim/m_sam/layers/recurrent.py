"""Recurrent layers: the gates of all inputs are a fully connected layer, those of the states one for each time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import _VF, Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.layers.linear import Linear
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.registry import composed, rule
from lowland.optim.m_sam.rule import AtPerturbed, AtW, Rule, Use
from lowland.optim.m_sam.watched import Caller, Derived, Watched
from lowland.values import Args, Function, Kwargs, Tree

#: Gates of the input, those of the state, and the state (and the cell's): the next state (and cell).
Cell = Callable[[Tensor, Tensor, list[Tensor]], list[Tensor]]


def _lstm(x: Tensor, h: Tensor, state: list[Tensor]) -> list[Tensor]:
    i, f, g, o = (x + h).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return [o.sigmoid() * cell.tanh(), cell]


def _gru(x: Tensor, h: Tensor, state: list[Tensor]) -> list[Tensor]:
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
    z = (xz + hz).sigmoid()
    new = (xn + (xr + hr).sigmoid() * hn).tanh()
    return [new + z * (state[0] - new)]


def _tanh(x: Tensor, h: Tensor, state: list[Tensor]) -> list[Tensor]:
    return [(x + h).tanh()]


def _relu(x: Tensor, h: Tensor, state: list[Tensor]) -> list[Tensor]:
    return [(x + h).relu()]


CELLS: dict[str, Cell] = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _tanh, "rnn_relu": _relu}


def recurrence(
    gates: Tensor,
    state: Tensor,
    cell: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
    kind: str,
) -> Tensor:
    """One direction of a layer, over all times.

    Args:
        gates: of the inputs, ``(rows, times, gates)``.
        state: before the first time, ``(rows, width)``.
        cell: of an LSTM, ``(rows, gates / 4)``; else None.
        weight: ``(gates, width)``.
        bias: ``(gates,)``.
        projection: of an LSTM's states, ``(width, gates / 4)``; None for none.
        kind: a key of `CELLS`.

    Returns:
        ``(rows, times, width)`` the states after each time; of an LSTM the cells beside them.
    """
    project = None if projection is None else lambda h: F.linear(h, projection)
    return _over_times(gates, _states(state, cell), kind, lambda h: F.linear(h, weight, bias), project)


def _states(state: Tensor, cell: Tensor | None) -> list[Tensor]:
    return [state] if cell is None else [state, cell]


def _over_times(
    gates: Tensor,
    states: list[Tensor],
    kind: str,
    of_state: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The recurrence."""
    found, cell = [], CELLS[kind]
    for of_input in gates.unbind(1):
        states = cell(of_input, of_state(states[0]), states)
        if project is not None:
            states = [project(states[0]), *states[1:]]
        found.append(torch.cat(states, -1) if len(states) > 1 else states[0])
    return torch.stack(found, 1)


_LINEAR = Linear()


@rule(recurrence)
class Recurrence(Rule):
    """The weight of the states is that of a fully connected layer which sees the states before each time.

    So is the projection of an LSTM, which sees the states after each time.
    """

    arguments: ClassVar = ("gates", "state", "cell", "weight", "bias", "projection", "kind")
    defaults: ClassVar = {}
    parameters: ClassVar = ("weight", "bias", "projection")
    composite = True

    def bind(self, func: Callable[..., Tensor], args: Sequence[Tree], kwargs: Kwargs) -> Use | None:
        """The call as a `Use`: gates and states have rows."""
        use = super().bind(func, args, kwargs)
        if use is not None:
            use.inputs = ("gates", "state") if use.cell is None else ("gates", "state", "cell")
        return use

    def first(self, use: Use, watch: AtW) -> Tensor:
        """At w, with zeros added to what the fully connected layers give, whose gradients are those there."""
        of_state, project = (None if layer is None else _tapped(layer, use.gates, watch) for layer in _layers(use))
        assert of_state is not None
        return _over_times(use.gates, _states(use.state, use.cell), use.kind, of_state, project)

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The fully connected layers with each group's own weights, at each time."""

        def called(layer: Use) -> Callable[[Tensor], Tensor]:
            return lambda h: watch.covered(replace(layer, arguments=layer.arguments | {"input": h}))

        of_state, projection = _layers(use)
        project = None if projection is None else called(projection)
        return _over_times(use.gates, _states(use.state, use.cell), use.kind, called(of_state), project)

    def unmoved(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The same, for the norms of gradients."""
        return self.perturbed(use, watch)


def _layers(use: Use) -> tuple[Use, Use | None]:
    """The fully connected layer of the states, and that of the projection, if there is one."""

    def layer(**parameters: Tensor | None) -> Use:
        owners: dict[str, Tensor] = {name: p for name, p in parameters.items() if type(p) is Watched}
        return Use(_LINEAR, F.linear, {"input": None, **parameters}, owners, inputs=("input",))

    projection = None if use.projection is None else layer(weight=use.projection, bias=None)
    return layer(weight=use.weight, bias=use.bias), projection


def _tapped(layer: Use, gates: Tensor, watch: AtW) -> Callable[[Tensor], Tensor]:
    """A fully connected layer that is called once for each time of ``gates``, of which ``watch`` learns."""
    at_w = layer.at_w()
    weight, bias = at_w["weight"], at_w["bias"]
    rows, times = gates.shape[:2]
    kept = gates.new_empty(rows, times, weight.shape[1])  # filled when the inputs are there
    left = enumerate(watch.tap(layer, gates.new_zeros(rows, times, len(weight)), kept).unbind(1))

    def call(h: Tensor) -> Tensor:
        time, zeros = next(left)
        kept.data[:, time] = h.detach()
        return F.linear(h, weight, bias) + zeros

    return call


@composed(_VF.lstm, _VF.gru, _VF.rnn_tanh, _VF.rnn_relu)
def layers(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """Layer by layer, direction by direction."""
    if kwargs or len(args) != 9:
        return NotImplemented
    if isinstance(args[3], list | tuple):
        raise NotCovered(f"{func.__name__} sees a packed sequence, whose rows aren't laid out by example")
    x, before, flat, has_bias, count, dropout, training, both, batch_first = args
    kind, directions = func.__name__, 1 + bool(both)
    _check_input(x, kind)
    x = x if batch_first else x.transpose(0, 1)
    if x.ndim != 3:
        raise NotCovered(f"{kind} sees one sequence alone")
    starts = [before] if isinstance(before, Tensor) else list(before)
    own, ends = iter(flat), []
    each = len(flat) // (count * directions)
    widths = [start.shape[-1] for start in starts]
    for layer in range(count):
        found = []
        for direction in range(directions):
            weights = [next(own) for _ in range(each)]
            projection = weights.pop() if each > 2 + 2 * bool(has_bias) else None
            its = [_picked(watch, start, layer * directions + direction) for start in starts]
            out = _direction(watch, kind, x.flip(1) if direction else x, its, weights, projection)
            ends.append(out[:, -1])
            found.append(out.flip(1) if direction else out)
        x = torch.cat([out[..., : widths[0]] for out in found], -1)
        if dropout and training and layer < count - 1:  # in torch's order
            x = F.dropout(x.transpose(0, 1).contiguous(), dropout).transpose(0, 1)
    states = torch.stack(ends)
    results = (x if batch_first else x.transpose(0, 1), *states.split(widths, -1))
    return tuple(t.contiguous() for t in results)


@composed(_VF.lstm_cell, _VF.gru_cell, _VF.rnn_tanh_cell, _VF.rnn_relu_cell)
def cells(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """A single time."""
    x, before, *weights = args
    if kwargs or x.ndim != 2:
        return NotImplemented
    kind = func.__name__.removesuffix("_cell")
    _check_input(x, kind)
    starts = [before] if isinstance(before, Tensor) else list(before)
    out = _direction(watch, kind, x.unsqueeze(1), starts, weights)[:, 0]
    return out if len(starts) == 1 else tuple(out.chunk(2, -1))


def _direction(
    watch: Caller,
    kind: str,
    x: Tensor,
    starts: list[Tensor],
    weights: list[Tensor | None],
    projection: Tensor | None = None,
) -> Tensor:
    """The recurrence over ``x``, ``(rows, times, inputs)``."""
    of_input, of_state, *biases = weights
    first, second = biases or (None, None)
    gates = _called(watch, F.linear, (x, of_input, first))
    _check_input(gates, kind)
    states = [watch.of_rows(start, gates, kind) for start in starts]
    state, cell = (*states, None)[:2]
    out: Tensor = _called(watch, recurrence, (gates, state, cell, of_state, second, projection, kind))
    return out


def _check_input(x: Tensor, kind: str) -> None:
    if isinstance(x, Watched | Derived):
        raise NotCovered(f"{kind} has an input that has no rows of examples")


def _picked(watch: Caller, starts: Tensor, index: int) -> Tensor:
    out: Tensor = _called(watch, Tensor.select, (starts, 0, index))
    return out


def _called(watch: Caller, func: Function, args: Args) -> Tree:
    """``func`` by the pass, if it concerns it."""
    return watch.call(func, args, {}) if any(isinstance(arg, Watched | Derived) for arg in args) else func(*args)
