"""Where values come from: what the papers state is theirs, what their texts leave open is marked ours."""

import re

import pytest

from lowland.papers import experiments, find


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        (
            # The appendix gives the probe, the domains and ρ; the rest is the benchmark's.
            "springer2024/domainbed",
            ("measure", "held_out", "rho", "network", "optimizer"),
            (
                "lr",
                "momentum",
                "steps",
                "check_every",
                "batch_size",
                "weight_decay",
                "size",
                "freeze",
                "augment",
                "weights",
            ),
        ),
        (
            # 300 points, η = 0.01, batches of 5; the points themselves are after another paper's generator.
            "springer2024/toy",
            ("lr", "batch_size", "examples"),
            ("correlation", "noise", "slabs", "rotate", "width", "epochs"),
        ),
        (
            "springer2024/cifar-mnist",
            ("batch_size", "weight_decay", "momentum", "correlation", "examples", "test_examples"),
            ("epochs", "check_epochs", "probe_examples", "phantom_rho"),
        ),
        ("springer2024/celeba", ("batch_size", "weight_decay", "network"), ("size", "weights", "augment", "epochs")),
        ("andriushchenko2022/cifar10", ("epochs", "l2", "average", "augment"), ("statistics", "ascent_batch")),
        ("long2024/mnist", ("examples", "width", "eps"), ("steps", "check_every", "seed")),
    ],
)
def test_values_are_marked_as_the_papers_have_them(name, theirs, ours):
    values = find(name).values("paper")
    assert {each: values[each].origin for each in theirs} == dict.fromkeys(theirs, "paper")
    assert {each: values[each].origin for each in ours} == dict.fromkeys(ours, "ours")


def test_what_a_mark_cannot_say_its_note_does():
    """Figure 6: step size and radii are ours. Convergence: the length is figure 1's. MNIST: too few digits to stack."""
    diagonal = find("andriushchenko2022/diagonal").values("paper")
    assert all("ours in the arms figure-6-" in diagonal[name].note for name in ("lr", "rho", "alpha"))
    for name in ("convergence", "late"):
        epochs = find(f"andriushchenko2022/{name}").values("paper")["epochs"]
        assert epochs.origin == "ours"
        assert "figure 1" in epochs.note
    stacked = find("springer2024/fmnist-mnist").values("paper")
    assert all("(ours)" in stacked[name].note for name in ("examples", "test_examples"))


@pytest.mark.parametrize("experiment", experiments().values(), ids=list(experiments()))
def test_every_claim_has_the_papers_value_or_says_that_it_is_ours(experiment):
    assert [claim.id for claim in experiment.claims if claim.reference is None] == []


def test_the_papers_differences_are_in_the_unit_of_ours():
    """Shares, as ``measured`` is, and those of the errors in % that the figures are drawn with."""
    from lowland.papers.andriushchenko2022.finetune import FIGURE_9
    from lowland.papers.andriushchenko2022.label_noise import FIGURE_12

    tuned = [errors["sam-to-erm"] - errors["erm-to-erm"] for errors in FIGURE_9.values()]
    noisy = FIGURE_12.values()
    expected = {
        ("finetune", "keeps"): tuned,
        ("label-noise", "early-stopping"): [errors["sam"][0] - errors["erm"][0] for errors in noisy],
        ("label-noise", "sam-overfits"): [best - end for best, end in (errors["sam"] for errors in noisy)],
        ("label-noise", "erm-overfits"): [best - end for best, end in (errors["erm"] for errors in noisy)],
    }
    for (name, claim), in_percent in expected.items():
        of = {each.id: each.reference for each in find(f"andriushchenko2022/{name}").claims}[claim]
        found = [float(number) for number in re.findall(r"-0\.\d+", of.value)]
        assert found == pytest.approx([difference / 100 for difference in in_percent]), claim


def test_arms_whose_settings_are_ours_say_so():
    notes = {name: find(f"andriushchenko2022/{name}").arm_notes for name in ("finetune", "relu", "diagonal")}
    assert set(notes["finetune"]) == {"erm-to-sam", "sam-to-erm", "erm-to-erm"}
    assert set(notes["relu"]) == {"sam-constant", "gd-falling"}
    assert {"switch-gd", "switch-1-sam", "figure-6-gd"} <= set(notes["diagonal"])
    assert all("ours" in note for each in notes.values() for note in each.values())


@pytest.mark.parametrize("name", ["toy", "toy-separate", "cifar-mnist", "fmnist-mnist", "celeba", "waterbirds"])
def test_what_lsam_perturbs_is_said_to_be_our_reading(name):
    experiment = find(f"springer2024/{name}")
    of_lsam = [arm for arm, fixed in experiment.arms.items() if fixed.get("method") == "lsam"]
    assert of_lsam
    assert list(experiment.arm_notes) == of_lsam
    assert all(note.startswith("ours:") for note in experiment.arm_notes.values())


def test_laptop_runs_have_fewer_seeds_than_a_claim_takes():
    for name in ("cifar-mnist", "fmnist-mnist", "celeba", "waterbirds"):
        scales = {scale: find(f"springer2024/{name}").values(scale)["seeds"].value for scale in ("laptop", "desk")}
        assert scales == {"laptop": 3, "desk": 5}


@pytest.mark.parametrize("experiment", experiments().values(), ids=list(experiments()))
def test_every_claim_has_a_figure_and_says_why_a_threshold_is_what_it_is(experiment):
    drawn = {figure.name for figure in (*experiment.figures, *experiment.sweep_figures)} | {"differences"}  # of sweeps
    assert {claim.id: claim.figure for claim in experiment.claims if claim.figure not in drawn} == {}
    signs = ("interval < 0", "< 1", "> 0")  # of a difference, of a ratio
    numbers = [claim for claim in experiment.claims if claim.threshold and claim.threshold not in signs]
    assert [claim.id for claim in numbers if "ours" not in claim.why] == []
