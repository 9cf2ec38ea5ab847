"""Experiment files to begin with: a whole one of our own, or one that starts from an experiment that there is."""

import json
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from lowland.errors import SettingError
from lowland.training import Experiment
from lowland.training.registry import find, module_of
from lowland.training.settings import Value, describe

_WIDTH = 110
_FROM = '''"""{title}: from {name}.

Every line below says what {name} says. Change what is to be another way; take out what is to stay.
"""

from dataclasses import replace

from {module} import {variable} as ORIGINAL
from lowland.training import ours, paper  # where a value comes from; `lowland show` prints it

{prepare}
EXPERIMENT = replace(
    ORIGINAL,
    name="{own}",
    title="{title}",{prepared}
    scales={{
        **ORIGINAL.scales,
        "laptop": {{  # as `lowland run` takes them, unless it is told another --scale
{values}
        }},
    }},
    arms={arms},  # what is compared: the settings that make each arm
    grid={grid},  # what `lowland sweep` trains
    claims=ORIGINAL.claims,  # () for none
)
'''
_PREPARE = '''
def prepare(settings, device):
    """What one arm trains: a lowland.training.Task, whose parts may be replaced by others."""
    task = ORIGINAL.prepare(settings, device)
    # task.model, task.loss_fn, task.optimizer, task.batch, task.check
    return task

'''


def write_new(path: Path, start: str | None = None) -> None:
    """Write an experiment file, which `lowland run` runs as it is.

    Args:
        path: of the file; its name is the experiment's.
        start: name of the experiment to start from; None for a small one on digits.

    Raises:
        SettingError: for a path that doesn't end in ``.py``, lies in no folder, or is taken; for an unknown name.
    """
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise SettingError(f"the file is called by a word and .py, as my_experiment.py, not {path.name!r}")
    if not path.parent.is_dir():
        raise SettingError(f"there is no folder {path.parent}: make it, or choose another place")
    if start is not None and ".py" in start:
        raise SettingError(f"--from takes the name of an experiment, as `lowland list` prints it; copy {start} itself")
    text = _template() if start is None else _derived(find(start), path.stem)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SettingError(f"{path} is there already: choose another name, or remove it") from None


def _template() -> str:
    return files("lowland.experiments").joinpath("template.py").read_text(encoding="utf-8")


def _derived(experiment: Experiment, own: str) -> str:
    """The text of a file that imports ``experiment`` and says all that is usually changed."""
    module = module_of(experiment)
    variable = next(name for name, value in vars(sys.modules[module]).items() if value is experiment)
    texts = describe(experiment.settings)
    scale = "laptop" if "laptop" in experiment.scales else "paper"
    values = [_line(f"            {_literal(key)}: {_origin(value)},", texts[key])
              for key, value in experiment.values(scale).items()]  # fmt: skip
    text = _FROM.format(
        name=experiment.name,
        title=experiment.title.replace('"', "'"),
        module=module,
        variable=variable,
        own=own,
        prepare=_PREPARE if experiment.prepare is not None else "",
        prepared="\n    prepare=prepare," if experiment.prepare is not None else "",
        values="\n".join(values),
        arms=_entries(experiment.arms),
        grid=_entries(experiment.grid),
    )
    return text.replace('"laptop"', f'"{scale}"') if scale != "laptop" else text


def _line(text: str, comment: str) -> str:
    """``text`` with a comment, if there is room for it."""
    return f"{text}  # {comment}" if len(text) + len(comment) < _WIDTH else text


def _origin(value: Value) -> str:
    note = f", {_literal(value.note)}" if value.note else ""
    return f"{'paper' if value.origin == 'paper' else 'ours'}({_literal(value.value)}{note})"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _entries(mapping: Mapping[str, object]) -> str:
    lines = [f"\n        {_literal(key)}: {_literal_in(value)}," for key, value in mapping.items()]
    return f"{{{''.join(lines)}\n    }}" if lines else "{}"


def _literal_in(value: object) -> str:
    """A dictionary or tuple of plain values."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_literal, value)) + ("," if len(value) == 1 else "") + ")"
    return _literal(value)
