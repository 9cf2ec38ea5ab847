"""Which jobs train what a grid still misses."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from lowland.errors import ExperimentError
from lowland.training.environment import choose_device
from lowland.training.experiment import Experiment
from lowland.training.settings import Settings
from lowland.training.sweep.directory import SweepPart, new_path
from lowland.training.sweep.job import Job


def plan(
    experiment: Experiment,
    scale: str,
    points: Mapping[str, Settings],
    parts: Sequence[SweepPart],
    directory: Path,
    device: str,
    vectorized: bool,
    threads: int | None = None,
) -> list[Job]:
    """The jobs that are left: first the parts that were begun, as they were; then new ones.

    Args:
        experiment: which.
        scale: of its settings.
        points: label → settings, all that is wanted.
        parts: what is there.
        directory: of the sweep.
        device: ``"cpu"`` or ``"cuda"``.
        vectorized: whether new jobs train several runs as one program.
        threads: of a process that trains such a program; by default this one's.

    Raises:
        NotVectorizable: if ``vectorized`` and they can't be.
        SettingError: if not even one run fits in memory.
    """
    wanted = set(points.values())
    there = {settings for part in parts for settings in part.arms.values()}
    begun = [
        Job(experiment, scale, part.arms, part.path.absolute(), device, part.vectorized, alike=part.alike)
        for part in parts
        if not part.finished and wanted & set(part.arms.values())
    ]
    new = []
    for group, alike in _groups(experiment, points, device, threads) if vectorized else _each(points):
        missing = {label: settings for label, settings in group.items() if settings not in there}
        if missing:
            new.append(Job(experiment, scale, missing, new_path(directory, missing), device, vectorized, alike=alike))
    return begun + new


def can_vectorize(experiment: Experiment, points: Mapping[str, Settings], device: str) -> str:
    """Why these runs had better not be trained as one program; empty if they had."""
    from lowland.training.vectorized import NotVectorizable, Runs, too_large, unlike

    chosen = choose_device(device)
    for program in _programs(points):
        failed = ""
        every = list(program.values())
        some = list(dict.fromkeys((every[0], every[len(every) // 2], every[-1])))
        try:
            with experiment.calling("training"):
                first = Runs.prepare(experiment, some[:1], chosen)
                reason = too_large(first, chosen)
                reason = reason or unlike(Runs.prepare(experiment, some, chosen, first), some[0].steps)
        except NotVectorizable as error:
            reason = error.why
        except ExperimentError as error:
            reason = failed = f"a step of several at once fails ({error})"
        if failed:  # not while the error is handled, which would be the context of the next
            _try_alone(experiment, next(iter(program.values())), chosen)
        if reason:
            return reason
    return ""


def _try_alone(experiment: Experiment, settings: Settings, device: torch.device) -> None:
    """One forward pass of a run by itself, whose errors speak of the shapes that the experiment has.

    Raises:
        ExperimentError: if it fails.
    """
    task = experiment.task(settings, device)
    x, y = task.batch(0)
    with experiment.calling("training"), torch.no_grad():
        task.loss_fn(task.model(x), y)


def fills_programs(experiment: Experiment, points: Mapping[str, Settings], device: str) -> bool:
    """Whether some runs that could be one program don't fit into one program: then each keeps a core busy by itself.

    Raises:
        NotVectorizable: if they can't be vectorized.
        SettingError: if not even one run fits in memory.
    """
    return any(count > 1 for _, count in _groups(experiment, points, device, None))


def _each(points: Mapping[str, Settings]) -> Iterator[tuple[Mapping[str, Settings], int]]:
    for label, settings in points.items():
        yield {label: settings}, 1


def _programs(points: Mapping[str, Settings]) -> list[dict[str, Settings]]:
    """Runs that are the same program together."""
    from lowland.training.vectorized import program_key

    programs: dict[object, dict[str, Settings]] = {}
    for label, settings in points.items():
        programs.setdefault(program_key(settings), {})[label] = settings
    return list(programs.values())


def _groups(
    experiment: Experiment, points: Mapping[str, Settings], device: str, threads: int | None
) -> Iterator[tuple[Mapping[str, Settings], int]]:
    """Programs of nearly equal size that fit in memory, each with how many of its kind there are.

    They follow from the whole grid and not from what is missing, so that a sweep that was interrupted is divided as
    it would have been.
    """
    from lowland.training.vectorized import Runs, chunk_size

    chosen = choose_device(device)
    for program in _programs(points):
        labels = list(program)
        with experiment.calling("training"):
            one = Runs.prepare(experiment, [program[labels[0]]], chosen)
            count = -(-len(labels) // chunk_size(one, chosen, threads))
        for index in range(count):
            part = labels[index * len(labels) // count : (index + 1) * len(labels) // count]
            yield {label: program[label] for label in part}, count
