"""What a run directory says of the experiment, and of how far the run is."""

import json

import pytest
import torch

from lowland import training
from lowland.errors import RunError
from lowland.training.run_directory import read_progress
from tests.fakes import TOY

CPU = torch.device("cpu")


@pytest.fixture
def begun(tmp_path):
    """A run that pauses in the middle of its first arm, described."""
    arms = TOY.configure("smoke", {})
    with training.RunDirectory(tmp_path, training.configuration(TOY, "smoke", arms, CPU)) as directory:
        training.write_description(directory, training.description(TOY, "smoke", arms))
        training.train(TOY, arms, directory, CPU, show_progress=False, until=2)
    return tmp_path, arms


def test_it_says_what_was_asked_for(begun):
    path, arms = begun
    said = training.read_description(path)
    assert said["title"] == TOY.title
    assert said["steps"] == {name: settings.steps for name, settings in arms.items()}
    for name, value in TOY.values("smoke").items():
        assert (said["settings"][name]["value"], said["settings"][name]["origin"]) == (value.value, value.origin)
        assert said["settings"][name]["text"]
    assert [claim["id"] for claim in said["claims"]] == [claim.id for claim in TOY.claims]
    assert said["grid"] is None


def test_it_says_how_far_each_arm_is(begun):
    path, arms = begun
    first = next(iter(arms))
    assert read_progress(path)[first] == {"step": 2, "finished": False, "diverged_at": None}


def test_nothing_is_said_where_nothing_stands(tmp_path):
    assert training.read_description(tmp_path) is None
    assert read_progress(tmp_path) == {}


@pytest.mark.parametrize(
    ("file", "read"), [("about.json", training.read_description), ("progress.json", read_progress)]
)
def test_damage_is_one_line(begun, file, read):
    path, _ = begun
    content = json.loads((path / file).read_text())
    content[next(iter(content))] = 7
    (path / file).write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"is damaged .*: remove it"):
        read(path)
