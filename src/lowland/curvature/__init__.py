"""Measurements of curvature and sharpness, each with a bound or an estimate of its error."""

from lowland.curvature.alignment import alignment
from lowland.curvature.average_case import average_sharpness
from lowland.curvature.estimates import Sampled
from lowland.curvature.gauss_newton import GaussNewton
from lowland.curvature.groups import Sharpness
from lowland.curvature.hessian import Hessian
from lowland.curvature.lanczos import Eigenpairs
from lowland.curvature.line import AlongLine, along_line
from lowland.curvature.monitor import Monitor
from lowland.curvature.objective import Objective
from lowland.curvature.quadrature import Spectrum
from lowland.curvature.sinks import read_jsonl
from lowland.curvature.stability import Stability, stability
from lowland.curvature.vectorized import stability_of_stack
from lowland.curvature.worst_case import m_sharpness, sharpness
from lowland.edges import rho_for_sharpness, sam_edge, sharpness_for_rho

__all__ = [
    "AlongLine",
    "Eigenpairs",
    "GaussNewton",
    "Hessian",
    "Monitor",
    "Objective",
    "Sampled",
    "Sharpness",
    "Spectrum",
    "Stability",
    "alignment",
    "along_line",
    "average_sharpness",
    "m_sharpness",
    "read_jsonl",
    "rho_for_sharpness",
    "sam_edge",
    "sharpness",
    "sharpness_for_rho",
    "stability",
    "stability_of_stack",
]
