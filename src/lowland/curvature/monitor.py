"""Measures sharpness during training, in any training loop."""

import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowland.assigning import checked, unassignable
from lowland.checks import count, is_count, number
from lowland.curvature.hessian import Hessian
from lowland.curvature.objective import LossFn, Objective, Weight, refuse_generator
from lowland.curvature.processes import DdpProcesses, refuse_synchronized_batch_norm
from lowland.curvature.rates import Rates, rates
from lowland.curvature.sinks import Record, sinks
from lowland.curvature.stability import at_w
from lowland.curvature.stopwatch import Stopwatch
from lowland.curvature.vectors import euclidean_norm
from lowland.curvature.wanted import Wanted
from lowland.curvature.worst_case import Search, check_m, mean_rise
from lowland.edges import sam_edge
from lowland.launched import quiet
from lowland.optim.functional import EPS
from lowland.patience import PATIENCE, doing
from lowland.torch_tools import ddp, refuse_other_models, unwrapped

_SEED = 0  # of dropout's masks and a loader's order: one function at every check, in a resumed run too


def _has_groups(name: str, optimizer: Any) -> None:
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(f"{name} must have param_groups, as torch's do: not a {type(optimizer).__name__}")


def _is_every(name: str, value: Any) -> None:
    if not is_count(value, 1):
        raise ValueError(f"{name} is a number of steps, an integer of at least 1: not {value!r}")


def _is_tolerance(name: str, value: Any) -> None:
    number(name, value, 0, 1)
    if not 0 < value < 1:
        raise ValueError(f"{name} is a relative residual, between 0 and 1: not {value!r}")


def _is_basis(name: str, value: Any) -> None:
    if not is_count(value, 3):
        raise ValueError(f"{name} is a number of vectors, an integer of at least 3: not {value!r}")


def _is_radius(name: str, value: Any) -> None:
    Search(0.0 if value is None else value)


class _Found(NamedTuple):
    """What the next check begins with: the eigenvector, and by the parameters' names how the graph is cut off."""

    vector: Tensor | None
    cut_off: dict[tuple[str, ...], str]


@unassignable(
    line="it is the last record in a few words",
    seconds="the monitor counts them; load_state_dict() brings those of an earlier run",
    training_seconds="the monitor counts them; load_state_dict() brings those of an earlier run",
    overhead="it follows from the seconds; max_overhead limits it",
)
class Monitor:
    """Measures the Hessian norm, the SAM edge and the sharpness now and then, and leaves no trace on training.

    ::

        monitor = Monitor(optimizer, model, F.cross_entropy, [(x, y)], every=50, to="sharpness.jsonl")
        for batch in loader:
            ...
            optimizer.step()
            monitor.step()

    Weights, buffers, ``p.grad``, the optimizer's state and torch's random state are the same bits after a check as
    before. A check is made at the first step, so that what can't be measured is refused at once, and then at every
    ``every``-th, unless that would take checks beyond ``max_overhead``. It runs without the autocast that surrounds
    it, in the parameters' own type, and in the model's current mode.

    Under DistributedDataParallel (give the wrapper), the batches of all processes are measured together and every
    process gets the same figures: make and step the monitor in all of them. Sinks are served by the first process.

    Args:
        optimizer: whatever makes the steps; learning rate and rho are read from its ``param_groups`` at each check.
            Its parameters make up w; others of the model are constants. The edges are those of `torch.optim.SGD` with
            its momentum, and None for any other (`lowland.curvature.rates.Rates` says why).
        model: as it is trained, wrapped and compiled or not.
        loss_fn: ``loss_fn(model(x), y)`` gives the mean loss over a batch, a 0-d tensor.
        batches: the ``(x, y)`` to measure on, on the model's device, the same at every check: a list or a loader
            that can be iterated many times and gives the same examples each time.
        every: steps from one check to the next.
        max_overhead: the largest share of all time that checks may take; due ones are skipped until one more fits.
            The first is made in any case. None: none is skipped, and two runs check at the same steps.
        radius: ρ of the m-sharpness, by default the optimizer's.
        m: examples in a group of the m-sharpness, see `m_sharpness`; by default all are one group.
        ascent_steps: of the m-sharpness.
        tol: relative residual of the Hessian's principal eigenpair.
        max_basis: memory: 2 · ``max_basis`` vectors as long as w at most, 32 to begin with.
        weight: what a batch counts instead of ``len(x)``, as a function of ``(x, y)``.
        to: where records go beside `records`: the path of a JSONL file, a TensorBoard ``SummaryWriter``, a Weights &
            Biases run, a function ``sink(step, record)``, or a list of those.

    Attributes:
        records: a dict of plain numbers for each check.
        steps: calls of `step` so far.
        line: the last record in a few words, for a progress bar.

    A check that takes over two seconds says so on a terminal while it lasts. After the first one, if it took so long, a
    line on stderr says how long, and when the next is due.

    The arguments are attributes, too: assigned between checks, they take effect from the next on, checked as here.

    Raises:
        TypeError: for an optimizer without ``param_groups``, a generator as ``batches``, a ``to`` that is none of
            the above.
        ValueError: for numbers out of range, parameters in pieces (FSDP, tensor parallelism), an optimizer that has
            none of the model's, a path where something else than a monitor's records is; at the first check for a loss
            that is not the same twice.
        RuntimeError: for a check inside a pass of SAM, where the weights are not w.

    Warns:
        UserWarning: once, when loss, gradient or Hessian are not finite: that is recorded, and training goes on. Once,
            with the reason, when the eigenpair is not certified (``converged`` is False). Also when a record can't be
            written (OSError).
    """

    optimizer: Any = checked(_has_groups)
    every: int = checked(_is_every)
    m: int | None = checked(lambda name, value: check_m(value))
    radius: float | None = checked(_is_radius)
    ascent_steps: int = checked(count)
    tol: float = checked(_is_tolerance)
    max_basis: int = checked(_is_basis)
    batches: Iterable[Any] = checked(refuse_generator)

    def __init__(
        self,
        optimizer: Any,
        model: nn.Module,
        loss_fn: LossFn | None,
        batches: Iterable[Any],
        *,
        every: int = 100,
        max_overhead: float | None = 0.1,
        radius: float | None = None,
        m: int | None = None,
        ascent_steps: int = 1,
        tol: float = 1e-3,
        max_basis: int = 64,
        weight: Weight | None = None,
        to: Any = None,
    ):
        self._watch = Stopwatch(None)
        self.optimizer, self.loss_fn, self.batches, self.weight = optimizer, loss_fn, batches, weight
        self.every, self.max_overhead, self.tol, self.max_basis = every, max_overhead, tol, max_basis
        self.radius, self.m, self.ascent_steps = radius, m, ascent_steps
        self.model = model
        self.to = to
        self.records: list[Record] = []
        self.steps = self._skipped = 0
        self._begun = False
        self._warned: set[str] = set()
        self._found = _Found(None, {})

    def __repr__(self) -> str:
        """How far it is, and what it saw last."""
        last = f"; {self.line}" if self.line else ""
        return f"Monitor(step {self.steps}, {len(self.records)} records, every {self.every}{last})"

    @property
    def model(self) -> nn.Module:
        """As it is trained, without what DDP, DataParallel and `torch.compile` put around it."""
        return self._model

    @model.setter
    def model(self, value: nn.Module) -> None:
        refuse_other_models("model", value)
        model, wrapper, processes = unwrapped(value), ddp(value), None
        if wrapper is not None:
            refuse_synchronized_batch_norm(model)
            processes = DdpProcesses(wrapper.process_group, next(model.parameters()).device)
        self._device = self._objective(model, processes).device
        self._model, self._processes = model, processes

    @property
    def max_overhead(self) -> float | None:
        """The largest share of all time that checks may take."""
        return self._watch.budget

    @max_overhead.setter
    def max_overhead(self, value: float | None) -> None:
        if value is not None:
            number("max_overhead", value, 0, 1)
            if value == 0:
                raise ValueError("max_overhead is a share of all time, above 0 and at most 1: not 0")
        self._watch.budget = value

    @property
    def to(self) -> Any:
        """Where records go beside `records`, as it was given."""
        return self._to

    @to.setter
    def to(self, value: Any) -> None:
        self._sinks = sinks(value)
        self._to = value

    @property
    def seconds(self) -> float:
        """The seconds that all checks took together."""
        return self._watch.checks

    @property
    def training_seconds(self) -> float:
        """From the first call on, without the checks."""
        return self._watch.training

    @property
    def overhead(self) -> float:
        """The share of the checks in all time so far, 0 to 1."""
        return self._watch.share

    @property
    def line(self) -> str:
        """The last record in a few words, as ``‖H‖ 12.3 ± 0.01  edge 12.5  2/η 20``; empty before the first.

        After the first check it says so, and when the next is due.
        """
        if not self.records:
            return ""
        said = _line(self.records[-1])
        return f"{said}  ({self._first()})" if len(self.records) == 1 else said

    def _first(self) -> str:
        """``check took 12 s; next after about 40 s``, or at which step."""
        wait, due = self._watch.wait(), self.every - self.steps % self.every
        per_step = self._watch.training / max(self.steps - 1, 1)  # the clock runs from the first call on
        late = wait > due * per_step  # the budget, and not the number of steps, says when
        when = f"after about {_seconds(wait)}" if late else f"at step {self.steps + due}"
        return f"check took {_seconds(self._watch.last)}; next {when}"

    def step(self) -> Record | None:
        """Count a step, after ``optimizer.step()``; the record if a check was made."""
        self._refuse_passes()
        self._watch.start()
        self.steps += 1
        if self._begun:
            if self.steps % self.every:
                return None
            affordable = self._watch.affordable()
            if self._processes is not None:  # whose clocks differ
                affordable = self._processes.agree(affordable)
            if not affordable:
                self._skipped += 1
                return None
        return self.check()

    def check(self) -> Record:
        """Measure now, whatever is due and whatever it takes; the record."""
        self._refuse_passes()
        with self._watch.check(self._device), doing(f"checking sharpness at step {self.steps}"):
            with self._undisturbed():
                record = {"step": self.steps, **self._measure(), "skipped": self._skipped}
            record |= {"seconds": self._watch.elapsed, "training_seconds": self._watch.training}
            self._begun, self._skipped = True, 0
            self.records.append(record)
            if self._processes is None or self._processes.leads:
                self._send(record)
        if len(self.records) == 1 and self._watch.last > PATIENCE and not quiet():
            print(f"lowland: the first {self._first()}", file=sys.stderr, flush=True)
        return record

    def state_dict(self, records: bool = True) -> dict[str, Any]:
        """All that a resumed run needs to go on, in plain types and one tensor.

        Args:
            records: whether those so far are part of it.
        """
        own: dict[str, Any] = {
            "steps": self.steps,
            "skipped": self._skipped,
            "begun": self._begun,
            "vector": self._found.vector,
        }
        own["cut_off"] = [[list(names), how] for names, how in self._found.cut_off.items()]
        state = own | self._watch.state_dict()
        return state | ({"records": [dict(record) for record in self.records]} if records else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`. What a JSONL file holds of later steps is cut when the next record comes.

        Raises:
            ValueError: for anything else than a `state_dict` of a monitor, which stays as it is then.
        """
        _check_state(state_dict)
        self.steps, self._skipped, self._begun = (state_dict[name] for name in ("steps", "skipped", "begun"))
        vector = state_dict.get("vector")
        self._found = _Found(
            None if vector is None else vector.to(self._device),
            {tuple(names): how for names, how in state_dict.get("cut_off", [])},
        )
        self._watch.load_state_dict(state_dict)
        self.records = [dict(record) for record in state_dict.get("records", [])]
        for sink in self._sinks:
            if hasattr(sink, "resume"):
                sink.resume(self.steps)

    def _refuse_passes(self) -> None:
        under_way = getattr(self.optimizer, "under_way", None)
        if under_way is not None:
            raise RuntimeError(
                f"the monitor was called inside SAM's {under_way} pass, where weights and gradients are not those of "
                "a step: call it after optimizer.step()"
            )

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Run a check unaffected by the caller's autocast and inference mode."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            for kind in {"cpu", self._device.type}:
                stack.enter_context(torch.autocast(kind, enabled=False))
            try:
                yield
            finally:
                torch.clear_autocast_cache()  # of what a model that casts by itself has left there

    def _objective(self, model: nn.Module, processes: DdpProcesses | None) -> Objective:
        """Anew for each check: parameters may be frozen, thawed or added in the course of training."""
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        if set(params).isdisjoint(model.parameters()):
            raise ValueError("the optimizer has none of the model's parameters: is it that of another model?")
        return Objective(
            model, self.loss_fn, self.batches,
            weight=self.weight, params=params, processes=processes, seed=_SEED,
        )  # fmt: skip

    def _measure(self) -> Record:
        objective = self._objective(self.model, self._processes)
        now = rates(self.optimizer, objective)
        loss, gradient = objective.loss_and_gradient()
        norm = euclidean_norm(gradient).item()
        limits: Record = {"edge": None, "gd_edge": None if now.edge_lr is None else 2 / now.edge_lr}
        limits |= {"lr": now.lr, "momentum": now.momentum, "rho": now.rho}
        if not (math.isfinite(loss.item()) and math.isfinite(norm)):
            self._warn_of_divergence("the loss or its gradient is")
            return _blank(loss, norm) | limits
        try:
            measured = self._at_w(objective, loss, gradient, now)
        except FloatingPointError:
            self._warn_of_divergence("a product with the Hessian is")
            return _blank(loss, norm) | limits
        if now.rho is None:
            measured["sam_gradient_alignment"] = None
        elif now.edge_lr is not None:
            limits["edge"] = sam_edge(norm, now.edge_lr, now.rho)
        radius = now.rho if self.radius is None else self.radius
        rise = None
        if radius:
            search = Search(radius, self.ascent_steps, eps=self._eps)
            rise = mean_rise(objective, self.m, search, (loss, gradient))
        return measured | limits | {"m_sharpness": rise}

    def _at_w(self, objective: Objective, loss: Tensor, gradient: Tensor, now: Rates) -> Record:
        start = self._found.vector
        if start is not None and start.shape != gradient.shape:  # parameters came or went
            start = None
        hessian = Hessian.of(objective, self._found.cut_off.get(objective.names))
        wanted = Wanted(tol=self.tol, start=start, max_basis=self.max_basis)
        measured, pairs = at_w(hessian, (loss, gradient), wanted, rho=now.radii, eps=self._eps)
        self._found = _Found(pairs.vectors[0], {objective.names: hessian.cut_off()})
        if pairs.reason:
            self._warn("not certified", f"the Hessian norm at step {self.steps} is not certified: {pairs.reason}")
        return measured

    @property
    def _eps(self) -> float:
        return getattr(self.optimizer, "eps", EPS)

    def _send(self, record: Record) -> None:
        for sink in self._sinks:
            try:
                sink(record["step"], dict(record))
            except OSError as error:  # a full disk is no reason to lose the training
                warnings.warn(f"the record of step {record['step']} was not written: {error}", stacklevel=2)

    def _warn_of_divergence(self, what: str) -> None:
        self._warn(
            "not finite",
            f"{what} not finite at step {self.steps}: training has diverged. It is recorded, with no eigenpair.",
        )

    def _warn(self, kind: str, message: str) -> None:
        """Warn, once for each ``kind``."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=2)


def _check_state(state: Any) -> None:
    """Raise ValueError for what no monitor's `state_dict` has made."""
    seconds = ("check_seconds", "training_seconds", "last_check_seconds")
    right = (
        isinstance(state, Mapping)
        and all(is_count(state.get(name), 0) for name in ("steps", "skipped"))
        and isinstance(state.get("begun"), bool)
        and isinstance(state.get("vector"), Tensor | None)
        and all(isinstance(state.get(name), Real) for name in seconds)
        and all(isinstance(record, Mapping) for record in _listed(state.get("records", [])))
        and all(len(_listed(entry)) == 2 for entry in _listed(state.get("cut_off", [])))
    )
    if not right:
        raise ValueError(
            "this is not the state of a monitor: load_state_dict() takes what monitor.state_dict() gave, whole "
            "(that of the optimizer or the model is another)"
        )


def _listed(value: Any) -> Any:
    """A list or tuple as it is, anything else as one that is refused."""
    return value if isinstance(value, list | tuple) else [None]


def _blank(loss: Tensor, gradient_norm: float) -> Record:
    """The record of a check that found no eigenpair."""
    known = {"loss": loss.item(), "gradient_norm": gradient_norm, "products": 0, "converged": False}
    missing = ("hessian_norm", "residual", "gradient_alignment", "sam_gradient_alignment", "m_sharpness")
    return known | dict.fromkeys(missing)


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _line(record: Record) -> str:
    if record["hessian_norm"] is None:
        return f"loss {record['loss']:.4g}"
    parts = [f"‖H‖ {record['hessian_norm']:.4g} ± {record['residual']:.1g}"]
    if record["rho"] and record["edge"] is not None:  # without SAM it is the next
        parts.append(f"edge {record['edge']:.4g}")
    if record["gd_edge"] is not None:
        name = "edge without SAM" if record.get("momentum") else "2/η"
        parts.append(f"{name} {record['gd_edge']:.4g}")
    return "  ".join(parts)
