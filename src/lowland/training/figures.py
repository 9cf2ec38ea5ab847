"""The figures of Long & Bartlett 2024, for whoever has records of the edge of stability: their columns and styles."""

from lowland.training.drawing import Curve, Figure

_NORMS = (
    Curve("hessian_norm", "Hessian norm", "-"),
    Curve("edge", "SAM edge", "--"),
    Curve("gd_edge", "2/η", ":"),
)
_OVER = ("rho", "lr")  # rows and columns, as in the paper
EDGE_OF_STABILITY = (
    Figure("hessian-norm", "Hessian norm and the edge of stability", "Hessian norm", _NORMS, over_grid=_OVER),
    Figure("hessian-norm-sam-edge", "Hessian norm and the SAM edge", "Hessian norm", _NORMS[:2], over_grid=_OVER),
    Figure(
        "alignment",
        "Alignment with the principal eigenvector v",
        "|cos|",
        (
            Curve("gradient_alignment", "gradient at w", "-"),
            Curve("sam_gradient_alignment", "gradient at w + ε (SAM)", "--"),
        ),
        log=False,
        over_grid=_OVER,
    ),
    Figure("loss", "Training loss", "loss", (Curve("loss", "loss", "-"),), over_grid=_OVER),
)
SHARPNESS = Figure("sharpness", "m-sharpness", "rise of the loss", (Curve("m_sharpness", "m-sharpness", "-"),))
