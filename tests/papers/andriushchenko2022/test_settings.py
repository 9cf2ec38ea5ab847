"""What follows from the settings of the networks on images, and what is refused."""

import pytest

from lowland.errors import SettingError
from lowland.papers import find
from lowland.papers.andriushchenko2022 import late
from lowland.training.settings import values_of


def configure(changes=None, name="cifar10", scale="paper"):
    return find(f"andriushchenko2022/{name}").configure(scale, changes or {})


def test_an_epoch_drops_what_is_left_over():
    sam = configure()["sam"]
    assert sam.steps == 200 * (45_000 // 128)
    assert sam.check_every == 5 * (45_000 // 128)
    assert "steps" not in values_of(sam)


def test_laptop_has_an_arm_for_each_seed():
    arms = configure(scale="laptop", changes={"seed": "10"})
    assert [(name, arm.seed, arm.rho > 0) for name, arm in arms.items()] == [
        (f"{kind}-{k}", 10 + k, kind != "erm") for kind in ("erm", "sam", "n-sam", "random") for k in range(2)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ascent_examples": "45001"},
            "ascent_examples is 45001, and there are 45000 training images: .* at most 45000",
        ),
        ({"m": "0"}, "at least 1"),
        ({"rho": "-1"}, "at least 0"),
        ({"rho": "nan"}, "finite"),
        ({"batch_size": "50000"}, "smaller batch_size"),
        ({"norm": "group", "width": "17"}, "even, not 17"),
        ({"steps": "5"}, "unknown setting steps"),
        ({"schedule": "step"}, "schedule"),
        ({"examples": "60000"}, "at most 50000"),
        ({"average": "1"}, "at most"),
    ],
)
def test_what_does_not_go_is_refused(changes, message):
    with pytest.raises(SettingError, match=message):
        configure(changes)


def test_groups_need_an_ascent_along_the_batch():
    for norm in ("group", "batch"):
        assert configure({"m": "48", "norm": norm})["sam"].per_example
    assert not configure({"m": "48"})["n-sam"].per_example
    assert not configure({"m": "48"})["random"].per_example
    assert not configure({"m": "48", "norm": "group"})["erm"].per_example
    assert not configure({"m": "1000"})["sam"].per_example


def test_groups_follow_one_another_where_batch_norms_statistics_move_in_each_pass():
    both = {"m": "48", "statistics": "both"}
    assert configure(both)["sam"].group_after_group
    assert not configure({**both, "norm": "group"})["sam"].group_after_group
    assert not configure({**both, "m": "128"})["sam"].group_after_group
    assert not configure(both)["erm"].group_after_group


@pytest.mark.parametrize("noise", ["-0.1", "1.1"])
def test_noise_is_a_fraction(noise):
    with pytest.raises(SettingError, match="noise"):
        configure({"noise": noise}, "label-noise")


def test_a_finished_first_training_takes_no_steps():
    arms = configure({"start": "runs/cifar10"}, "finetune")
    assert arms["erm"].steps == arms["sam"].steps == 0
    assert arms["erm-to-sam"].steps == 100 * 351


def test_the_paper_tunes_for_a_hundred_epochs_after_a_thousand():
    arms = configure({}, "finetune")
    assert [arms[name].trained_epochs for name in ("erm", "sam", "erm-to-sam", "sam-to-erm")] == [1000, 1000, 100, 100]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune_share": "0"}, "between 0 and 1, not to 0"),
        ({"tune_share": "1"}, "between 0 and 1, not to 1"),
        ({"tune_share": "-0.5"}, "between 0 and 1"),
        ({"tune_share": "1.5"}, "between 0 and 1"),
        ({"tune_share": "1e-6"}, "leaves one of the two trainings none"),
        ({"tune_rho": "0"}, "above 0"),
        ({"start": "runs/cifar10", "dataset": "cifar-100"}, "start is a run of andriushchenko2022/cifar10"),
        ({"dataset": "mnist"}, "dataset can't be"),
        ({"line_from": "0.5"}, "at most 0"),
        ({"line_until": "0.5"}, "at least 1"),
    ],
)
def test_tuning_refuses_what_does_not_go(changes, message):
    with pytest.raises(SettingError, match=message):
        configure(changes, "finetune")


def test_late_sam_begins_and_ends_where_its_arm_says():
    arms = configure({"epochs": "4", "examples": "200", "batch_size": "18", "ascent_examples": "100"}, "late", "smoke")
    assert arms["sam"].steps == 40
    on = {name: [step for step in range(40) if late.radius(arm)(step) > 0] for name, arm in arms.items()}
    assert on == {
        "erm": [],
        "sam": list(range(40)),
        "first-half": list(range(20)),
        "second-half": list(range(20, 40)),
        "last-tenth": list(range(36, 40)),
    }
    with pytest.raises(SettingError, match="set sam_until above sam_from"):
        configure({"last-tenth.sam_until": "0.5"}, "late")
