"""Grids of made-up runs, whose statistics are known beforehand."""

from dataclasses import replace
from itertools import product

from lowland.training import Outcome
from tests.fakes import TOY

SETTINGS = TOY.configure("paper", {})["sam"]


def run(*, diverged_at=None, stopped_at=None, error="", seconds=None, steps=(0, 40), settings=SETTINGS, **final):
    """A run whose last record holds ``final``."""
    records = [{"arm": "x", "step": step, **final} for step in steps]
    return Outcome(settings, records, diverged_at, seconds or {}, stopped_at, error)


def grid(value, **axes):
    """Runs at every point of ``axes``: ``value(**point)`` gives the keywords of `run`, or None to leave it out."""
    arms = {}
    for values in product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        what = value(**point)
        if what is not None:
            label = ",".join(f"{name}={one}" for name, one in point.items())
            arms[label] = run(settings=replace(SETTINGS, **point), **what)
    return arms
