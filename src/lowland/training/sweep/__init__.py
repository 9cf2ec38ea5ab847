"""Grids of runs: their points, the engines that train them, and what comes out."""

from lowland.training.sweep.grid import Grid, make_grid, read_grid
from lowland.training.sweep.here import here
from lowland.training.sweep.job import Engine, Job, News
from lowland.training.sweep.plan import can_stack
from lowland.training.sweep.sweep import sweep

__all__ = ["Engine", "Grid", "Job", "News", "can_stack", "here", "make_grid", "read_grid", "sweep"]
