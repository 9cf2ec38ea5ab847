"""Claims over a grid: which runs each looks at, and what it comes to."""

from dataclasses import replace

import pytest

from lowland.errors import ExperimentError
from lowland.training import Claim, Reference, Selection, Verdict
from lowland.training.sweep.claims import judge_claims
from tests import fakes

from .grids import grid

TOY = replace(fakes.TOY, selection=Selection("loss", "training"))
VARIED = ("lr", "rho", "seed")
ARMS = {"sam": {}, "gd": {"rho": 0.0}, "edge": {"rho": 0.0, "lr": 9.0}}


def loss(arm):
    return arm.records[-1]["loss"]


def climbs(arms):
    """As the papers' judges: null where SAM's arm doesn't ascend."""
    sam = arms["sam"]
    if sam.settings.rho == 0:
        return Verdict(None, None, "arm sam has ρ = 0")
    return Verdict(loss(sam), loss(sam) < 1)


def lower(arms):
    sam, gd = arms["sam"], arms["gd"]
    if sam.settings.rho == 0:
        return Verdict(None, None, "arm sam has ρ = 0")
    return Verdict(loss(sam) - loss(gd), loss(sam) < loss(gd))


def gd_alone(arms):
    return Verdict(loss(arms["gd"]), loss(arms["gd"]) < 1)


def edge_alone(arms):
    return Verdict(loss(arms["edge"]), True)


def loss_of_sam(arms):
    return max(loss(arms[name]) for name in arms if name.startswith("sam"))


def judge(judge, arms, threshold="< 1", scale="paper", varied=VARIED):
    experiment = replace(
        TOY, arms=ARMS, claims=(Claim("one", "A statement", "page 1", threshold, judge),)
    )  # fmt: skip
    (entry,) = judge_claims(experiment, config(scale), arms, varied)
    return entry


def config(scale="paper"):
    values = {name: value.value for name, value in TOY.values(scale).items()}
    return {"scale": scale, "sweep": True, "settings": values}


def runs(change=lambda **point: {}, **axes):
    axes = {"lr": [0.1, 0.2], "rho": [0.0, 0.1, 0.3], "seed": [0, 1], **axes}

    def value(**point):
        changed = change(**point)
        return None if changed is None else {"loss": 0.5 - point["rho"], **changed}

    return grid(value, **axes)


def test_the_verdict_is_that_at_the_selected_settings():
    got = judge(climbs, runs())
    assert {key: got[key] for key in ("id", "text", "source", "threshold", "passed", "reason")} == {
        "id": "one", "text": "A statement", "source": "page 1", "threshold": "< 1", "passed": True,
        "reason": "of 2 seeds: holds 2, fails 0, undecided 0",
    }  # fmt: skip
    assert got["measured"] == pytest.approx(0.2)
    assert got["at"] == {"settings": {"lr": 0.1, "rho": 0.3}, "text": "lr = 0.1, rho = 0.3 (selected)"}
    assert got["over_grid"] == "holds at 8 of 8 points"
    assert got["counts"] == {"points": 8, "judged": 8, "holds": 8}
    assert got["points"][0] == {
        "settings": {"lr": 0.1, "rho": 0.1, "seed": 0}, "runs": {"sam": "lr=0.1,rho=0.1,seed=0"}, "measured": 0.4,
        "interval_95": None, "passed": True, "reason": "",
    }  # fmt: skip


def test_a_far_off_point_fails_no_claim_that_holds_at_the_selected_settings():
    got = judge(climbs, runs(lambda lr, rho, seed: {"loss": 2.0} if (lr, rho, seed) == (0.2, 0.1, 1) else {}))
    assert got["passed"] is True
    assert got["counts"] == {"points": 8, "judged": 8, "holds": 7}
    assert got["over_grid"] == "holds at 7 of 8 points, fails at (lr = 0.2, rho = 0.1, seed = 1)"


def test_a_claim_that_holds_nearly_everywhere_fails_where_it_does_at_the_selected_settings():
    worse = {0.3: {"loss": 0.1, "other": 2.0}, 0.1: {"other": 0.5}}
    got = judge(
        lambda arms: Verdict(arms["sam"].records[-1]["other"], arms["sam"].records[-1]["other"] < 1),
        runs(lambda lr, rho, seed: worse.get(rho, {"other": 0.5}), lr=[0.1]),
    )
    assert (got["measured"], got["passed"], got["at"]["settings"]) == (2.0, False, {"lr": 0.1, "rho": 0.3})
    assert got["counts"] == {"points": 6, "judged": 6, "holds": 4}


def test_seeds_that_do_not_agree_decide_nothing():
    got = judge(climbs, runs(lambda lr, rho, seed: {"loss": 0.1 + 2 * seed * (rho > 0)}, rho=[0.0, 0.1]))
    assert (got["passed"], got["reason"]) == (None, "of 2 seeds: holds 1, fails 1, undecided 0")


def test_a_point_that_is_both_arms_does_not_count():
    alike = lambda arms: Verdict(loss(arms["sam"]) - loss(arms["gd"]), loss(arms["sam"]) < loss(arms["gd"]))  # noqa: E731
    for one in (alike, lower):  # the one compares ρ = 0 with itself, the other refuses to
        got = judge(one, runs())
        assert got["counts"] == {"points": 8, "judged": 8, "holds": 8}
        assert all(point["settings"]["rho"] > 0 for point in got["points"])


def test_where_the_best_is_both_arms_the_best_of_the_other_points_counts():
    got = judge(lower, runs(lambda **point: {"loss": 0.5 + point["rho"]}, lr=[0.1]))
    assert got["passed"] is False
    text = "lr = 0.1, rho = 0.1 (the best of these points; lr = 0.1, rho = 0 is selected)"
    assert got["at"] == {"settings": {"lr": 0.1, "rho": 0.1}, "text": text}


def test_a_grid_without_a_comparison_decides_nothing():
    for one in (lower, lambda arms: Verdict(0.0, loss(arms["sam"]) < loss(arms["gd"]))):
        got = judge(one, runs(rho=[0.0]))
        assert (got["passed"], got["counts"]["judged"]) == (None, 0)
        assert "it compares runs with themselves" in got["reason"] or "arm sam has ρ = 0" in got["reason"]


def test_where_nothing_is_selected_all_points_speak():
    def judged(change):
        claim = Claim("one", "A statement", "page 1", "< 1", climbs)
        experiment = replace(TOY, arms=ARMS, claims=(claim,), selection=None)
        (entry,) = judge_claims(experiment, config(), runs(change), VARIED)
        assert entry["at"] is None
        return entry["passed"], entry["reason"]

    assert judged(lambda **point: {}) == (True, "of 8 points: holds 8, fails 0, undecided 0")
    assert judged(lambda **point: {"loss": 2.0}) == (False, "of 8 points: holds 0, fails 8, undecided 0")
    mixed = judged(lambda lr, rho, seed: {"loss": 2.0} if rho == 0.3 else {})
    assert mixed == (None, "of 8 points: holds 4, fails 4, undecided 0")


def test_a_point_of_many_seeds_is_named_by_its_settings():
    claim = Claim(
        "one", "A statement", "page 1", "< 0", lambda arms: Verdict(loss_of_sam(arms), False, "", (1.0, 3.0)),
        over_seeds=True,
    )  # fmt: skip
    arms = runs(lambda **point: {"loss": 2.0}, seed=list(range(5)), lr=[0.1])
    (entry,) = judge_claims(replace(TOY, arms=ARMS, claims=(claim,)), config(), arms, ("rho", "seed"))
    assert entry["over_grid"] == "holds at 0 of 3 points, fails at rho = 0, 0.1, 0.3"
    assert (entry["measured"], entry["interval_95"]) == (2.0, [1.0, 3.0])
    assert [point["interval_95"] for point in entry["points"]] == [[1.0, 3.0]] * 3


def test_reasons_that_differ_in_their_numbers_are_one():
    def judged(arms):
        sam = arms["sam"]
        return climbs(arms) if sam.settings.rho == 0 else Verdict(0.1, None, f"2 seeds can't tell: {sam.settings.seed}")

    assert judge(judged, runs())["reason"] == "of all 2 seeds: 2 seeds can't tell"


def test_each_arm_is_the_run_with_its_settings():
    got = judge(lower, runs())
    for point in got["points"]:
        assert point["runs"]["gd"] == point["runs"]["sam"].replace("rho=0.1", "rho=0.0").replace("rho=0.3", "rho=0.0")
    assert got["counts"] == {"points": 8, "judged": 8, "holds": 8}
    assert got["points"][0]["measured"] == pytest.approx(-0.1)


def test_the_same_runs_are_one_point():
    got = judge(gd_alone, runs())
    assert got["counts"] == {"points": 4, "judged": 4, "holds": 4}  # not once for each rho
    assert [point["runs"]["gd"] for point in got["points"]] == [
        "lr=0.1,rho=0.0,seed=0", "lr=0.1,rho=0.0,seed=1", "lr=0.2,rho=0.0,seed=0", "lr=0.2,rho=0.0,seed=1"
    ]  # fmt: skip
    assert judge(edge_alone, runs(lr=[0.1, 9.0]))["counts"]["judged"] == 2  # seeds


def test_a_run_that_the_grid_lacks_is_the_reason():
    got = judge(edge_alone, runs())
    assert (got["measured"], got["passed"]) == (None, None)
    assert got["reason"] == "of all 2 seeds: the grid has no run with rho = 0, lr = 9, seed = 0 (1 of 2)"
    assert [point["runs"] for point in got["points"]] == [{"edge": None}] * 2
    got = judge(lower, runs(rho=[0.1, 0.3]))
    assert got["passed"] is None
    assert got["counts"]["points"] == 8
    assert got["points"][0]["runs"] == {"sam": "lr=0.1,rho=0.1,seed=0", "gd": None}
    assert got["points"][0]["reason"] == "the grid has no run with rho = 0, lr = 0.1, seed = 0"


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"error": "out of memory"}, "run lr=0.1,rho=0.0,seed=0 failed: out of memory"),
        ({"stopped_at": 20}, "run lr=0.1,rho=0.0,seed=0 was stopped at step 20"),
        ({"diverged_at": 0, "steps": ()}, "run lr=0.1,rho=0.0,seed=0 has no records"),
    ],
)
def test_runs_that_were_not_trained_to_their_end_judge_nothing(spoiled, reason):
    got = judge(lower, runs(lambda **point: spoiled if point == {"lr": 0.1, "rho": 0.0, "seed": 0} else {}))
    assert got["counts"]["judged"] == 6
    assert got["passed"] is True
    assert got["at"]["settings"] == {"lr": 0.1, "rho": 0.3}
    unfit = [point for point in got["points"] if point["reason"] == reason]
    assert [point["runs"] for point in unfit] == [
        {"sam": "lr=0.1,rho=0.1,seed=0", "gd": "lr=0.1,rho=0.0,seed=0"},
        {"sam": "lr=0.1,rho=0.3,seed=0", "gd": "lr=0.1,rho=0.0,seed=0"},
    ]


def test_a_claim_without_a_threshold_is_only_reported():
    def measure(arms):
        return Verdict(loss(arms["sam"]), None, "only reported")

    got = judge(measure, runs(lambda lr, rho, seed: {"loss": lr + seed}, rho=[0.1]), threshold=None)
    assert (got["threshold"], got["passed"]) == (None, None)
    assert (got["measured"], got["reason"]) == (pytest.approx((0.1 + 1.1) / 2), "mean of 2 seeds")
    assert got["at"]["settings"] == {"lr": 0.1, "rho": 0.1}
    assert got["over_grid"] == "0.1 to 1.2 at 4 points"
    nowhere = judge(lambda arms: Verdict(None, None, "too short"), runs(), threshold=None)
    assert (nowhere["measured"], nowhere["reason"]) == (None, "too short")
    assert judge(lambda arms: Verdict(None, None), runs())["reason"] == "of all 2 seeds: its judge gives no reason"


def test_smoke_judges_nothing():
    def never(arms):
        raise AssertionError

    got = judge(never, runs(), scale="smoke")
    assert (got["measured"], got["passed"], got["points"]) == (None, None, [])
    assert got["reason"] == "smoke runs judge no claims"


def test_an_arm_that_the_experiment_does_not_have_is_a_bug_of_the_claim():
    with pytest.raises(ExperimentError):
        judge(lambda arms: arms["sma"], runs())


def test_an_arm_may_be_made_by_a_setting_that_does_not_vary():
    got = judge(edge_alone, runs(lr=[9.0]), varied=("rho", "seed"))
    assert got["counts"] == {"points": 2, "judged": 2, "holds": 2}


def test_a_claim_about_the_whole_grid_sees_all_runs_by_label():
    seen = {}

    def falls(arms):
        seen.update(arms)
        means = {rho: [loss(arm) for arm in arms.values() if arm.settings.rho == rho] for rho in (0.0, 0.3)}
        return Verdict(sum(means[0.3]) / sum(means[0.0]), sum(means[0.3]) < sum(means[0.0]))

    arms = runs()
    claim = Claim("falls", "A statement", "page 1", "< 1", falls, whole_grid=True)
    (entry,) = judge_claims(replace(TOY, claims=(claim,)), config(), arms, VARIED)
    assert seen == arms
    assert entry["passed"] is True
    assert entry["measured"] == pytest.approx(0.2 / 0.5)
    assert (entry["threshold"], entry["at"], entry["over_grid"]) == ("< 1", None, "")
    assert entry["counts"] == {"points": 1, "judged": 1, "holds": 1}
    (smoke,) = judge_claims(replace(TOY, claims=(claim,)), config("smoke"), arms, VARIED)
    assert smoke["passed"] is None
    assert smoke["counts"]["judged"] == 0


def test_a_claim_over_seeds_sees_all_seeds_of_a_setting():
    asked = []

    def mean(arms):
        names = [name for name in arms if name.startswith(("sam", "gd"))]
        found = {name: loss(arms[name]) for name in names}
        asked.append(found)
        if arms["sam-0"].settings.rho == 0:
            return Verdict(None, None, "arm sam-0 has ρ = 0")
        difference = sum(found[f"sam-{k}"] - found[f"gd-{k}"] for k in range(2)) / 2
        return Verdict(difference, difference < 0)

    claim = Claim("one", "A statement", "page 1", "< 0", mean, over_seeds=True)
    arms = runs(lambda **point: {"loss": 0.5 - point["rho"] + 0.01 * point["seed"]})
    (entry,) = judge_claims(replace(TOY, arms=ARMS, claims=(claim,)), config(), arms, VARIED)
    assert len(asked) == 6  # two η, three ρ
    assert all(set(found) == {"sam-0", "sam-1", "gd-0", "gd-1"} for found in asked)
    assert entry["counts"] == {"points": 4, "judged": 4, "holds": 4}
    assert entry["points"][0]["measured"] == pytest.approx(-0.1)
    assert entry["points"][0]["settings"] == {"lr": 0.1, "rho": 0.1}
    assert set(entry["points"][0]["runs"]) == {"sam-0", "sam-1", "gd-0", "gd-1"}
    arms.pop(next(label for label, arm in arms.items() if arm.settings.seed == 1 and arm.settings.rho == 0.1))
    (entry,) = judge_claims(replace(TOY, arms=ARMS, claims=(claim,)), config(), arms, VARIED)
    assert entry["counts"]["judged"] == 3


def test_below_the_regime_a_claim_is_undecided_and_the_sweep_that_decides_it_is_named():
    claim = Claim(
        "falls", "A statement", "page 1", "< 1", lambda arms: Verdict(2.0, False), whole_grid=True,
        reference=Reference(0.3, "figure 1"), regime=lambda arms: "the loss is 2, and the claim is about 0.1",
        decided_by="paper", grid="m",
    )  # fmt: skip
    experiment = replace(TOY, claims=(claim,), more_grids={"m": ({"lr": (0.1,)},)})
    (entry,) = judge_claims(experiment, config("laptop"), runs(), VARIED)
    assert (entry["measured"], entry["passed"]) == (2.0, None)
    assert entry["reason"] == "the loss is 2, and the claim is about 0.1"
    assert entry["reference"] == {"value": 0.3, "where": "figure 1"}
    command = f"lowland sweep {TOY.name} --grid m --scale paper"
    assert entry["decided_by"] == {"scale": "paper", "command": command}
    (entry,) = judge_claims(experiment, config("paper"), runs(), VARIED)
    assert (entry["passed"], entry["decided_by"]) == (None, None)


def test_at_each_point_the_regime_is_asked_for():
    def regime(arms):
        return "too high" if arms["gd"].settings.lr == 0.2 else ""

    claim = Claim("one", "A statement", "page 1", "< 1", lambda arms: Verdict(0.0, True), regime=regime)
    (entry,) = judge_claims(replace(TOY, arms=ARMS, claims=(claim,)), config(), runs(), VARIED)
    by_lr = {point["runs"]["gd"][:6]: (point["passed"], point["reason"]) for point in entry["points"]}
    assert set(by_lr.values()) == {(True, ""), (None, "too high")}
    assert entry["counts"]["judged"] == entry["counts"]["holds"] == entry["counts"]["points"] // 2
