"""Long & Bartlett 2024, *Sharpness-Aware Minimization and the Edge of Stability*."""

PAPER = (
    "Long & Bartlett 2024, Sharpness-Aware Minimization and the Edge of Stability, "
    "Journal of Machine Learning Research 25"
)
