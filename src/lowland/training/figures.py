"""The figures of Long & Bartlett 2024, for whoever has records of the edge of stability: their columns and styles."""

from collections.abc import Mapping, Sequence

from lowland.training.drawing import Curve, Figure
from lowland.values import Read

AT_EDGE = 0.9  # of its edge: a Hessian norm that gets so far has reached it


def arrival(records: Sequence[Mapping[str, Read]], edge: str = "edge") -> tuple[int | None, float]:
    """The step at which the Hessian norm first reaches the column ``edge``, or None; and the most that it is of it.

    0 where no record has both.
    """
    found = [(each["step"], each["hessian_norm"], each.get(edge)) for each in records if each.get("hessian_norm")]
    ratios = {step: norm / limit for step, norm, limit in found if limit}
    step = next((step for step, ratio in ratios.items() if ratio >= AT_EDGE), None)
    return step, max(ratios.values(), default=0.0)


def not_at_edge(runs: Sequence[Sequence[Mapping[str, Read]]]) -> str:
    """``hasn't reached its edge (0.15 of it at most)``; empty of runs that have, or whose edge isn't known.

    ``runs``: the records of each seed.
    """
    found = [arrival(records) for records in runs]
    short = [most for step, most in found if step is None and most]
    if not short:
        return ""
    who = (
        "hasn't reached its edge"
        if len(short) == len(runs)
        else f"{len(short)} of {len(runs)} haven't reached their edge"
    )
    return f"{who} ({max(short):.2g} of it at most)"


_NORM, _EDGE = Curve("hessian_norm", "Hessian norm", "-"), Curve("edge", "SAM edge", "--")
_GD_EDGE = Curve("gd_edge", "2/η", ":")  # before SAM's: of equal curves the first is drawn, which at ρ = 0 is this
_OVER = ("rho", "lr")  # rows and columns, as in the paper
_EDGES = ("edge", "gd_edge")
EDGE_OF_STABILITY = (
    Figure(
        "hessian-norm",
        "Hessian norm and the edge of stability",
        "Hessian norm",
        (_NORM, _GD_EDGE, _EDGE),
        over_grid=_OVER,
        against=_EDGES,
        note=not_at_edge,
    ),
    Figure(
        "hessian-norm-sam-edge",
        "Hessian norm and the SAM edge",
        "Hessian norm",
        (_NORM, _EDGE),
        over_grid=_OVER,
        against=_EDGES[:1],
        note=not_at_edge,
    ),
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
        against=("gradient_alignment",),
    ),
    Figure("loss", "Training loss", "loss", (Curve("loss", "loss", "-"),), over_grid=_OVER),
)
SHARPNESS = Figure("sharpness", "m-sharpness", "rise of the loss", (Curve("m_sharpness", "m-sharpness", "-"),))
