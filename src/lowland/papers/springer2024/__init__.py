"""Springer, Nagarajan & Raghunathan 2024, *SAM Enhances Feature Quality via Balanced Learning*."""

PAPER = (
    "Springer, Nagarajan & Raghunathan 2024, Sharpness-Aware Minimization Enhances Feature Quality via Balanced "
    "Learning, International Conference on Learning Representations"
)
