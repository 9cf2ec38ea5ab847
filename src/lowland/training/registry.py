"""The registry of experiments: each is pickled by its name, and found again by it in another process."""

import copyreg
import sys
from collections.abc import Callable
from importlib import import_module

from lowland.errors import SettingError
from lowland.training.experiment import Experiment

_modules: dict[str, str] = {}  # name of an experiment → the module that defines it


def load(module: str) -> dict[str, Experiment]:
    """Import a module and register its experiments: those that are variables of it, by name."""
    found = {value.name: value for value in vars(import_module(module)).values() if isinstance(value, Experiment)}
    _modules.update(dict.fromkeys(found, module))
    return found


def _recall(name: str, module: str) -> Experiment:
    found = load(module)
    if name not in found:
        raise SettingError(f"{module} has no experiment {name}: make it a variable of that module")
    return found[name]


def _by_name(experiment: Experiment) -> tuple[Callable[[str, str], Experiment], tuple[str, str]]:
    """How an experiment is pickled: not by value, because its judges are closures."""
    return _recall, (experiment.name, _modules.get(experiment.name) or _module_of(experiment))


def _module_of(experiment: Experiment) -> str:
    """A module that has it as a variable, else the one of what prepares it: there is what it was made from."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and any(value is experiment for value in list(getattr(module, "__dict__", {}).values())):
            return name
    build = experiment.prepare or experiment.together
    assert build is not None
    return build.__module__


copyreg.pickle(Experiment, _by_name)
