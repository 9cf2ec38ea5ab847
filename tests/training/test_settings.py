"""Settings: every value checked for name, type and range; each change reaches the arms it applies to."""

import pytest

from lowland.errors import SettingError
from lowland.training.settings import check, parse_assignments, resolve_arms
from tests.fakes import TOY, Settings


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("lr", "0.5", 0.5), ("lr", 1, 1.0), ("steps", "1e3", 1000), ("steps", 7.0, 7), ("noisy", "False", False),
     ("kind", "sgd", "sgd"), ("seed", "2147483647", 2147483647)],
)  # fmt: skip
def test_reads_values(name, text, value):
    assert check(Settings, name, text) == value
    assert type(check(Settings, name, text)) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rho", "-0.1", "at least 0"), ("rho", "nan", "finite"), ("rho", "inf", "finite"), ("rho", "x", "a number"),
        ("lr", "0", "at least 1e-30"), ("lr", "1e39", "at most"), ("seed", "1e22", "at most"),
        ("steps", "1.5", "whole number"), ("steps", "0", "at least 1"), ("steps", True, "whole number"),
        ("steps", "nan", "whole number"), ("steps", "inf", "whole number"), ("noisy", "1", "true or"),
        ("kind", "adm", "Did you mean adam"), ("rhoo", "1", "Did you mean rho"),
    ],
)  # fmt: skip
def test_refuses(name, text, message):
    with pytest.raises(SettingError, match=message):
        check(Settings, name, text)


def test_assignments():
    assert parse_assignments(["lr=0.1", "gd.lr = 3"]) == {"lr": "0.1", "gd.lr": "3"}
    with pytest.raises(SettingError, match="lr is given twice"):
        parse_assignments(["lr=1", "lr=2"])
    for bad in ("lr", "=1", "lr="):
        with pytest.raises(SettingError, match="key=value"):
            parse_assignments([bad])


def test_changes_reach_the_arms_that_leave_the_setting_open():
    arms = TOY.configure("paper", {"rho": "0.7", "lr": "0.2", "plain.lr": "0.3", "sam.seed": "9"})
    assert (arms["sam"].rho, arms["sam"].lr, arms["sam"].seed) == (0.7, 0.2, 9)
    assert (arms["plain"].rho, arms["plain"].lr, arms["plain"].seed) == (0.0, 0.3, 3)
    assert TOY.configure("laptop", {})["sam"].steps == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"sm.lr": "1"}, "unknown arm sm. Did you mean sam"), ({"lrr": "1"}, "Did you mean lr")],
)
def test_refuses_changes(changes, message):
    with pytest.raises(SettingError, match=message):
        TOY.configure("paper", changes)


def test_a_setting_that_every_arm_fixes():
    values = {name: value.value for name, value in TOY.values("paper").items()}
    with pytest.raises(SettingError, match=r"as in a\.rho="):
        resolve_arms(Settings, values, {"a": {"rho": 0.0}, "b": {"rho": 0.1}}, {"rho": "0.3"})


def test_unknown_scale():
    with pytest.raises(SettingError, match="Did you mean laptop"):
        TOY.configure("labtop", {})
