"""Which jobs train what a grid still misses."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lowland.training.environment import choose_device
from lowland.training.experiment import Experiment
from lowland.training.settings import Settings
from lowland.training.sweep.job import Job
from lowland.training.sweep.parts import Part, new_path


def plan(
    experiment: Experiment,
    scale: str,
    points: Mapping[str, Settings],
    parts: Sequence[Part],
    directory: Path,
    device: str,
    stacked: bool,
) -> list[Job]:
    """The jobs that are left: first the parts that were begun, as they were; then new ones.

    Args:
        experiment: which.
        scale: of its settings.
        points: label → settings, all that is wanted.
        parts: what is there.
        directory: of the sweep.
        device: ``"cpu"`` or ``"cuda"``.
        stacked: whether new jobs train several runs as one program.

    Raises:
        NotStackable: if ``stacked`` and they can't be.
        SettingError: if not even one run fits in memory.
    """
    wanted = set(points.values())
    there = {settings for part in parts for settings in part.arms.values()}
    begun = [
        Job(experiment, scale, part.arms, part.path.absolute(), device, part.stacked)
        for part in parts
        if not part.finished and wanted & set(part.arms.values())
    ]
    missing = {label: settings for label, settings in points.items() if settings not in there}
    groups = _stacks(experiment, missing, device) if stacked else [{label: s} for label, s in missing.items()]
    return begun + [Job(experiment, scale, arms, new_path(directory, arms), device, stacked) for arms in groups]


def can_stack(experiment: Experiment, points: Mapping[str, Settings], device: str) -> str:
    """Why these runs had better not be trained as one program; empty if they had."""
    from lowland.training.stacked import NotStackable, Runs, chunk_size, program_key

    firsts = {program_key(settings): settings for settings in points.values()}
    for settings in firsts.values():
        try:
            size = chunk_size(Runs.prepare(experiment, [settings], choose_device(device)), choose_device(device))
        except NotStackable as error:
            return error.why
        if size == 1:
            return "one run alone fills the memory that a stack may have"
    return ""


def _stacks(experiment: Experiment, points: Mapping[str, Settings], device: str) -> list[dict[str, Settings]]:
    """Runs that are the same program together, in stacks of nearly equal size that fit in memory."""
    from lowland.training.stacked import Runs, chunk_size, program_key

    programs: dict[object, dict[str, Settings]] = {}
    for label, settings in points.items():
        programs.setdefault(program_key(settings), {})[label] = settings
    stacks = []
    for arms in programs.values():
        first = next(iter(arms.values()))
        most = chunk_size(Runs.prepare(experiment, [first], choose_device(device)), choose_device(device))
        count = -(-len(arms) // most)
        labels = list(arms)
        for index in range(count):
            chosen = labels[index * len(labels) // count : (index + 1) * len(labels) // count]
            stacks.append({label: arms[label] for label in chosen})
    return stacks
