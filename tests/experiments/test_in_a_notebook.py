"""A notebook that defines an experiment, runs, sweeps and tunes it and looks at what came out, executed by a kernel."""

import re
import sys
from pathlib import Path

import pytest

from tests.training.own_file import NET

nbformat = pytest.importorskip("nbformat", reason="notebooks are executed with nbclient, nbformat and ipykernel")
nbclient = pytest.importorskip("nbclient", reason="notebooks are executed with nbclient, nbformat and ipykernel")
pytest.importorskip("ipykernel", reason="notebooks are executed with nbclient, nbformat and ipykernel")

pytestmark = pytest.mark.slow

DEFINE = f"""
import torch
from lowland import experiments
from lowland.experiments import Claim, Experiment, defaults, last, smaller, supervised

generator = torch.Generator().manual_seed(0)
x = torch.randn(120, 4, generator=generator)
y = (x.sum(1) > 0).long()

{NET}
def build(settings):
    return supervised(Net(settings.width), settings, (x[:60], y[:60]), (x[60:80], y[60:80]), (x[80:], y[80:]))

CLOUDS = Experiment(
    build=build,
    settings=defaults(lr=0.1, rho=0.05, batch_size=20, epochs=2, examples=60, width=3, seeds=2),
    claims=(Claim("lower", "SAM is better", "ours", "interval < 0", smaller("sam", "sgd", last("test_error")), True),),
)
"""
RUN = "run = experiments.run(CLOUDS)\nrun"
LOOK = "print(run.path, len(run.records), [c['id'] for c in run.claims])\nrun.frame().tail(2)"
SWEEP = "swept = experiments.sweep(CLOUDS, grid={'rho': [0, 0.1], 'seed': range(2)}, epochs=1)\nswept"
FIGURE = "next(iter(swept.figures.values()))"
TUNE = "print(experiments.tune(build, lr=0.1, rho=0.05, steps=4, width=3, grid={'rho': [0, 0.1]}, seeds=2))"
CHANGED = (
    "class Net(torch.nn.Linear):\n    def __init__(self, width):\n        super().__init__(4, 2)\n\n"
    "try:\n    experiments.run(CLOUDS)\nexcept Exception as error:\n    print(error)"
)
BROKEN = (
    "def broken(settings):\n    return 1 / 0\n\n"
    "experiments.run(Experiment(name='broken', build=broken, settings=defaults(lr=0.1, rho=0.1, steps=2)))"
)


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """The cells' outputs, executed in an empty folder."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PATH", str(Path(sys.prefix) / "share/jupyter"))

    def execute(*cells, **options):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        place = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=250, kernel_name="python3", resources=place, **options).execute()
        return [cell.outputs for cell in notebook.cells]

    return execute


def text(outputs):
    return "".join(output.get("text", "") for output in outputs if output.output_type == "stream")


def shown(outputs):
    """What the last line of a cell shows."""
    return next(output.data for output in reversed(outputs) if output.output_type == "execute_result")


def test_an_experiment_of_a_notebook_is_run_swept_tuned_and_looked_at(executed, tmp_path):
    _, run, look, sweep, figure, tune, changed, broken = executed(
        DEFINE, RUN, LOOK, SWEEP, FIGURE, TUNE, CHANGED, BROKEN, allow_errors=True
    )
    page = shown(run)["text/html"]
    for word in ("runs/clouds/laptop: a run of clouds", "<table>", "test_error", "lower", "data:image/png;base64,"):
        assert word in page
    assert "runs/clouds/laptop 12 ['lower']" in text(look)
    assert "test_error" in shown(look)["text/html"]  # a data frame
    assert "a sweep of clouds" in shown(sweep)["text/html"]
    assert "image/png" in shown(figure)
    assert "Best by validation error: rho = " in text(tune)
    assert (tmp_path / "runs/build").is_dir()
    assert "holds a run of other code (build has changed since)" in text(changed)
    (error,) = [output for output in broken if output.output_type == "error"]
    assert error.ename == "ZeroDivisionError"
    said = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    assert "return 1 / 0" in said
    assert "broken: build (broken) failed at a cell of the notebook, line 2: ZeroDivisionError" in said
    assert all(len(outputs) < 20 for outputs in (run, sweep, tune))  # the bar doesn't flood the notebook
