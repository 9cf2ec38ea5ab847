"""The papers as experiments: every module ``papers/PAPER/NAME.py`` that defines ``EXPERIMENT`` is one."""

import pkgutil
from functools import cache
from importlib import import_module

from lowland.errors import SettingError, suggestion
from lowland.training import Experiment


@cache
def experiments() -> dict[str, Experiment]:
    """Every experiment by name, in alphabetical order."""
    found = {}
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        experiment = getattr(import_module(module.name), "EXPERIMENT", None)
        if experiment is not None:
            found[experiment.name] = experiment
    return dict(sorted(found.items()))


def find(name: str) -> Experiment:
    """The experiment of that name; SettingError with the nearest one if there is none."""
    if name not in experiments():
        raise SettingError(f"unknown experiment {name}.{suggestion(name, experiments())}")
    return experiments()[name]
