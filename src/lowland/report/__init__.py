"""Figures, drawn from run directories and records alone."""

from lowland.report.monitor import draw_monitor
from lowland.report.run import draw, draw_run
from lowland.report.spectrum import draw_spectrum
from lowland.report.sweep import draw_sweep

__all__ = ["draw", "draw_monitor", "draw_run", "draw_spectrum", "draw_sweep"]
