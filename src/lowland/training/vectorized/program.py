"""Runs side by side, as the training loop drives them: a step and a check for all of them at once."""

import time
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.patience import doing
from lowland.training.claim_validation import claim_check
from lowland.training.drive import Drive, step_in
from lowland.training.experiment import Experiment
from lowland.training.files import Maybe, fault
from lowland.training.outcome import Outcome, Record, outcomes_of
from lowland.training.parallel import Alone
from lowland.training.progress import Watch, watched_by
from lowland.training.randomness import deterministic, random_state, restore_random_state
from lowland.training.run_directory import RunDirectory
from lowland.training.settings import Settings
from lowland.training.task import Check, Snapshot
from lowland.training.vectorized.alone import unlike
from lowland.training.vectorized.batches import VectorizedBatches
from lowland.training.vectorized.cost import Cost
from lowland.training.vectorized.runs import NotVectorizable, Runs
from lowland.training.vectorized.step import VectorizedStep
from lowland.values import State, StateDict, Tree

_LOOK_EVERY = 200  # steps between two looks at whether any run is left: each waits for the device


def train_vectorized(
    experiment: Experiment,
    arms: Mapping[str, Settings],
    directory: RunDirectory,
    device: torch.device,
    *,
    show_progress: bool = True,
    watch: Watch | None = None,
    until: int | None = None,
    without: Collection[str] = (),
    alike: int = 1,
) -> dict[str, Outcome]:
    """Train all ``arms`` as one program; each ends as it would alone, to rounding.

    The arguments are those of `lowland.training.run.train`, the arms equal in all but what `Experiment.grid` allows.
    Those in ``without`` are not trained any further, and stay as they are. ``alike`` is how many such programs are
    trained in this process, for whether compiling pays.

    Raises:
        NotVectorizable: if they can't be one program.
        RunError: for a directory that can't be used.
    """
    saved = directory.load(device) or {"arms": {}, "stacks": []}
    states: StateDict = saved["arms"]
    left = [name for name in arms if name not in without and not states.get(name, {}).get("finished")]
    with directory.taking_up():
        programs = saved["stacks"] = _parted(_known(saved["stacks"], arms), left) or [{"names": left}]
    total = sum(arms[name].steps for name in left)
    with watched_by(watch, total, show_progress) as shown, deterministic(device), experiment.calling("training"):
        for index, entry in enumerate(programs):
            paused = until is not None and entry.get("step", 0) >= until
            if set(entry["names"]) <= set(left) and left and not paused:
                program = SideBySide(experiment, arms, directory, device, saved, index, alike)
                if Drive(program, directory, shown, Alone(), look=claim_check(experiment, arms)).run(until):
                    shown.finish(sum(settings.steps for settings in program.arms.values()))
    return outcomes_of(arms, states, directory.records())


def _known(programs: State, arms: Mapping[str, Settings]) -> list[StateDict]:
    """The ``programs`` of a checkpoint; ValueError unless they are such, each run in one at most."""
    wrong = fault(programs, [{"names": [str], "step": Maybe(int)}], "stacks")
    names = [] if wrong else [name for entry in programs for name in entry["names"]]
    if wrong or len(set(names)) < len(names) or not set(names) <= set(arms):
        raise ValueError(wrong or "its programs have other runs")
    return list(programs)


def _parted(programs: list[StateDict], left: list[str]) -> list[StateDict]:
    """The ``programs`` of a checkpoint, those of which only some runs are ``left`` in two: all may be wanted again."""
    parted = []
    for entry in programs:
        kept = [index for index, name in enumerate(entry["names"]) if name in left]
        rest = [index for index, name in enumerate(entry["names"]) if name not in left]
        parted += [_taken(entry, part) if kept and rest else entry for part in (kept, rest) if part]
    return parted


def _taken(entry: StateDict, chosen: list[int]) -> StateDict:
    """Some of the runs of a program of a checkpoint."""
    indices = torch.tensor(chosen)

    def take(tensor: Tensor) -> Tensor:
        return tensor[indices.to(tensor.device)] if tensor.dim() else tensor  # the step is one for all

    return {
        **entry,
        "names": [entry["names"][index] for index in chosen],
        "runs": pytree.tree_map_only(Tensor, take, entry["runs"]),
        "checks": [entry["checks"][index] for index in chosen],
        "random": [entry["random"][index] for index in chosen] if entry["random"] else [],
        "seconds": {name: seconds * len(chosen) / len(entry["names"]) for name, seconds in entry["seconds"].items()},
    }


class SideBySide:
    """Those of the ``arms`` that the checkpoint ``saved`` has at an ``index``, as a `lowland.training.drive.Program`.

    The checkpoint is kept up to date.
    """

    def __init__(
        self,
        experiment: Experiment,
        arms: Mapping[str, Settings],
        directory: RunDirectory,
        device: torch.device,
        saved: StateDict,
        index: int,
        alike: int,
    ):
        self.saved, self.index = saved, index
        entry = saved["stacks"][index]
        self.arms = {name: arms[name] for name in entry["names"]}
        self.runs = Runs.prepare(experiment, list(self.arms.values()), device)
        self.name, self.show = f"{len(self.runs)} runs", self.runs.tasks[0].show
        self.batches = VectorizedBatches(self.runs.tasks)
        self.step = 0
        self.seconds = {"train_seconds": 0.0, "check_seconds": 0.0, "compile_seconds": 0.0}
        if "runs" in entry:
            with directory.taking_up():
                self._restore(entry)
        else:
            steps = next(iter(self.arms.values())).steps
            if found := unlike(self.runs, steps):
                raise NotVectorizable(found)
            steps *= alike
            self.compiled = Cost(self.runs, self.batches).pays_to_compile(steps, device)
        self._warm = set[int]()  # shapes of batches that a compiled step has seen

    @property
    def done(self) -> int:
        return self.step * len(self.runs)

    def train(self, most: int) -> None:
        """Train all runs for one step, whatever ``most`` allows."""
        started = time.monotonic()
        x, y, picked, shared = self.batches(self.step)
        rows = picked.shape[1] if picked is not None else _rows(x, shared)
        schedule = self.runs.tasks[0].schedule
        batch = (x, y, picked, shared, 1.0 if schedule is None else schedule(self.step))
        step = VectorizedStep.of(self.runs, rows, compiled=self.compiled)
        first = self.compiled and rows not in self._warm
        self._warm.add(rows)
        with doing("compiling") if first else nullcontext():
            right = not first or step.agrees(self.runs, *batch)
        if not right:
            warnings.warn("the compiler makes a wrong program of these runs; they are trained without it", stacklevel=2)
            self.compiled = False
            step = VectorizedStep.of(self.runs, rows, compiled=False)
        step(self.runs, *batch)
        self.step += 1
        self.seconds["compile_seconds" if first else "train_seconds"] += time.monotonic() - started

    def _alive(self) -> list[int]:
        """The runs that have not diverged."""
        return (self.runs.bad_step < 0).nonzero().flatten().tolist()

    def over(self) -> bool:
        """See `Program`; it looks now and then."""
        return self.step % _LOOK_EVERY == 0 and not self._alive()

    def wait(self) -> object:
        return self.runs.step.item()

    def check(self, record: Callable[[str, Record], None]) -> None:
        alive, names = self._alive(), list(self.arms)
        for run, measured in zip(alive, self._measure(alive), strict=True):
            if isinstance(measured, FloatingPointError):
                self.runs.bad_step[run] = self.step
            else:
                record(names[run], measured)

    def _measure(self, alive: list[int]) -> list[Record | FloatingPointError]:
        if not alive:
            return []
        task, together = self.runs.tasks[0], _together(self.runs)
        if together is None:
            return [self._measure_alone(run) for run in alive]
        x, y, shared = self.batches.together(self.step)
        chosen = torch.tensor(alive, device=self.runs.step.device)
        if not shared:
            x, y = pytree.tree_map(lambda tensor: tensor[chosen], (x, y))
        params = {name: param[chosen] for name, param in self.runs.params.items()}
        checks = [self.runs.tasks[run].check for run in alive]
        return together(checks, Snapshot(task.model, task.loss_fn, params, x, y, shared, self.step))

    def _measure_alone(self, run: int) -> Record | FloatingPointError:
        self.runs.of(run)
        before = random_state()
        restore_random_state(self.runs.random[run])
        try:
            return self.runs.tasks[run].check(self.step, self.batches.of(run, self.step))
        except FloatingPointError as error:
            return error
        finally:
            self.runs.random[run] = random_state()
            restore_random_state(before)

    def state(self, finished: bool) -> StateDict:
        share = {name: seconds / len(self.runs) for name, seconds in self.seconds.items()}
        for name, bad in zip(self.arms, self.runs.bad_step.tolist(), strict=True):
            ended = {"finished": finished, "diverged_at": bad if bad >= 0 else None, "step": self.step}
            self.saved["arms"][name] = share | ended
        self.saved["stacks"][self.index] = {
            "names": list(self.arms),
            "compiled": self.compiled,
            "step": self.step,
            "seconds": self.seconds,
            "runs": pytree.tree_map_only(Tensor, lambda t: t.detach().to("cpu", copy=True), self.runs.changing()),
            "checks": [task.check.state_dict() for task in self.runs.tasks],
            "random": self.runs.random if _together(self.runs) is None else [],
        }
        return {"arms": self.saved["arms"], "stacks": self.saved["stacks"]}

    def _restore(self, entry: StateDict) -> None:
        self.step, self.compiled = step_in(entry, next(iter(self.arms.values())).steps), bool(entry["compiled"])
        self.seconds = {name: float(entry["seconds"][name]) for name in self.seconds}
        self.runs.load(entry["runs"])
        for task, state in zip(self.runs.tasks, entry["checks"], strict=True):
            task.check.load_state_dict(state)
        if entry["random"]:
            self.runs.random = [entry["random"][run] for run in range(len(self.runs))]


def _together(runs: Runs) -> Callable[[list[Check], Snapshot], list[Record | FloatingPointError]] | None:
    """What measures several runs at once, if their checks have it."""
    return getattr(type(runs.tasks[0].check), "together", None)


def _rows(x: Tree, shared: bool) -> int:
    first = pytree.tree_leaves(x)[0]
    return int(first.shape[0] if shared else first.shape[1])
