"""What a run or sweep is about, in words, for readers of its directory who don't have the experiment's code."""

from collections.abc import Mapping
from pathlib import Path

from lowland.training.drawing import Figure
from lowland.training.experiment import Experiment
from lowland.training.files import NUMBER, Each, Maybe, Shape, read_json, write_json
from lowland.training.run_directory import RunDirectory
from lowland.training.settings import Settings, describe
from lowland.values import Json, JsonObject

_CURVE: Shape = {"column": str, "label": str, "style": str}
_SHAPE: Shape = {
    "title": str,
    "paper": str,
    "settings": Each({"text": str, "value": object, "origin": str, "note": str}),
    "arms": Each(Each(object)),
    "steps": Each(int),
    "gradients_a_step": Maybe(Each(NUMBER)),
    "columns": Each(str),
    "figures": [{"name": str, "title": str, "ylabel": str, "curves": [_CURVE], "log": bool}],
    "claims": [{"id": str, "text": str, "source": str, "threshold": Maybe(str), "reference": Maybe(dict)}],
    "selection": Maybe({"metric": str, "on": str}),
    "grid": Maybe({"varied": [str], "points": Each(Each(object))}),
}


def description(
    experiment: Experiment, scale: str, arms: Mapping[str, Settings], grid: Mapping[str, Json] | None = None
) -> dict[str, Json]:
    """The content of ``about.json``.

    Args:
        experiment: which.
        scale: of its settings.
        arms: name → settings; of a sweep its points.
        grid: of a sweep: the settings that vary, and their values at each point.
    """
    texts = describe(experiment.settings)
    chosen = experiment.selection
    return {
        "title": experiment.title,
        "paper": experiment.paper,
        "settings": {
            name: {"text": texts.get(name, ""), "value": value.value, "origin": value.origin, "note": value.note}
            for name, value in experiment.values(scale).items()
        },
        "arms": {name: dict(fixed) for name, fixed in experiment.arms.items()},
        "steps": {name: settings.steps for name, settings in arms.items()},
        "gradients_a_step": {name: settings.gradients_a_step for name, settings in arms.items()},
        "columns": {curve.column: curve.label for curve in experiment.outcomes},
        "figures": [_figure(figure) for figure in experiment.figures if isinstance(figure, Figure)],
        "claims": [
            {
                "id": claim.id, "text": claim.text, "source": claim.source, "threshold": claim.threshold,
                "reference": None if claim.reference is None else claim.reference.entry(),
            }
            for claim in experiment.claims
        ],
        "selection": None if chosen is None else {"metric": chosen.metric, "on": chosen.on},
        "grid": None if grid is None else dict(grid),
    }  # fmt: skip


def _figure(figure: Figure) -> dict[str, Json]:
    curves = [{"column": curve.column, "label": curve.label, "style": curve.style} for curve in figure.curves]
    return {"name": figure.name, "title": figure.title, "ylabel": figure.ylabel, "curves": curves, "log": figure.log}


def write_description(directory: RunDirectory, content: Mapping[str, Json]) -> None:
    """Write what `description` says into a run or sweep directory that this process holds."""
    directory.still_held()
    write_json(directory.path / "about.json", dict(content))


def read_description(path: Path) -> JsonObject | None:
    """What stands in the directory ``path``; None if nothing does, as in those of earlier versions.

    Raises:
        RunError: if it is damaged.
        OSError: if it can't be read.
    """
    file = path / "about.json"
    return read_json(file, _SHAPE, "remove it; what the run is about is then unknown") if file.exists() else None
