"""Means over seeds, of the runs that have one."""

from statistics import fmean

import pytest

from lowland.papers import find
from lowland.papers.andriushchenko2022.methods import errors_at_best, over_seeds
from lowland.training import Outcome


def test_means_are_of_the_seeds_that_ended():
    settings = find("andriushchenko2022/cifar10").configure("smoke", {})["erm"]
    ends = [{"test_error": 0.2}, {"test_error": 0.4}, {"test_error": None}, {"test_error": 0.9}]
    arms = {
        f"erm-{k}": Outcome(settings, [{"step": 0, "test_error": 1.0}, {"step": 4, **end}])
        for k, end in enumerate(ends)
    }
    arms["erm-3"] = Outcome(settings, arms["erm-3"].records, diverged_at=3)
    digest = over_seeds(("erm", "sam"))(arms)["over_seeds"]
    assert digest["sam"] == {}
    assert digest["erm"]["test_error"] == {"mean": pytest.approx(0.3), "standard_error": pytest.approx(0.1), "n": 2}
    assert set(digest["erm"]) == {"test_error"}


def test_equal_means_are_equal_whatever_their_rounding():
    experiment = find("andriushchenko2022/cifar10")
    errors = {0.1: (0.1, 0.2, 0.3), 0.2: (0.2, 0.2, 0.2)}
    assert fmean(errors[0.1]) != fmean(errors[0.2])  # by their rounding
    for low, high in ((0.1, 0.2), (0.2, 0.1)):
        losses = {low: 0.5, high: 0.9}
        arms = {}
        for rho, validation in errors.items():
            for seed, error in enumerate(validation):
                settings = experiment.configure("smoke", {"rho": rho, "seed": seed})["sam"]
                end = {"validation_error": error, "validation_loss": losses[rho], "test_error": rho}
                arms[f"{rho}-{seed}"] = Outcome(settings, [{"step": 4, **end}])
        assert errors_at_best(arms, "sam") == (low, dict.fromkeys(range(3), low))
