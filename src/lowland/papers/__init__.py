"""The papers as experiments: all that are variables of modules ``papers/PAPER/NAME.py``."""

import pkgutil
from functools import cache

from lowland.errors import SettingError, suggestion
from lowland.training import Experiment, registry

#: What the costs that these experiments state are of.
COSTS_ARE_OF = (
    "Times on cores are of an AMD EPYC processor with AVX-512 and bfloat16 instructions; a range reaches from a free "
    "core to a busy one. Older processors take longer. Times on an H100 are estimated."
)


@cache
def experiments() -> dict[str, Experiment]:
    """Every experiment by name, in alphabetical order."""
    found: dict[str, Experiment] = {}
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        found |= registry.load(module.name)
    return dict(sorted(found.items()))


def find(name: str) -> Experiment:
    """The experiment of that name; SettingError with the nearest one if there is none."""
    if name not in experiments():
        raise SettingError(f"unknown experiment {name}.{suggestion(name, experiments())}")
    return experiments()[name]


registry.add_source(experiments)
