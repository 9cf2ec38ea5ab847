"""How a run stands, from what its directory says of it."""

from collections.abc import Mapping, Sequence

from lowland.report.page.rounding import number
from lowland.report.page.shown import ShownRun
from lowland.training import Record
from lowland.values import Read


def summed_up(
    label: str,
    settings: Mapping[str, Read],
    records: Sequence[Record],
    end: Mapping[str, Read],
    description: Mapping[str, Read] | None,
) -> ShownRun:
    """A run of a finished directory.

    Args:
        label: its name.
        settings: its own.
        records: all of them.
        end: its entry among the metrics of the summary.
        description: of the directory.
    """
    step = records[-1]["step"] if records else 0
    ended_at = end["diverged_at"] if end["status"] == "diverged" else end.get("stopped_at")
    error = end.get("error") if end["status"] == "failed" else ""  # else it may be a column of that name
    return ShownRun(
        label,
        settings,
        records,
        end["status"],
        step,
        step,
        ended_at,
        str(error or ""),
        number(end.get("train_seconds")),
        _told(description, "gradients_a_step", label),
    )


def begun(
    label: str,
    settings: Mapping[str, Read],
    records: Sequence[Record],
    progress: Mapping[str, Read],
    description: Mapping[str, Read] | None,
) -> ShownRun:
    """A run of a directory that is under way.

    Args:
        label: its name.
        settings: its own.
        records: so far.
        progress: its entry in ``progress.json`` or ``ended.json``; empty where there is none.
        description: of the directory.
    """
    steps = _told(description, "steps", label) or _stated(settings)
    recorded = records[-1]["step"] if records else 0
    step = max(recorded, progress.get("step") or 0)
    diverged_at = progress.get("diverged_at")
    if diverged_at is not None:
        status = "diverged"
    elif progress.get("finished") or (steps is not None and records and recorded >= steps):
        status = "done"
    else:
        status = "under way" if records or progress else "waiting"
    gradients = _told(description, "gradients_a_step", label)
    return ShownRun(label, settings, records, status, step, steps, diverged_at, gradients_a_step=gradients)


def _told(description: Mapping[str, Read] | None, what: str, label: str) -> Read:
    """What the description says of a run; None where it says nothing."""
    return ((description or {}).get(what) or {}).get(label)


def _stated(settings: Mapping[str, Read]) -> int | None:
    steps = settings.get("steps")
    return steps if isinstance(steps, int) else None
