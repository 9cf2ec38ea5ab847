"""Experiments, the papers' and one's own: what it takes to write one, and to run it from Python."""

from lowland import papers  # noqa: F401 - the registry knows its experiments from here on
from lowland.experiments.tuning import Tuned, tune
from lowland.papers.claims import last, reached, smaller
from lowland.training import Claim, Experiment, Settings, defaults, supervised
from lowland.training.registry import experiments as known
from lowland.training.registry import find

__all__ = [
    "Claim",
    "Experiment",
    "Settings",
    "Tuned",
    "defaults",
    "find",
    "known",
    "last",
    "reached",
    "smaller",
    "supervised",
    "tune",
]
