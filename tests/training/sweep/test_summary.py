"""The summary of a sweep: known grids, known answers."""

import json
import math
from dataclasses import replace

import pytest
import torch

from lowland.training import Selection
from lowland.training.files import finite
from lowland.training.sweep.cells import cells_of
from lowland.training.sweep.selection import select
from lowland.training.sweep.summary import summarize_sweep
from tests.fakes import TOY

from .grids import grid

VARIED = ("lr", "rho", "seed")
SELECTION = Selection(metric="score", on="validation", ties="loss", test="test_error")


def summary(arms, selection=SELECTION, varied=VARIED, **changes):
    experiment = replace(TOY, selection=selection, claims=(), **changes)
    got = summarize_sweep(experiment, {"scale": "paper"}, arms, varied, torch.device("cpu"), 4.0)
    json.dumps(finite(got), allow_nan=False)
    return got


def chosen(arms, selection=SELECTION, varied=VARIED):
    return summary(arms, selection, varied)["selection"]


def usual(lr, rho, seed):
    """The best: lr 0.2, rho 0.1, where the score is 0.05, 0.06, 0.07."""
    return {"score": round(abs(lr - 0.2) + abs(rho - 0.1) + 0.05 + 0.01 * seed, 6), "loss": 1.0, "test_error": rho}


def usual_grid(change=lambda lr, rho, seed: {}):
    def value(lr, rho, seed):
        changed = change(lr=lr, rho=rho, seed=seed)
        return None if changed is None else {**usual(lr, rho, seed), **changed}

    return grid(value, lr=[0.1, 0.2], rho=[0.0, 0.1], seed=[0, 1, 2])


def test_the_lowest_mean_over_seeds_with_all_that_is_said_of_it():
    got = chosen(usual_grid())
    assert got["selected"] == {"lr": 0.2, "rho": 0.1}
    assert got["runs"] == [f"lr=0.2,rho=0.1,seed={seed}" for seed in range(3)]
    assert (got["mean"], got["standard_error"], got["n"]) == (pytest.approx(0.06), pytest.approx(0.01 / 3**0.5), 3)
    assert got["interval_95"] == pytest.approx([0.06 - 4.302653 * 0.01 / 3**0.5, 0.06 + 4.302653 * 0.01 / 3**0.5])
    assert (got["test"]["metric"], got["test"]["mean"], got["test"]["standard_error"]) == ("test_error", 0.1, 0.0)
    assert [entry["settings"] for entry in got["differences"]] == [
        {"lr": 0.1, "rho": 0.0}, {"lr": 0.1, "rho": 0.1}, {"lr": 0.2, "rho": 0.0}
    ]  # fmt: skip
    assert [entry["difference"]["mean"] for entry in got["differences"]] == pytest.approx([0.2, 0.1, 0.1])
    by_rho = got["by_rho"]
    assert by_rho["without_sam"]["settings"] == {"lr": 0.2, "rho": 0.0}
    assert by_rho["with_sam"]["settings"] == {"lr": 0.2, "rho": 0.1}
    assert by_rho["difference"]["mean"] == pytest.approx(-0.1)  # paired: the seeds' own spread is gone
    assert by_rho["difference"]["standard_error"] == pytest.approx(0, abs=1e-12)
    assert by_rho["difference"]["n"] == 3
    assert by_rho["test_difference"]["mean"] == pytest.approx(0.1)


def test_the_rule_says_what_data_it_looks_at():
    assert "measured on validation data." in chosen(usual_grid())["rule"]
    training = chosen(usual_grid(), Selection("score", "training"))
    assert "on training data, because the experiment holds none out" in training["rule"]
    assert "the lower mean" not in training["rule"]
    assert training["test"]["mean"] is None
    assert "nothing on test data" in training["test"]["reason"]


def test_test_data_never_tempt_the_selection():
    first = chosen(usual_grid())
    tempted = chosen(usual_grid(lambda lr, rho, seed: {"test_error": -100 * lr if lr == 0.1 else 1e9 + seed}))
    assert tempted["selected"] == first["selected"] == {"lr": 0.2, "rho": 0.1}
    assert tempted["by_rho"]["without_sam"] == first["by_rho"]["without_sam"]
    assert tempted["test"]["mean"] == pytest.approx(1e9 + 1)
    missing = chosen(usual_grid(lambda lr, rho, seed: {"test_error": math.nan}))
    assert missing["selected"] == first["selected"]
    assert (missing["test"]["mean"], missing["test"]["n"]) == (None, 0)
    assert "no run of the selected settings" in missing["test"]["reason"]


@pytest.mark.parametrize("metric", ["test_error", "Test loss", "test"])
def test_selecting_by_test_data_is_refused(metric):
    with pytest.raises(ValueError, match="test data"):
        Selection(metric=metric, on="validation")
    with pytest.raises(ValueError, match="test data"):
        Selection(metric="loss", on="validation", ties=metric)
    with pytest.raises(ValueError, match="not on 'test'"):
        Selection(metric="loss", on="test")


@pytest.mark.parametrize(
    "spoiled", [{"diverged_at": 3}, {"stopped_at": 20}, {"error": "lost"}, {"score": math.nan}, {"score": None}]
)
def test_one_bad_seed_rules_settings_out(spoiled):
    got = chosen(usual_grid(lambda **point: spoiled if point == {"lr": 0.2, "rho": 0.1, "seed": 2} else {}))
    assert got["selected"] == {"lr": 0.1, "rho": 0.1}  # equal to lr 0.2, rho 0, and earlier in the grid
    left_out = next(entry for entry in got["differences"] if entry["settings"] == {"lr": 0.2, "rho": 0.1})
    assert left_out["difference"]["n"] == 2


def test_settings_with_fewer_seeds_than_others_are_ruled_out():
    got = chosen(usual_grid(lambda **point: None if point == {"lr": 0.2, "rho": 0.1, "seed": 2} else {}))
    assert got["selected"] == {"lr": 0.1, "rho": 0.1}


def test_ties_go_by_the_second_metric_then_by_the_order_of_the_grid():
    def tied(lr, rho, seed):
        return {"score": 0.1 + 0.1 * seed, "loss": 0.5 if rho else 0.7}

    arms = grid(tied, lr=[0.1, 0.2], rho=[0.0, 0.1], seed=[0, 1, 2])
    assert chosen(arms)["selected"] == {"lr": 0.1, "rho": 0.1}
    assert chosen(arms, Selection("score", "validation"))["selected"] == {"lr": 0.1, "rho": 0.0}
    assert chosen(arms, Selection("score", "validation", ties="unheard_of"))["selected"] == {"lr": 0.1, "rho": 0.0}
    backwards = dict(reversed(arms.items()))
    assert chosen(backwards, Selection("score", "validation"))["selected"] == {"lr": 0.2, "rho": 0.1}


@pytest.mark.parametrize(
    ("ties", "losses", "decides"),
    [
        (None, {}, "the earlier in the grid is taken"),
        ("loss", {0.1: 0.4}, "the lowest mean loss decides"),
        ("loss", {}, "the earlier in the grid is taken"),
        ("loss", {0.1: 0.4, 0.2: 0.4}, "the lowest mean loss decides, and of equals in that the earlier in the grid is "
                                       "taken"),
    ],
)  # fmt: skip
def test_ties_are_said_with_what_decided(ties, losses, decides):
    def alike(rho, seed):
        score = 0.1 + 0.2 if rho == 0.1 else 0.3  # the same but for rounding
        return {"score": 0.5 if rho == 0.4 else score, "loss": losses.get(rho, 0.5)}

    arms = grid(alike, rho=[0.0, 0.1, 0.2, 0.4], seed=[0, 1])
    got = chosen(arms, Selection("score", "validation", ties=ties), varied=("rho", "seed"))
    others = [rho for rho in (0.0, 0.1, 0.2) if rho != got["selected"]["rho"]]
    assert got["tied"]["settings"] == [{"rho": rho} for rho in others]
    named = ", ".join(f"{rho:g}" for rho in others)
    assert got["tied"]["text"] == f"tied with rho = {named} in mean score: {decides}"


def test_where_nothing_is_tied_nothing_is_said():
    assert chosen(usual_grid())["tied"] == {"settings": [], "text": ""}


def test_one_seed_has_no_error():
    got = summary(grid(usual, lr=[0.1, 0.2], rho=[0.0, 0.1], seed=[0]))
    assert (got["selection"]["mean"], got["selection"]["standard_error"], got["selection"]["n"]) == (0.05, None, 1)
    assert got["selection"]["interval_95"] is None
    assert got["selection"]["by_rho"]["difference"]["standard_error"] is None
    assert got["settings"][0]["metrics"]["score"] == {"mean": pytest.approx(0.25), "standard_error": None, "n": 1}


@pytest.mark.parametrize(("rhos", "lacking"), [([0.1, 0.2], "with ρ = 0"), ([0.0], "with ρ > 0")])
def test_without_one_of_both_there_is_no_difference_made_by_sam(rhos, lacking):
    by_rho = chosen(grid(usual, lr=[0.1, 0.2], rho=rhos, seed=[0, 1]))["by_rho"]
    assert by_rho["difference"] is None
    assert by_rho["reason"] == f"the grid has no settings {lacking}"
    assert (by_rho["without_sam"] is None) != (by_rho["with_sam"] is None)
    fixed = chosen(grid(usual, rho=rhos[:1], lr=[0.1, 0.2], seed=[0, 1]), varied=("lr", "seed"))["by_rho"]
    assert fixed["difference"] is None


def test_where_sam_always_diverges_the_reason_says_so():
    by_rho = chosen(usual_grid(lambda lr, rho, seed: {"diverged_at": 1} if rho else {}))["by_rho"]
    assert (by_rho["with_sam"], by_rho["difference"]) == (None, None)
    assert by_rho["reason"] == "the grid has no settings that can be selected with ρ > 0"


def test_nothing_to_select_is_null_with_the_reason():
    none = chosen(usual_grid(lambda lr, rho, seed: {"diverged_at": 5} if seed == 1 else {}))
    assert none["selected"] is None
    assert "no settings have all their seeds trained to the end" in none["reason"]
    assert "lowest mean" in none["rule"]
    unasked = chosen(usual_grid(), None)
    assert unasked == {"rule": None, "selected": None, "reason": "the experiment names no metric to select by"}
    assert chosen({})["selected"] is None


def test_each_setting_has_its_counts_and_the_means_of_what_was_trained_to_its_end():
    ends = {0: {}, 1: {"diverged_at": 3}, 2: {"stopped_at": 10}, 3: {"error": "lost", "steps": ()}, 4: {}}

    def value(lr, seed):
        return {**ends[seed], "loss": float(seed), "sure": seed == 0, "word": "x", "nothing": None, "bad": math.inf}

    (entry,) = summary(grid(value, lr=[0.1], seed=list(ends)), varied=("seed",))["settings"]
    assert entry["settings"] == {}
    assert len(entry["runs"]) == 5
    assert [entry[status] for status in ("done", "diverged", "stopped", "failed")] == [2, 1, 1, 1]
    assert entry["metrics"] == {
        "loss": {"mean": 2.0, "standard_error": 2.0, "n": 2},
        "sure": {"mean": 0.5, "standard_error": 0.5, "n": 2},
    }


def test_the_frame_of_a_summary():
    def seconds(**point):
        return {"seconds": {"train_seconds": 0.5, "check_seconds": 0.25}}

    got = summary(usual_grid(seconds))
    assert list(got) == [
        "experiment", "scale", "seed", "config", "totals", "selection", "differences", "claims", "settings", "metrics",
        "environment",
    ]  # fmt: skip
    assert (got["experiment"], got["scale"], got["seed"]) == ("tests/toy", "paper", [0, 1, 2])
    assert got["totals"] == {
        "runs": 12, "done": 12, "diverged": 0, "stopped": 0, "failed": 0,
        "seconds": {"total": 4.0, "train_seconds": 6.0, "check_seconds": 3.0, "runs_per_second": 3.0},
    }  # fmt: skip
    run = got["metrics"]["lr=0.2,rho=0.1,seed=0"]
    assert (run["status"], run["score"], run["train_seconds"]) == ("done", 0.05, 0.5)


def test_wall_clock_values_stand_only_under_keys_that_say_so():
    def without_times(value):
        if isinstance(value, dict):
            return {k: without_times(v) for k, v in value.items() if "time" not in k and "seconds" not in k}
        return [without_times(entry) for entry in value] if isinstance(value, list) else value

    slow, fast = (
        summary(usual_grid(lambda s=s, **point: {"seconds": {"train_seconds": s}})) for s in (9.0, 0.1)
    )  # fmt: skip
    assert slow != fast
    assert without_times(slow) == without_times(fast)


def test_selection_needs_no_cells():
    assert select([], SELECTION) is None
    assert cells_of({}, VARIED) == []
