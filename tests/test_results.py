"""The page of recorded runs says what is there."""

import importlib.util
import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent.parent / "results"


@pytest.fixture(scope="module")
def make_index():
    spec = importlib.util.spec_from_file_location("make_index", RESULTS / "make_index.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_index_is_up_to_date(make_index):
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == make_index.index()


def test_recorded_runs_are_of_the_settings_that_the_experiments_have_now(make_index):
    from lowland.papers import experiments
    from lowland.training.settings import values_of

    recorded = list(RESULTS.glob("*/summary.json"))
    assert recorded
    for path in recorded:
        summary = json.loads(path.read_text(encoding="utf-8"))
        experiment = experiments()[summary["experiment"]]
        arms = experiment.configure(summary["scale"], {"seed": str(summary["seed"])})
        assert {name: values_of(arm) for name, arm in arms.items()} == summary["config"]["arms"], path
        assert [claim["id"] for claim in summary["claims"]] == [claim.id for claim in experiment.claims], path
        drawn = {figure.name for figure in experiment.figures}
        if all(getattr(arm, "eigenvalues", 0) == 1 for arm in arms.values()):
            drawn -= {"eigenvalues"}  # of one eigenvalue there is the Hessian norm's figure
        for name in drawn:
            assert (path.parent / f"{name}.png").exists(), path.parent / name
