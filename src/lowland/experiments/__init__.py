"""Experiments, the papers' and one's own: what it takes to write one, and to run it from Python."""

from lowland import papers  # noqa: F401 - the registry knows its experiments from here on
from lowland.experiments.calls import run, sweep
from lowland.experiments.result import Picture, Result
from lowland.experiments.result import open_directory as open
from lowland.experiments.summary import Summary
from lowland.experiments.tuning import Tuned, tune
from lowland.papers.claims import last, reached, smaller
from lowland.training import Claim, Experiment, Selection, Settings, defaults, supervised
from lowland.training.registry import experiments as known
from lowland.training.registry import find

__all__ = [
    "Claim",
    "Experiment",
    "Picture",
    "Result",
    "Selection",
    "Settings",
    "Summary",
    "Tuned",
    "defaults",
    "find",
    "known",
    "last",
    "open",
    "reached",
    "run",
    "smaller",
    "supervised",
    "sweep",
    "tune",
]
