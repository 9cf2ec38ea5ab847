"""Figures and pages, from run directories alone."""

from lowland.report.figures import draw

__all__ = ["draw"]
