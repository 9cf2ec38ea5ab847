"""Claims over a grid: which runs each looks at, and what it comes to."""

from dataclasses import replace

import pytest

from lowland.errors import ExperimentError
from lowland.training import Claim, Reference, Verdict
from lowland.training.sweep.claims import judge_claims
from tests.fakes import TOY

from .grids import grid

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


def test_holds_wherever_it_can_be_judged():
    got = judge(climbs, runs())
    assert {key: got[key] for key in ("id", "source", "measured", "threshold", "passed", "reason")} == {
        "id": "one", "source": "page 1", "measured": 1.0, "threshold": "= 1", "passed": True,
        "reason": "of 12 points it holds at 8, fails at 0, is undecided at 4; undecided because arm sam has ρ = 0",
    }  # fmt: skip
    assert got["text"] == "A statement"
    assert got["measured_over_grid"] == "the share of the points that can be judged at which it holds"
    assert got["at_each_point"] == "< 1"
    assert got["counts"] == {"points": 12, "judged": 8, "holds": 8}
    assert got["points"][0] == {
        "runs": {"sam": "lr=0.1,rho=0.0,seed=0"}, "measured": None, "passed": None, "reason": "arm sam has ρ = 0"
    }  # fmt: skip
    assert got["points"][2] == {
        "runs": {"sam": "lr=0.1,rho=0.1,seed=0"}, "measured": 0.4, "passed": True, "reason": ""
    }  # fmt: skip


def test_one_point_that_fails_fails_it():
    got = judge(climbs, runs(lambda lr, rho, seed: {"loss": 2.0} if (lr, rho, seed) == (0.2, 0.1, 1) else {}))
    assert (got["measured"], got["passed"]) == (7 / 8, False)
    assert got["reason"] == (
        "of 12 points it holds at 7, fails at 1, is undecided at 4; it fails first at sam lr=0.2,rho=0.1,seed=1; "
        "undecided because arm sam has ρ = 0"
    )


def test_the_counts_add_up_where_all_but_one_point_are_undecided():
    got = judge(climbs, runs(lambda **point: {"loss": 2.0}, rho=[0.0, 0.1], lr=[0.1], seed=[0]))
    assert got["counts"] == {"points": 2, "judged": 1, "holds": 0}
    assert (got["measured"], got["passed"]) == (0.0, False)
    assert got["reason"].startswith("of 2 points it holds at 0, fails at 1, is undecided at 1; it fails first at sam ")


def test_a_claim_that_holds_at_every_point_needs_no_reason():
    assert judge(gd_alone, runs())["reason"] == ""


def test_a_point_of_many_seeds_is_named_by_its_settings():
    claim = Claim(
        "one", "A statement", "page 1", "< 0", lambda arms: Verdict(loss_of_sam(arms), False), over_seeds=True
    )
    arms = runs(lambda **point: {"loss": 2.0}, seed=list(range(5)))
    (entry,) = judge_claims(replace(TOY, arms=ARMS, claims=(claim,)), config(), arms, VARIED)
    assert entry["reason"] == (
        "of 6 points it holds at 0, fails at 6, is undecided at 0; it fails first at lr = 0.1, rho = 0"
    )


def test_reasons_that_differ_in_their_numbers_are_one():
    def judged(arms):
        sam = arms["sam"]
        return climbs(arms) if sam.settings.rho == 0 else Verdict(0.1, None, f"2 seeds can't tell: {sam.settings.lr}")

    got = judge(judged, runs())
    assert got["reason"] == "it is undecided at all 12 points: 2 seeds can't tell (8 of 12)"


def test_each_arm_is_the_run_with_its_settings():
    got = judge(lower, runs())
    for point in got["points"]:
        if point["passed"] is not None:
            assert point["runs"]["gd"] == point["runs"]["sam"].replace("rho=0.1", "rho=0.0").replace(
                "rho=0.3", "rho=0.0"
            )
    assert got["counts"] == {"points": 12, "judged": 8, "holds": 8}
    assert got["points"][2]["measured"] == pytest.approx(-0.1)


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
    assert got["reason"] == (
        "it is undecided at all 2 points: the grid has no run with rho = 0, lr = 9, seed = 0 (1 of 2)"
    )  # fmt: skip
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
    unfit = [point for point in got["points"] if point["reason"] == reason]
    assert [point["runs"] for point in unfit] == [
        {"sam": "lr=0.1,rho=0.0,seed=0"},
        {"sam": "lr=0.1,rho=0.1,seed=0", "gd": "lr=0.1,rho=0.0,seed=0"},
        {"sam": "lr=0.1,rho=0.3,seed=0", "gd": "lr=0.1,rho=0.0,seed=0"},
    ]


def test_a_claim_without_a_threshold_is_only_reported():
    def measure(arms):
        return Verdict(loss(arms["sam"]), None, "only reported")

    got = judge(measure, runs(lambda lr, rho, seed: {"loss": lr + seed}, rho=[0.1]), threshold=None)
    assert (got["threshold"], got["passed"]) == (None, None)
    assert got["measured"] == pytest.approx((0.2 + 1.1) / 2)
    assert got["measured_over_grid"] == "the median of its points"
    nowhere = judge(lambda arms: Verdict(None, None, "too short"), runs(), threshold=None)
    assert nowhere["reason"] == "it could be measured nowhere: too short"


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
    assert entry["threshold"] == entry["at_each_point"] == "< 1"
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
    assert entry["counts"] == {"points": 6, "judged": 4, "holds": 4}
    assert entry["points"][1]["measured"] == pytest.approx(-0.1)
    assert set(entry["points"][1]["runs"]) == {"sam-0", "sam-1", "gd-0", "gd-1"}
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
