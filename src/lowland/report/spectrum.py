"""The figure of a Hessian's spectral density, as the papers have it."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from lowland.curvature import Spectrum
from lowland.report.canvas import COLOURS, legend_below, save, style

_BELOW = 10  # the axis ends at the height of a single eigenvalue over this


def draw_spectrum(
    spectra: Spectrum | Mapping[str, Spectrum],
    directory: str | os.PathLike[str],
    *,
    title: str = "Hessian",
    name: str = "spectrum",
) -> Path:
    """Draw the density of the eigenvalues on a logarithmic scale, as PNG and PDF.

    The figure of Ghorbani, Krishnan & Xiao 2019, *An Investigation into Neural Net Optimization via Hessian Eigenvalue
    Density*, and of Yao et al. 2020, *PyHessian*. A band is one standard error to either side. The axis ends at a tenth
    of what a single eigenvalue is high: below there is nothing but the tails of the smoothing.

    Args:
        spectra: what `Hessian.spectrum` gave, or several by their names, for one figure.
        directory: made if it doesn't exist.
        title: heading.
        name: of the files.

    Returns:
        The PNG file.

    Raises:
        TypeError: for what is no spectrum.
        ValueError: if there is nothing to draw, or more than there are colours.
    """
    from matplotlib.figure import Figure as Canvas

    named = spectra if isinstance(spectra, Mapping) else {"": spectra}
    if not 0 < len(named) <= len(COLOURS):
        raise ValueError(f"one figure shows between 1 and {len(COLOURS)} spectra, not {len(named)}")
    if others := [one for one in named.values() if not isinstance(one, Spectrum)]:
        raise TypeError(
            f"this draws what Hessian.spectrum() gave, or a dict of several, not a {type(others[0]).__name__}"
        )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with style():
        canvas = Canvas(figsize=(4.6, 3.2), layout="constrained")
        axis = canvas.subplots()
        bottom = min(1 / (s.size * s.width * math.sqrt(2 * math.pi)) for s in named.values()) / _BELOW
        handles = []
        for (label, one), colour in zip(named.items(), COLOURS, strict=False):
            density, error = one.density.value, one.density.standard_error
            if error is not None:
                low, high = (density - error).clamp(min=bottom), torch.maximum(density + error, density * 0 + bottom)
                axis.fill_between(one.grid, low, high, color=colour, alpha=0.2, linewidth=0)
            handles += axis.plot(one.grid, density.clamp(min=bottom / _BELOW), color=colour, label=label)
        axis.set_yscale("log")
        axis.set_ylim(bottom=bottom)
        axis.set_xlabel("eigenvalue")
        axis.set_ylabel("density")
        widths = " and ".join(dict.fromkeys(f"{one.width:.2g}" for one in named.values()))
        canvas.suptitle(f"spectrum ({title}), smoothed by {widths}", fontsize=10)
        legend_below(canvas, [handle for handle in handles if handle.get_label()] if len(named) > 1 else [])
        return save(canvas, directory, name)
