"""Leave one domain out: the cuts, a step, a check, the table, and whole experiments."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lowland.data import Dataset, Split
from lowland.features import extract, probe
from lowland.papers.springer2024 import domain_data
from lowland.papers.springer2024.domain_claims import domain_table, sam_below_erm, trained
from lowland.papers.springer2024.domain_data import domain_sets
from lowland.papers.springer2024.domainbed import DOMAINBED, DomainCheck
from lowland.papers.springer2024.figures import domain_bars
from lowland.papers.springer2024.settings import DOMAIN_DATASETS, SGD_LRS, domain_names
from lowland.torch_tools import evaluating
from lowland.training import Outcome
from lowland.training.randomness import seed_everything
from tests.data.layouts import PACS, draw_domains
from tests.optim import textbook

CPU = torch.device("cpu")
NAME = "springer2024/domainbed"


@pytest.fixture(params=[100])
def digits(request, monkeypatch):
    """A few random images in MNIST's place; so many that are for training."""

    def part(n, seed):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randint(256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
        return Split(inputs, torch.arange(n) % 10)

    monkeypatch.setattr(
        domain_data,
        "load",
        lambda name, root: Dataset("mnist", part(request.param, 0), part(20, 1), tuple("0123456789")),
    )
    domain_data._domains.cache_clear()
    yield
    domain_data._domains.cache_clear()


def configured(**changes):
    changes = {"measure": "transfer", **changes}
    arms = DOMAINBED.configure("smoke", {name: str(value) for name, value in changes.items()})
    return next(arm for label, arm in arms.items() if label.startswith("sam"))


def task_of(settings):
    seed_everything(settings.seed)
    return DOMAINBED.task(settings, CPU)


@pytest.mark.parametrize("dataset", DOMAIN_DATASETS)
def test_a_run_holds_out_every_domain_in_turn_with_the_benchmarks_defaults(dataset):
    arms = DOMAINBED.configure("paper", {"dataset": dataset, "seeds": "2"})
    domains = domain_names(dataset)
    assert list(arms) == [f"{arm}-{k}-without-{name}" for arm in ("erm", "sam") for k in (0, 1) for name in domains]
    assert [arm.held_out for arm in arms.values()] == 4 * list(domains)
    assert [arm.seed for arm in arms.values()] == 2 * (len(domains) * [0] + len(domains) * [1])
    first = arms[f"erm-0-without-{domains[0]}"]
    small = dataset in ("rotated-mnist", "colored-mnist")
    assert (first.batch_size, first.network) == ((64, "cnn") if small else (32, "resnet-50"))
    assert (first.base, first.momentum, first.lr) == ("sgd", 0.9, SGD_LRS[first.network])
    transfer = DOMAINBED.configure("paper", {"dataset": dataset, "measure": "transfer"})
    assert {(arm.base, arm.lr) for arm in transfer.values()} == {("adam", 1e-3 if small else 5e-5)}
    assert first.check_every == {"rotated-mnist": 100, "colored-mnist": 100, "domain-net": 1000}.get(dataset, 300)
    assert (first.steps, first.weight_decay, first.is_augmented) == (5001, 0.0, not small)


def test_a_grid_of_every_dataset_says_which_domain():
    for name, parts in DOMAINBED.grids.items():
        (part,) = parts
        dataset = "rotated-mnist" if name == "paper" else name
        assert part["held_out"] == domain_names(dataset)


def test_every_domain_is_cut_alike_whichever_is_held_out(digits):
    settings = configured(examples=0)  # 20 images of each domain
    cuts = {name: domain_sets(replace(settings, held_out=name), CPU) for name in domain_names("rotated-mnist")}
    for name, sets in cuts.items():
        assert len(sets.train) == len(sets.validation) == 5
        for train, validation in zip(sets.train, sets.validation, strict=True):
            assert sorted([*train.indices.tolist(), *validation.indices.tolist()]) == list(range(20))
            assert len(validation) == 4
        others = [other for other in cuts if other != name]
        for other, train in zip(others, sets.train, strict=True):
            assert torch.equal(train.indices, cuts[other].test.indices)  # the test part is that of training
            assert torch.equal(train.split.inputs, cuts[other].test.split.inputs)
    another = domain_sets(replace(settings, seed=1), CPU)
    assert not torch.equal(another.test.split.inputs, cuts["0"].test.split.inputs)
    few = domain_sets(configured(examples=10), CPU)
    assert (len(few.test), len(few.validation[0])) == (8, 2)


def sgd(w, g, state, step):
    state["m"] = 0.9 * state.get("m", 0) + g
    return w - 0.01 * state["m"]


def adam(w, g, state, step):
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    return w - 0.01 * (state["m"] / (1 - 0.9**step)) / ((state["v"] / (1 - 0.999**step)).sqrt() + 1e-8)


@pytest.mark.parametrize(("measure", "update"), [("probe", sgd), ("transfer", adam)])
@pytest.mark.parametrize("rho", [0.0, 0.3])
@pytest.mark.parametrize("digits", [1200], indirect=True)
def test_a_step_is_sgds_or_adams_with_the_gradient_at_the_perturbed_weights(digits, rho, measure, update):
    chosen = configured(measure=measure, rho=rho, lr=0.01, weight_decay=0.1, held_out="30", network="small")
    task, other = task_of(chosen), task_of(chosen).model.double()
    task.model.double()
    params = list(other.parameters())
    states = [{} for _ in params]
    for step in range(1, 4):
        x, y = task.batch(step - 1)
        assert x.shape == (10, 1, 28, 28)  # two of each of five domains
        x = x.double()

        def closure(x=x, y=y):
            loss = task.loss_fn(task.model(x), y)
            loss.backward()
            return loss

        task.optimizer.step(closure)
        gradient = textbook.gradient(lambda x=x, y=y: F.cross_entropy(other(x), y), params, rho)
        with torch.no_grad():
            for p, g, state in zip(params, gradient, states, strict=True):
                p.copy_(update(p, g + 0.1 * p, state, step))
    for p, q in zip(task.model.parameters(), params, strict=True):
        assert torch.allclose(p, q, rtol=1e-7, atol=1e-10)


def test_a_check_measures_what_it_says_and_remembers_the_best(digits):
    task = task_of(configured(examples=0, held_out="15"))
    check, sets = task.check, task.check.sets
    record = check(0, None)
    with evaluating(task.model):
        losses, errors = [], []
        for part in (*sets.validation, sets.test):
            x, y = part.images(part.indices, CPU), part.targets
            losses.append(F.cross_entropy(task.model(x), y).item())
            errors.append((task.model(x).argmax(1) != y).float().mean().item())
    assert record["validation_loss"] == pytest.approx(sum(losses[:-1]) / 5, rel=1e-5)
    assert record["validation_error"] == pytest.approx(sum(errors[:-1]) / 5)
    assert record["test_loss"] == pytest.approx(losses[-1], rel=1e-5)
    assert record["test_error"] == pytest.approx(errors[-1])
    assert record["selected_step"] == 0

    def at(step, error, loss, test):
        with pytest.MonkeyPatch.context() as patch:
            found = iter([(error, loss)] * 5 + [(test, 1.0)])
            patch.setattr("lowland.papers.springer2024.domainbed.error_and_loss", lambda *_: next(found))
            return check(step, None)

    check.selected = {}
    assert at(1, 0.5, 1.0, 0.9)["selected_test_error"] == 0.9
    assert at(2, 0.4, 2.0, 0.8)["selected_test_error"] == 0.8
    assert at(3, 0.4, 2.0, 0.1)["selected_test_error"] == 0.8  # the first of equals
    resumed = DomainCheck(task.model, sets, check.settings, CPU)
    resumed.load_state_dict(check.state_dict())
    check = resumed
    assert at(4, 0.6, 0.5, 0.0)["selected_step"] == 2
    last = at(5, 0.4, 1.5, 0.7)  # a lower loss
    assert (last["selected_step"], last["selected_test_error"], last["test_error"]) == (5, 0.7, 0.7)
    with pytest.raises(FloatingPointError):
        at(6, 0.4, float("nan"), 0.7)


def arm(rho, held_out, seed, validation, test, dataset="pacs", loss=1.0, **more):
    settings = configured(dataset=dataset, held_out=held_out, rho=rho, seed=seed)
    end = {
        "step": 2, "selected_validation_error": validation, "selected_validation_loss": loss,
        "selected_test_error": test,
    }  # fmt: skip
    return Outcome(settings, [end], **more)


def of_all(seeds=5, gain=0.1):
    arms = {}
    for seed in range(seeds):
        for number, domain in enumerate(PACS):
            error = 0.3 + 0.01 * seed + 0.1 * number
            arms[f"erm{seed}{domain}"] = arm(0.0, domain, seed, 0.5, error)
            arms[f"sam{seed}{domain}"] = arm(0.1, domain, seed, 0.5, error - gain + 0.001 * (seed % 3))
    return arms


def test_the_table_takes_what_validation_selects():
    arms = {
        "a": arm(0.1, "photo", 0, 0.4, 0.9),
        "b": arm(0.2, "photo", 0, 0.3, 0.8),  # the lowest validation error
        "c": arm(0.3, "photo", 0, 0.3, 0.1, loss=2.0),
        "d": arm(0.4, "photo", 0, 0.0, 0.0, diverged_at=2),
        "e": arm(0.1, "sketch", 0, 0.3, 0.4),
        "f": arm(0.1, "sketch", 1, 0.3, 0.2),
        "g": arm(0.0, "sketch", 1, 0.3, 0.5),
    }
    erm, sam = domain_table(arms)
    assert sam.name == "sam"
    assert sam.measures == {"photo": {0: 0.8}, "sketch": {0: 0.4, 1: 0.2}, "mean": {0: pytest.approx(0.6)}}
    assert sam.runs == {0: "b, e", 1: "f"}
    assert erm.measures == {"photo": {}, "sketch": {1: 0.5}, "mean": {}}
    (drawn,) = domain_bars(arms)
    assert drawn.names == ["photo", "sketch", "mean"]
    assert drawn.heights["erm"] == [None, 0.5, None]
    assert drawn.heights["sam"] == [0.8, pytest.approx(0.3), pytest.approx(0.6)]
    assert drawn.errors["sam"] == [None, pytest.approx(0.1), None]
    assert not domain_bars({"d": arms["d"]})


def test_the_claim_is_about_the_mean_over_all_domains_of_five_seeds():
    verdict = sam_below_erm(of_all())
    assert verdict.passed is True
    assert verdict.measured == pytest.approx(-0.1 + 0.001 * 4 / 5)
    assert sam_below_erm(of_all(gain=-0.1)).passed is False
    four = sam_below_erm(of_all(4))
    assert four.passed is None
    assert "5 seeds" in four.reason
    lacking = {label: each for label, each in of_all().items() if "photo" not in label}
    assert (sam_below_erm(lacking).passed, "photo" in sam_below_erm(lacking).reason) == (None, True)
    mixed = {**of_all(), "other": arm(0.0, "SUN09", 0, 0.5, 0.5, dataset="vlcs")}
    assert "several datasets" in sam_below_erm(mixed).reason
    only = {label: each for label, each in of_all().items() if "sam" in label}
    assert sam_below_erm(only).passed is None


@pytest.mark.parametrize("digits", [1200], indirect=True)
@pytest.mark.parametrize(("dataset", "measure"), [("rotated-mnist", "probe"), ("colored-mnist", "transfer")])
def test_it_runs_on_digits(digits, undrawn, lowland, tmp_path, dataset, measure):
    changes = ("--set", f"dataset={dataset}", "--set", f"measure={measure}")
    outcome = lowland("run", NAME, "--scale", "smoke", *changes, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    rows = {row["name"]: row["measures"] for row in summary["table"]}
    assert list(rows) == ["erm", "sam"]
    assert list(rows["sam"]) == [*domain_names(dataset), "mean"]
    assert rows["erm"]["mean"]["mean"] == pytest.approx(
        sum(rows["erm"][name]["mean"] for name in domain_names(dataset)) / len(domain_names(dataset))
    )
    assert all(name in outcome.out for name in domain_names(dataset))


def test_it_runs_on_folders_and_draws(lowland, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "data"))
    draw_domains(tmp_path / "data", n=5)
    asked = ("run", NAME, "--scale", "smoke", "--set", "dataset=pacs", "--out", tmp_path / "run")
    outcome = lowland(*asked)
    assert outcome.code == 0, outcome.err
    for figure in DOMAINBED.figures:
        assert (tmp_path / f"run/figures/{figure.name}.png").exists()
    assert "finished" in lowland(*asked).out


def test_frozen_statistics_stay_frozen(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "data"))
    draw_domains(tmp_path / "data", n=5)
    changes = {"dataset": "pacs", "network": "resnet-50", "width": 2, "size": 32, "freeze": "on", "held_out": "photo"}
    task = task_of(configured(**changes))
    norms = [module for module in task.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    task.check(0, None)
    assert norms
    assert task.model.training
    assert not any(module.training for module in norms)


@pytest.mark.data
@pytest.mark.parametrize("dataset", ["rotated-mnist", "colored-mnist"])
def test_it_runs_on_mnist(data_root, undrawn, lowland, tmp_path, dataset):
    changes = ("--set", f"dataset={dataset}", "--set", f"held_out={domain_names(dataset)[0]}")
    assert lowland("run", NAME, "--scale", "smoke", *changes, "--out", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("held_out=45", "dataset=pacs"), ("pacs has no domain 45", "art_painting")),
        (("held_out=phot", "dataset=pacs"), "photo?"),
        (("dataset=packs",), "pacs"),
        (("network=resnet-50",), ("three channels", "network=cnn")),
        (("augment=on",), ("photographs", "augment=off")),
        (("network=cnn", "width=12"), "multiple of 8"),
        (("weights=there.pth",), "resnet-50"),
        (("batch_size=9", "examples=10"), ("batch_size is 9", "10 images")),
        (("lr=-1",), "lr"),
    ],
)
def test_bad_settings(refused, changes, says):
    refused("run", NAME, "--scale", "smoke", *(part for change in changes for part in ("--set", change)), says=says)


def test_missing_data(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "empty"))
    refused("run", NAME, "--scale", "smoke", "--set", "dataset=pacs", says="pacs")


@pytest.mark.parametrize("digits", [1200], indirect=True)
def test_the_probe_is_of_the_domain_left_out_and_tested_on_a_part_held_out(digits):
    task = task_of(configured(measure="probe", examples=0, held_out="15"))
    check, sets = task.check, task.check.sets
    together = [*sets.test.indices.tolist(), *sets.probe_test.indices.tolist()]
    assert sorted(together) == list(range(len(together)))
    assert len(sets.probe_test) == round(0.2 * len(together))
    assert "probe_error" not in check(0, None)
    record = check(check.settings.steps, None)
    (x, y), test = ((extract(task.model, [part.images(part.indices, CPU)]), part.targets)
                    for part in (sets.test, sets.probe_test))  # fmt: skip
    with evaluating(task.model):
        found = probe(x, y, test=test, validation=0.2, show_progress=False)
    assert record["probe_error"] == pytest.approx(found.error)
    assert record["probe_accuracy"] == pytest.approx(1 - found.error)


def test_too_few_images_for_a_probe_are_one_line(digits, refused):
    changes = ("--set", "examples=15", "--set", "held_out=30")
    refused(
        "run",
        NAME,
        "--scale",
        "smoke",
        *changes,
        says=("domain 30 of rotated-mnist leaves 1 of the class ", "3 images", "transfer"),
    )


def test_accuracies_are_compared_the_other_way_round():
    def probed(rho, domain, seed, accuracy):
        settings = configured(dataset="pacs", measure="probe", held_out=domain, rho=rho, seed=seed)
        end = {"step": 2, "validation_error": 0.01, "validation_loss": 0.1, "probe_accuracy": accuracy}
        return Outcome(settings, [end])

    arms = {
        f"{rho}{seed}{domain}": probed(rho, domain, seed, 0.7 + rho + 0.001 * seed * (rho > 0))
        for rho in (0.0, 0.1)
        for seed in range(5)
        for domain in PACS
    }
    verdict = sam_below_erm(arms)
    assert verdict.passed is True
    assert verdict.measured == pytest.approx(-0.102)
    assert domain_table(arms)[1].measures["photo"][1] == pytest.approx(0.801)
    assert trained(arms) == ""
    arms["0.00photo"].records[0]["validation_error"] = 0.4
    assert "0.4" in trained(arms)
