"""Every table of the command line at 40, 80 and 200 columns, and in a pipe."""

import json
from pathlib import Path

import pytest

from lowland import wording
from lowland.commands import printing, run, sweep
from lowland.data import status
from lowland.papers import experiments
from lowland.training import RunDirectory
from lowland.training.experiment import SCALES

RESULTS = Path(__file__).parents[2] / "results"
WIDTHS = (None, 40, 80, 200)


@pytest.fixture(params=WIDTHS, ids=lambda width: f"{width} columns")
def width(request, monkeypatch):
    """A terminal of that width; none for None."""
    monkeypatch.setattr(printing, "_width", lambda: request.param)
    return request.param


def check(text, width, whole):
    """Every one of ``whole`` is in one line, and every line fits unless it is one thing that doesn't."""
    lines = text.splitlines()
    for one in whole:
        assert any(one in line for line in lines), one
    for line in lines:
        assert (
            width is None
            or len(line) <= width
            or len(line.split()) == 1
            or line in whole
            or line.startswith("  lowland ")
        ), line


def test_list(lowland, width):
    text = lowland("list").out
    datasets = {name for experiment in experiments().values() for name in experiment.datasets}
    check(text, width, [*experiments(), *datasets, *SCALES])
    if width is None:
        assert [line.split()[0] for line in text.splitlines() if "/" in line.split(" ")[0]] == list(experiments())


def test_show(lowland, width):
    for name, experiment in experiments().items():
        check(
            lowland("show", name).out,
            width,
            [name, *experiment.values("paper"), *experiment.arms, *(claim.id for claim in experiment.claims)],
        )


def test_data_status(lowland, width, monkeypatch, tmp_path):
    root = tmp_path / "a folder with spaces" / ("x" * 60)
    monkeypatch.setenv("LOWLAND_DATA", str(root))
    text = lowland("data", "status").out
    paths = [str(entry.path) for entry in status() if entry.path]
    check(text, width, [*paths, *(entry.name for entry in status()), "missing", "non-commercial"])


def test_run(capsys, width, tmp_path):
    for path in sorted(RESULTS.glob("*-laptop/summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        directory = RunDirectory(tmp_path / "a-long-name" / summary["experiment"], {})
        directory.figures.mkdir(parents=True)
        experiment = experiments()[summary["experiment"]]
        figure = directory.figures / f"{experiment.figures[0].name}.png"
        figure.touch()
        run._report(directory, experiment, summary)
        verdicts = {wording.VERDICTS[claim["passed"]] for claim in summary["claims"] if claim["threshold"]}
        rows = [row["name"] for row in summary.get("table", []) if row["measures"]]
        paths = [str(figure), str(directory.figures), str(directory.path / "summary.json")]
        commands = [f"  {by['command']}" for claim in summary["claims"] if (by := claim.get("decided_by"))]
        whole = [*(claim["id"] for claim in summary["claims"]), *verdicts, *rows, *paths, *commands]
        check(capsys.readouterr().out, width, whole)


def test_sweep(capsys, width, tmp_path):
    summary = json.loads((RESULTS / "andriushchenko2022-cifar10-m/sweep.json").read_text(encoding="utf-8"))
    directory = RunDirectory(tmp_path / "a-long-name-of-a-folder/sweep", {})
    sweep._report(directory, summary)
    verdicts = {wording.VERDICTS[claim["passed"]] for claim in summary["claims"]}
    paths = [str(directory.path / name) for name in ("results.csv", "figures", "summary.json")]
    check(capsys.readouterr().out, width, [*(claim["id"] for claim in summary["claims"]), *verdicts, *paths])


def test_lists_are_counted_in_tables():
    assert printing.short([0.0, 0.5, 1.0]) == "3 values"


def test_what_evaluate_measures(capsys, width):
    path = Path("a folder with spaces/andriushchenko2022/cifar10/laptop")
    printing.heading(path, "arm erm")
    whole = str(path)
    check(capsys.readouterr().out, width, [whole, "arm erm"])


def test_the_seeds_of_a_row_are_those_behind_its_means(capsys):
    means = {"loss": {"mean": 0.5, "standard_error": 0.1, "n": 4}}
    printing.print_rows({"table": [{"name": "sam", "runs": dict.fromkeys("01234", "a"), "measures": means}]})
    assert capsys.readouterr().out.splitlines()[-2].split() == ["sam", "4", "of", "5", "0.5", "±", "0.1"]


def test_runs_of_a_sweep_that_are_done_without_a_value_are_told(capsys, tmp_path):
    summary = json.loads((RESULTS / "andriushchenko2022-cifar10-m/sweep.json").read_text(encoding="utf-8"))
    summary["settings"][0]["metrics"][summary["selection"]["metric"]]["n"] = 2
    sweep._report(RunDirectory(tmp_path, {}), summary)
    first, second = capsys.readouterr().out.splitlines()[2:4]
    assert "3 done, 2 with a value" in first
    assert "3 done" in second
    assert "value" not in second
