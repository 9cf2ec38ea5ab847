"""Springer, Nagarajan & Raghunathan 2024, *SAM Enhances Feature Quality via Balanced Learning*.

``experiments`` has the four on images with two features, ``domainbed`` the one on domains, ``toy`` the two on points.
What they share: ``settings`` (values and grids, too), ``data``, ``methods``, ``task``, ``check``, ``claims``,
``figures``.
"""

PAPER = (
    "Springer, Nagarajan & Raghunathan 2024, Sharpness-Aware Minimization Enhances Feature Quality via Balanced "
    "Learning, International Conference on Learning Representations"
)
