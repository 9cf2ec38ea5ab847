"""Instruments: what SAM acts on, measured, each figure with how wrong it can be."""

from lowland.curvature.edge import alignment, sam_edge
from lowland.curvature.hessian import Hessian
from lowland.curvature.lanczos import Eigenpairs
from lowland.curvature.objective import Objective
from lowland.curvature.stability import Stability, stability

__all__ = ["Eigenpairs", "Hessian", "Objective", "Stability", "alignment", "sam_edge", "stability"]
