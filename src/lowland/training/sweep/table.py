"""The table of a sweep: a row for each run; and its curves, a file for each."""

import csv
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from lowland.files import write_atomically
from lowland.training.files import write_json
from lowland.training.outcome import Outcome
from lowland.training.settings import values_of
from lowland.values import Json

_Cells = dict[str, Json]


def write_table(path: Path, outcomes: Mapping[str, Outcome], varied: Sequence[str]) -> None:
    """Write a CSV file with a row for each run, in the order of ``outcomes``.

    The columns: ``run``, its settings (those in ``varied`` first), ``status``, ``diverged_at``, ``stopped_at``,
    ``error``, what its last record says, and the seconds it took. A value that is missing or not finite is an empty
    cell. Numbers are written so that they read back as the same ones. A setting that has the name of one of the other
    columns (``run``, ``status``, ...) is called ``setting_`` and its name, an entry of a record that has the name of an
    earlier column ``last_`` and its name.

    A cell holds one value. An entry that is more than that in any run, a curve say, is no column: it is the file
    ``curves/NAME.json`` beside ``path``, an object with the value of each run that has one, by the run's name.
    """
    rows = [_row(label, outcome, varied) for label, outcome in outcomes.items()]
    _write_curves(path.parent / "curves", list(outcomes), [last for _, last, _ in rows])
    parts = [list(dict.fromkeys(key for row in rows for key in row[part])) for part in range(3)]
    head = parts[0] or ["run", *varied]
    names = [*head, *(f"last_{key}" if key in head else key for key in parts[1]), *parts[2]]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(values.get(key)) for keys, values in zip(parts, row, strict=True) for key in keys])
    write_atomically(path, text.getvalue().encode())


def _write_curves(folder: Path, labels: Sequence[str], records: Sequence[_Cells]) -> None:
    """Take out of ``records`` what no cell can hold, and write it to ``folder``."""
    names = sorted({key for record in records for key, value in record.items() if isinstance(value, list | dict)})
    for name in names:
        values = {label: record.pop(name, None) for label, record in zip(labels, records, strict=True)}
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{name}.json", {label: value for label, value in values.items() if value is not None})


def _row(label: str, outcome: Outcome, varied: Sequence[str]) -> tuple[_Cells, _Cells, _Cells]:
    """What a run was asked to do and what became of it, its last record, its seconds."""
    settings = values_of(outcome.settings)
    ended: _Cells = {
        "status": outcome.status,
        "diverged_at": outcome.diverged_at,
        "stopped_at": outcome.stopped_at,
        "error": outcome.error,
    }
    names = {name: f"setting_{name}" if name == "run" or name in ended else name for name in [*varied, *settings]}
    head: _Cells = {"run": label, **{column: settings[name] for name, column in names.items()}, **ended}
    last = {key: value for key, value in outcome.records[-1].items() if key != "arm"} if outcome.records else {}
    return head, last, dict(outcome.seconds)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)
