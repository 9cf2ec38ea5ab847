"""Recurrent layers: the gates of all inputs are a fully connected layer, those of the states one for each time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import _VF, Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.layers.linear import Linear
from lowland.optim.m_sam.layers.sequences import PackedSequences, Sequences
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
    there: Tensor | None = None,
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
        there: whether each sequence has each time, ``(rows, times)``, after whose end its states stay; None for all.

    Returns:
        ``(rows, times, width)`` the states after each time; of an LSTM the cells beside them.
    """
    project = None if projection is None else lambda h: F.linear(h, projection)
    return _over_times(gates, _states(state, cell), kind, lambda h: F.linear(h, weight, bias), project, there)


def _states(state: Tensor, cell: Tensor | None) -> list[Tensor]:
    return [state] if cell is None else [state, cell]


def _over_times(
    gates: Tensor,
    states: list[Tensor],
    kind: str,
    of_state: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor] | None = None,
    there: Tensor | None = None,
) -> Tensor:
    """The recurrence."""
    found, cell = [], CELLS[kind]
    on: list[Tensor | None] = [None] * gates.shape[1] if there is None else [*there.unsqueeze(-1).unbind(1)]
    for of_input, goes_on in zip(gates.unbind(1), on, strict=True):
        before, states = states, cell(of_input, of_state(states[0]), states)
        if project is not None:
            states = [project(states[0]), *states[1:]]
        if goes_on is not None:
            states = [torch.where(goes_on, new, old) for new, old in zip(states, before, strict=True)]
        found.append(torch.cat(states, -1) if len(states) > 1 else states[0])
    return torch.stack(found, 1)


_LINEAR = Linear()


@rule(recurrence)
class Recurrence(Rule):
    """The weight of the states is that of a fully connected layer which sees the states before each time.

    So is the projection of an LSTM, which sees the states after each time.
    """

    arguments: ClassVar = ("gates", "state", "cell", "weight", "bias", "projection", "kind", "there")
    defaults: ClassVar = {"there": None}
    parameters: ClassVar = ("weight", "bias", "projection")
    composite = True

    def bind(self, func: Callable[..., Tensor], args: Sequence[Tree], kwargs: Kwargs) -> Use | None:
        """The call as a `Use`: gates and states have rows."""
        use = super().bind(func, args, kwargs)
        if use is not None:
            use.inputs = tuple(n for n in ("gates", "state", "cell", "there") if use.arguments[n] is not None)
        return use

    def first(self, use: Use, watch: AtW) -> Tensor:
        """At w, with zeros added to what the fully connected layers give, whose gradients are those there."""
        of_state, project = (None if layer is None else _tapped(layer, use.gates, watch) for layer in _layers(use))
        assert of_state is not None
        return _over_times(use.gates, _states(use.state, use.cell), use.kind, of_state, project, use.there)

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The fully connected layers with each group's own weights, at each time."""

        def called(layer: Use) -> Callable[[Tensor], Tensor]:
            return lambda h: watch.covered(replace(layer, arguments=layer.arguments | {"input": h}))

        of_state, projection = _layers(use)
        project = None if projection is None else called(projection)
        return _over_times(use.gates, _states(use.state, use.cell), use.kind, called(of_state), project, use.there)

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
        return _packed(watch, func.__name__, *args)
    x, before, flat, *options, batch_first = args
    kind = func.__name__
    _check_input(x, kind)
    x = x if batch_first else x.transpose(0, 1)
    if x.ndim != 3:
        raise NotCovered(f"{kind} sees one sequence alone")
    x, states = _stacked(watch, kind, x, _listed(before), flat, tuple(options), Sequences())
    # Laid out as torch does it, time first: dropout draws in that order.
    x, *states = (t.contiguous() for t in (x.transpose(0, 1), *states))
    return x.transpose(0, 1) if batch_first else x, *states


def _packed(
    watch: Caller, kind: str, data: Tensor, batch_sizes: Tensor, before: Tree, flat: list[Tensor], *options: Tree
) -> tuple[Tensor, ...]:
    """The same of packed sequences, each of which begins and ends by itself."""
    _check_input(data, kind)
    its = PackedSequences(data, batch_sizes, watch, kind)
    starts = [watch.picked(start, 1, its.sources) for start in _listed(before)]
    x, states = _stacked(watch, kind, its.unpacked(data), starts, flat, options, its)
    return its.packed(x), *(state.index_select(1, its.slots) for state in states)


def _stacked(
    watch: Caller, kind: str, x: Tensor, starts: list[Tensor], flat: list[Tensor], options: Args, its: Sequences
) -> tuple[Tensor, list[Tensor]]:
    """What the last layer gives, ``(rows, times, features)``, and the last states of all.

    Args:
        watch: the pass.
        kind: a key of `CELLS`.
        x: ``(rows, times, inputs)``.
        starts: the states before the first time, ``(layers, rows, width)`` each.
        flat: the parameters.
        options: whether there are biases, how many layers, dropout, training, whether in both directions.
        its: the sequences.
    """
    has_bias, count, dropout, training, both = options
    own, ends, directions = iter(flat), [], 1 + bool(both)
    each = len(flat) // (count * directions)
    widths = [start.shape[-1] for start in starts]
    for layer in range(count):
        found = []
        for direction in range(directions):
            weights: list[Tensor | None] = [next(own) for _ in range(each)]
            projection = weights.pop() if each > 2 + 2 * bool(has_bias) else None
            states = [_picked(watch, start, layer * directions + direction) for start in starts]
            turned = its.reversed(x) if direction else x
            out = _direction(watch, kind, turned, states, weights, projection, its.there)
            ends.append(out[:, -1])
            found.append(its.reversed(out) if direction else out)
        x = torch.cat([out[..., : widths[0]] for out in found], -1)
        if dropout and training and layer < count - 1:
            x = its.dropped(x, dropout)
    return x, list(torch.stack(ends).split(widths, -1))


@composed(_VF.lstm_cell, _VF.gru_cell, _VF.rnn_tanh_cell, _VF.rnn_relu_cell)
def cells(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """A single time."""
    x, before, *weights = args
    if kwargs or x.ndim != 2:
        return NotImplemented
    kind = func.__name__.removesuffix("_cell")
    _check_input(x, kind)
    starts = _listed(before)
    out = _direction(watch, kind, x.unsqueeze(1), starts, weights)[:, 0]
    return out if len(starts) == 1 else tuple(out.chunk(2, -1))


def _listed(states: Tree) -> list[Tensor]:
    return [states] if isinstance(states, Tensor) else list(states)


def _direction(
    watch: Caller,
    kind: str,
    x: Tensor,
    starts: list[Tensor],
    weights: list[Tensor | None],
    projection: Tensor | None = None,
    there: Tensor | None = None,
) -> Tensor:
    """The recurrence over ``x``, ``(rows, times, inputs)``."""
    of_input, of_state, *biases = weights
    first, second = biases or (None, None)
    gates = _called(watch, F.linear, (x, of_input, first))
    _check_input(gates, kind)
    states = [watch.of_rows(start, gates, kind) for start in starts]
    state, cell = (*states, None)[:2]
    if there is not None:
        there = watch.of_rows(there, gates, kind)
    out: Tensor = _called(watch, recurrence, (gates, state, cell, of_state, second, projection, kind, there))
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
