"""The first sentences of the page: what was selected, what SAM changed, what became of the claims."""

import re
from dataclasses import replace

import pytest

from lowland.report.page import write_page
from lowland.report.page.answer import answers_of
from lowland.report.page.claims import ShownClaim, claims_of
from lowland.report.page.reading import read_source
from lowland.training import Curve, Selection

from . import made

VARIED = ("lr", "rho", "seed")
EXPERIMENT = replace(made.EXPERIMENT, selection=Selection("loss", "training", test="error"), claims=())


def told(answer):
    return f"{answer.text}: {answer.verdict}" if answer.verdict else answer.text


def ending(outcomes, errors):
    """``outcomes`` with the last errors of those labels that start so, by seed."""
    for start, values in errors.items():
        for seed, error in enumerate(values):
            label = f"{start},seed={seed}"
            records = outcomes[label].records
            outcomes[label] = replace(outcomes[label], records=[*records[:-1], {**records[-1], "error": error}])
    return outcomes


def of_sweep(tmp_path, errors, experiment=EXPERIMENT, **grid):
    outcomes = ending(made.grid(**grid), errors)
    return answers_of(read_source(made.sweep(tmp_path, outcomes, VARIED, experiment=experiment)))


def test_a_sweep_says_what_is_best_and_what_sam_changes_on_test_data(tmp_path):
    # Differences -0.03, -0.01, -0.05: mean -0.03, standard error 0.01155, Student's factor 4.303 for three seeds.
    errors = {"lr=1.0,rho=0.1": (0.10, 0.12, 0.14), "lr=1.0,rho=0.0": (0.13, 0.13, 0.19)}
    (answer,) = of_sweep(tmp_path, errors)
    assert told(answer) == (
        "Best settings by training loss: η = 1, ρ = 0.1. It lies at the end of the grid in η: a wider grid may have a "
        "better one. The best with SAM (η = 1, ρ = 0.1) has a test error 0.03 lower than the best without (95 % "
        "interval of the difference -0.0797 to 0.0197, 3 seeds): undecided"
    )


@pytest.mark.parametrize(
    ("with_sam", "said"),
    [((0.10, 0.12, 0.11), "SAM lowers it"), ((0.30, 0.32, 0.31), "SAM raises it"), ((0.20, 0.20, 0.30), "undecided")],
)
def test_the_verdict_is_that_of_the_whole_interval(tmp_path, with_sam, said):
    errors = {"lr=1.0,rho=0.1": with_sam, "lr=1.0,rho=0.0": (0.20, 0.21, 0.22)}
    (answer,) = of_sweep(tmp_path, errors)
    assert answer.verdict == said


def test_without_test_data_it_says_which_data_chose(tmp_path):
    (answer,) = of_sweep(tmp_path, {}, replace(EXPERIMENT, selection=Selection("loss", "training")))
    assert "a training loss" in answer.text
    assert "the best without, on the data that chose them" in answer.text


def test_one_setting_is_named_once_and_one_seed_decides_nothing(tmp_path):
    outcomes = made.grid(lrs=(1.0,), seeds=(0,))
    source = read_source(made.sweep(tmp_path, outcomes, ("rho", "seed"), experiment=EXPERIMENT))
    (answer,) = answers_of(source)
    assert answer.text.startswith("Best ρ by training loss: 0.1. The best with SAM (ρ = 0.1) has")
    assert answer.text.endswith("(one seed has no interval)")
    assert answer.verdict == "undecided"


def test_a_grid_without_sam_compares_nothing(tmp_path):
    (answer,) = of_sweep(tmp_path, {}, rhos=(0.0,))
    assert told(answer) == (
        "Best settings by training loss: η = 1, ρ = 0. It lies at the end of the grid in η: a wider grid may have a "
        "better one."
    )


def test_a_difference_of_rounding_is_none(tmp_path):
    same = (0.1 + 0.2, 0.3, 0.3)
    (answer,) = of_sweep(tmp_path, {"lr=1.0,rho=0.1": same, "lr=1.0,rho=0.0": (0.3, 0.1 + 0.2, 0.3)})
    assert answer.text.endswith("has a test error the same as the best without (no interval: the same of all 3 seeds)")
    assert answer.verdict == "undecided"


def test_a_run_says_what_became_of_its_claim(tmp_path):
    (answer,) = answers_of(read_source(made.run(tmp_path, made.arms())))
    assert answer.text == "The claim learns holds: 0.1083, and it holds if < 1."


def test_a_run_without_claims_says_what_lies_between_its_arms(tmp_path):
    arms = made.arms()
    for name, error in (("sam", 0.10), ("plain", 0.13)):
        records = [{**record, "test_error": error} for record in arms[name].records]
        arms[name] = replace(arms[name], records=records)
    experiment = replace(EXPERIMENT, outcomes=(Curve("test_error", "test error"),))
    (answer,) = answers_of(read_source(made.run(tmp_path, arms, experiment=experiment)))
    assert told(answer) == "sam has a test error 0.03 lower than plain (one seed has no interval): undecided"


def test_nothing_is_said_of_what_is_under_way(tmp_path):
    assert answers_of(read_source(made.run(tmp_path, made.arms(), finished=False))) == []


def claim(id_, verdict, reason="", **more):
    return ShownClaim(id_, "", "", "< 1", "", verdict, reason=reason, **more)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        (
            [claim("a", "holds", measured="0.5", at="rho = 0.1 (selected)", over_grid="holds at 2 of 2 points")],
            "The claim a holds at rho = 0.1 (selected): 0.5, and it holds if < 1. "
            "Over the grid: holds at 2 of 2 points.",
        ),
        ([claim("a", "undecided", "why")], "The claim a is undecided (why)."),
        ([claim("a", "holds"), claim("b", "holds")], "Both claims hold."),
        ([claim(name, "holds") for name in "abc"], "All 3 claims hold."),
        (
            [claim(name, "undecided", "smoke runs judge no claims") for name in "abc"],
            "All 3 claims are undecided: smoke runs judge no claims.",
        ),
        (
            [claim("a", "holds"), claim("b", "fails"), *(claim(name, "undecided") for name in "cdefg")],
            "Of 7 claims 1 holds, 1 fails (b) and 5 are undecided (c, d, e and 2 more).",
        ),
    ],
)
def test_several_claims_are_counted_and_those_that_do_not_hold_named(tmp_path, monkeypatch, claims, said):
    monkeypatch.setattr("lowland.report.page.answer.claims_of", lambda source: claims)
    (answer,) = answers_of(read_source(made.run(tmp_path, made.arms())))
    assert answer.text == said


def test_a_sweeps_claim_is_that_at_the_selected_settings(tmp_path):
    two = made.sweep(tmp_path / "two", made.grid(lrs=(1.0,), rhos=(0.1,), seeds=(0, 1)), VARIED)
    (claim,) = claims_of(read_source(two))
    assert (claim.at, claim.over_grid) == ("lr = 1, rho = 0.1 (selected)", "holds at 2 of 2 points")


def test_the_page_names_what_got_worse_than_where_it_began(tmp_path):
    arms = made.arms()
    worse = [{**record, "loss": 1.0 + record["step"]} for record in arms["plain"].records]
    run = made.run(tmp_path / "worse", arms | {"plain": replace(arms["plain"], records=worse)})
    write_page([run], tmp_path / "page.html")
    said = "Worse than where it began, with a higher loss at the end than before the first step: plain (1, then 41)."
    assert said in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert read_source(made.run(tmp_path / "fine", arms)).worsened == ""
    later = replace(arms["plain"], records=worse[1:])  # nothing was measured before its first step
    assert later.worsened is None
    assert replace(arms["plain"], records=worse, diverged_at=45).worsened is None


def test_the_page_tells_a_trend_with_and_without_the_largest_rho(tmp_path):
    sweep = made.sweep(tmp_path / "sweep", made.grid(rhos=(0.0, 0.1, 0.2, 0.4, 9.0)), VARIED)
    write_page([sweep], tmp_path / "page.html")
    [trend] = re.findall(r"<p class=\"note\">(Trend of training loss[^<]*)</p>", (tmp_path / "page.html").read_text())
    assert trend.startswith("Trend of training loss with ρ, over all: +")
    assert "; without the largest ρ, 9: +" in trend
