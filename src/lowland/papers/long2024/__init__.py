"""Long & Bartlett 2024, *Sharpness-Aware Minimization and the Edge of Stability*."""
