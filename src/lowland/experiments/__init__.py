"""Experiments, the papers' and one's own, in Python as on the command line."""

from lowland import papers  # noqa: F401 - the registry knows its experiments from here on
from lowland.training.registry import experiments as known
from lowland.training.registry import find

__all__ = ["find", "known"]
