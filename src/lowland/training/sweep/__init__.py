"""Grids of runs: their points, the engines that train them, and what comes out."""
