"""Which command decides what a run leaves undecided."""

from dataclasses import replace

import pytest
import torch

from lowland.errors import SettingError
from lowland.papers import find
from lowland.training import Claim, Outcome, Verdict, configuration, ours, summarize
from lowland.training.deciding_command import decided_by
from lowland.training.settings import checked, values_of
from tests.fakes import TOY

UNDECIDED = Verdict(0.5, None, "2 seeds can't tell")
SCALES = {**TOY.scales, "desk": {"steps": ours(40)}}


def claimed(scale, changes=(), verdict=UNDECIDED, scales=SCALES, **more):
    claim = Claim("one", "A statement", "page 1", more.pop("threshold", "< 1"), lambda arms: verdict, **more)
    experiment = replace(TOY, scales=scales, claims=(claim,))
    settings = experiment.configure(scale, dict(changes))
    config = configuration(experiment, scale, settings, torch.device("cpu"))
    arms = {name: Outcome(each, [{"step": 0, "loss": 1.0}]) for name, each in settings.items()}
    return summarize(experiment, config, arms, torch.device("cpu"))["claims"][0]


RUN = f"lowland run {TOY.name} --scale"


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_below_the_deciding_scale_it_is_named_with_its_command(scale):
    assert claimed(scale)["decided_by"] == {"scale": "desk", "command": f"{RUN} desk"}
    longer = {**SCALES, "paper": {**SCALES["paper"], "steps": ours(50)}}
    assert claimed(scale, decided_by="paper", scales=longer)["decided_by"] == {
        "scale": "paper", "command": f"{RUN} paper"
    }  # fmt: skip
    # Of scales with the same settings the smallest is named.
    assert claimed(scale, decided_by="paper")["decided_by"] == {"scale": "desk", "command": f"{RUN} desk"}


def test_a_run_of_that_scale_has_nothing_better_to_name():
    assert claimed("desk")["decided_by"] is None
    assert claimed("desk", {"seed": "7"})["decided_by"] is None
    assert claimed("paper")["decided_by"] is None
    assert claimed("laptop", {"steps": "40"})["decided_by"] is None  # the same settings by another way


def test_a_shortened_run_is_told_of_the_whole_one():
    assert claimed("desk", {"steps": "2"})["decided_by"] == {
        "scale": "desk", "command": f"{RUN} desk", "changed": True,
    }  # fmt: skip


def test_what_is_studied_is_kept_and_sizes_are_not():
    changes = {"kind": "sgd", "noisy": "false", "steps": "2", "lr": "0.5", "seed": "7"}
    sets = " --set noisy=false --set kind=sgd"
    for scale in ("smoke", "laptop", "desk"):
        assert claimed(scale, changes)["decided_by"]["command"] == f"{RUN} desk{sets}"
    assert claimed("desk", {"kind": "sgd", "noisy": "false"})["decided_by"] is None


def test_the_other_dataset_is_decided_by_a_run_on_it():
    for name, changes, sets in (
        ("andriushchenko2022/finetune", {"dataset": "cifar-100"}, "dataset=cifar-100"),
        ("springer2024/domainbed", {"dataset": "pacs"}, "dataset=pacs"),
        ("springer2024/domainbed", {"measure": "transfer", "held_out": "15"}, "measure=transfer"),
    ):
        experiment = find(name)
        config = configuration(experiment, "laptop", experiment.configure("laptop", changes), torch.device("cpu"))
        command = f"lowland run {name} --scale desk --set {sets}"
        assert decided_by(experiment, experiment.claims[0], config) == {"scale": "desk", "command": command}


@pytest.mark.parametrize(("name", "says"), [("cifar10", "m-desk --scale desk"), ("cifar100", "m --scale paper")])
def test_error_against_m_is_decided_where_networks_with_group_norm_fit(name, says):
    experiment = find(f"andriushchenko2022/{name}")
    claim = next(claim for claim in experiment.claims if claim.id == "small-m")
    config = configuration(experiment, "laptop", experiment.configure("laptop", {}), torch.device("cpu"))
    found = decided_by(experiment, claim, config)
    assert found is not None
    assert found["command"] == f"lowland sweep {experiment.name} --grid {says}"
    assert claim.grid in experiment.grids


def test_a_sweep_at_that_scale_has_nothing_better_to_name_where_settings_follow_from_others():
    experiment = find("springer2024/domainbed")  # whose network, "auto", is another for each data set
    claim = experiment.claims[0]
    for changes, scale, says in (
        ({}, "desk", None),
        ({"dataset": "pacs"}, "desk", None),
        ({"dataset": "pacs"}, "laptop", " --set dataset=pacs"),
        ({"dataset": "pacs", "steps": 2}, "desk", " --set dataset=pacs"),
    ):
        values = {name: value.value for name, value in experiment.values(scale).items()}
        settings = values_of(checked(experiment.settings, {**values, **changes}))
        found = decided_by(experiment, claim, {"sweep": True, "scale": scale, "settings": settings})
        assert (found and found["command"]) == (says and f"lowland sweep {experiment.name} --scale desk{says}")


def test_without_that_scale_it_is_the_papers():
    assert claimed("laptop", scales=TOY.scales)["decided_by"] == {"scale": "paper", "command": f"{RUN} paper"}


def test_what_is_decided_or_only_reported_names_none():
    assert claimed("laptop", verdict=Verdict(0.5, True))["decided_by"] is None
    assert claimed("laptop", verdict=Verdict(2.0, False))["decided_by"] is None
    assert claimed("laptop", threshold=None)["decided_by"] is None


def test_what_a_grid_decides_names_its_sweep_at_every_scale():
    command = f"lowland sweep {TOY.name} --grid m --scale desk"
    for scale in ("laptop", "desk", "paper"):
        assert claimed(scale, grid="m")["decided_by"] == {"scale": "desk", "command": command}


@pytest.mark.parametrize("verdict", [Verdict(0.5, True), Verdict(2.0, False), Verdict(0.5, None, "of one seed")])
def test_below_the_regime_nothing_is_decided(verdict):
    entry = claimed("laptop", verdict=verdict, regime=lambda arms: "the training error is 0.67")
    assert (entry["passed"], entry["measured"], entry["reason"]) == (
        None,
        verdict.measured,
        "the training error is 0.67",
    )
    assert claimed("laptop", verdict=verdict, regime=lambda arms: "")["passed"] is verdict.passed


def test_a_scale_that_an_experiment_lacks_is_refused():
    with pytest.raises(SettingError, match=r"has no desk scale: choose smoke or laptop or paper"):
        TOY.values("desk")
    with pytest.raises(SettingError, match=r"unknown scale dsk.*desk"):
        find("long2024/digits").values("dsk")
