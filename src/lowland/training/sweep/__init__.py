"""Grids of runs: their points, the engines that train them, and what comes out."""

from lowland.training.sweep.cluster import Ray
from lowland.training.sweep.directory import verify_parts
from lowland.training.sweep.grid import Grid, arms_beyond, make_grid, read_grid
from lowland.training.sweep.job import Job, News, SweepEngine, here
from lowland.training.sweep.plan import can_vectorize, fills_programs
from lowland.training.sweep.processes import Processes, no_processes, usable_cores
from lowland.training.sweep.sweep import common_rungs, sweep

__all__ = [
    "Grid",
    "Job",
    "News",
    "Processes",
    "Ray",
    "SweepEngine",
    "arms_beyond",
    "can_vectorize",
    "common_rungs",
    "fills_programs",
    "here",
    "make_grid",
    "no_processes",
    "read_grid",
    "sweep",
    "usable_cores",
    "verify_parts",
]  # fmt: skip
