"""The panels that curves are drawn in: those of the experiments' figures, and one for each other column."""

from collections.abc import Mapping, Sequence

from lowland.report.page.shown import ShownDirectory
from lowland.values import JsonObject, Read

_DASHES = {"--": "dash", "-.": "dashdot", ":": "dot"}


def panels_of(sources: Sequence[ShownDirectory], columns: Mapping[str, str]) -> list[JsonObject]:
    """Panels as data: title, label of the vertical axis, whether that is logarithmic (None: as values suit), curves.

    Figures without any recorded column are left out, and so are columns that are a figure of their own.
    """
    found: dict[tuple[str, ...], JsonObject] = {}
    for source in sources:
        for figure in source.description["figures"] if source.description else []:
            curves = [
                {"column": curve["column"], "label": curve["label"], "dash": _dash(curve["style"])}
                for curve in figure["curves"]
                if curve["column"] in columns
            ]
            if curves:
                panel = {"title": figure["title"], "ylabel": figure["ylabel"], "log": figure["log"], "curves": curves}
                found.setdefault(tuple(curve["column"] for curve in curves), panel)
    for column, label in columns.items():
        curve = {"column": column, "label": label, "dash": "solid"}
        alone = {"title": label, "ylabel": label, "log": None, "curves": [curve]}
        found.setdefault((column,), alone)
    return list(found.values())


def first_open(panels: Sequence[Mapping[str, Read]]) -> list[int]:
    """The panels that are drawn at first: the first, and the first other one that has a loss or an error."""
    told = [
        index
        for index, panel in enumerate(panels)
        if index and any(word in curve["column"] for curve in panel["curves"] for word in ("loss", "error"))
    ]
    return [0, *told[:1]] if panels else []


def _dash(style: str) -> str:
    return next((dash for sign, dash in _DASHES.items() if style.startswith(sign)), "solid")
