"""CelebA and Waterbirds: which images, what a check measures, whole experiments on small copies."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lowland.data import GroupedDataset, Split
from lowland.errors import DataError, SettingError
from lowland.features import deep_feature_reweighting, extract
from lowland.models import bottleneck_resnet
from lowland.papers import find
from lowland.papers.springer2024 import check as checks
from lowland.papers.springer2024 import data
from lowland.papers.springer2024.check import GroupedCheck
from lowland.papers.springer2024.data import FeatureSets, grouped_sets, part_of_groups
from lowland.torch_tools import evaluating
from lowland.training.deciding_command import decided_by
from lowland.training.randomness import seed_everything
from lowland.training.settings import values_of
from tests.data.layouts import draw_celeba, draw_waterbirds

CPU = torch.device("cpu")
NAMES = ("celeba", "waterbirds")
DRAW = {"celeba": draw_celeba, "waterbirds": draw_waterbirds}


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Copies of both, with five images of each group in each split."""
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "data"))
    data._load_groups.cache_clear()
    for draw in DRAW.values():
        draw(tmp_path / "data", 60)
    yield tmp_path / "data"
    data._load_groups.cache_clear()


def configured(name="celeba", arm="sam", scale="smoke", **changes):
    experiment = find(f"springer2024/{name}")
    return experiment.configure(scale, {key: str(value) for key, value in changes.items()})[arm]


def task_of(settings, name="celeba"):
    seed_everything(settings.seed)
    return find(f"springer2024/{name}").task(settings, CPU)


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_settings_and_grid(name):
    experiment = find(f"springer2024/{name}")
    settings = experiment.configure("paper", {"seeds": "1"})["sam"]
    examples, epochs = {"celeba": (162_770, 20), "waterbirds": (4_795, 100)}[name]
    assert (settings.examples, settings.epochs, settings.steps) == (examples, epochs, epochs * (examples // 128))
    assert (settings.batch_size, settings.momentum, settings.weight_decay) == (128, 0.9, 1e-4)
    assert (settings.network, settings.width, settings.size) == ("resnet-50", 64, 224)
    grid = experiment.grids["paper"][0]
    assert grid["lr"] == (0.0005, 0.001, 0.005, 0.01)
    assert grid["rho"] == (0, 0.01, 0.02, 0.05, 0.07)
    assert len(grid["seed"]) == 5


@pytest.mark.parametrize("name", NAMES)
def test_desk_is_what_decides_and_has_the_seeds_for_it(name):
    experiment = find(f"springer2024/{name}")
    arms = experiment.configure("desk", {})
    assert sorted(arms) == sorted(f"{kind}-{seed}" for kind in ("sgd", "sam", "lsam") for seed in range(5))
    settings = arms["sam-0"]
    assert (settings.examples, settings.steps) == {"celeba": (5000, 4680), "waterbirds": (4795, 4470)}[name]
    assert (settings.network, settings.weights, settings.augment) == ("small", "none", "off")
    assert settings.lr in experiment.grids["paper"][0]["lr"]
    config = {"scale": "laptop", "arms": {k: values_of(v) for k, v in experiment.configure("laptop", {}).items()}}
    assert decided_by(experiment, experiment.claims[0], config)["scale"] == "desk"


def test_celebas_claims_stand_beside_what_is_known_of_the_papers_table():
    known = {claim.id for claim in find("springer2024/celeba").claims if "Table 1" in claim.reference.where}
    assert known == {"hard-feature", "easy-feature"}
    assert not any("Table 1" in claim.reference.where for claim in find("springer2024/waterbirds").claims)


def dataset(counts):
    """So many images of each group in every split."""
    groups = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    split = Split(torch.zeros(len(groups), 3, 8, 8, dtype=torch.uint8), groups // 2, attributes=groups % 2)
    return GroupedDataset("celeba", split, split, split, ("a", "b"), ("c", "d"))


def test_a_part_has_its_share_of_each_group_and_enough_of_the_smallest():
    whole = dataset([400, 100, 60, 6])
    part = part_of_groups(whole, whole.validation, 283, "here")  # half of them
    assert np.bincount(whole.groups(part)).tolist() == [200, 50, 30, 5]
    assert part_of_groups(whole, whole.validation, 0, "here") is whole.validation
    assert part_of_groups(whole, whole.validation, 1000, "here") is whole.validation
    few = dataset([40, 10, 60, 4])
    with pytest.raises(DataError, match=r"here has 4 images of the group b, d, and probes take 5"):
        part_of_groups(few, few.validation, 0, "here")


@pytest.mark.parametrize("name", NAMES)
def test_the_sets_are_the_publishers_splits(drawn, name):
    sets = grouped_sets(name, configured(name, examples=20), CPU)
    whole = data._load_groups(drawn, name, 16)
    for part, other in ((sets.train, whole.train), (sets.validation, whole.validation), (sets.test, whole.test)):
        assert torch.equal(part.inputs, other.inputs)
        assert torch.equal(part.targets, other.targets)
        assert torch.equal(part.attributes, other.attributes)
    assert sets.probe_train is sets.validation
    assert sets.probe_test is sets.test
    few = grouped_sets(name, configured(name), CPU).train
    assert len(few) == 10
    assert len({*few.targets.tolist()}) == 2  # drawn at random, not the first ones
    x, _ = next(iter(sets.batches(sets.test)))
    assert x.mean() < 0.5  # normalized: the images are of strong colours
    assert x.min() < -1.5


def unequal(counts, seed, settings, training=None):
    """A `FeatureSets` of noisy images, in which the two features say something about each other."""
    generator = torch.Generator().manual_seed(seed)

    def split(counts=counts):
        whole = dataset(counts).train
        inputs = torch.randint(200, whole.inputs.shape, generator=generator, dtype=torch.uint8)
        inputs[:, 0] += (40 * whole.targets).view(-1, 1, 1).to(torch.uint8)
        inputs[:, 1] += (40 * whole.attributes).view(-1, 1, 1).to(torch.uint8)
        order = torch.randperm(len(whole), generator=generator)
        return Split(inputs, whole.targets, attributes=whole.attributes).take(order)

    validation, test = split(), split()
    training = split() if training is None else split(training)
    return FeatureSets(training, validation, test, validation, test, lambda images: images.float() / 255)


def test_a_check_counts_every_group_the_same(monkeypatch):
    settings = configured(phantom_examples=30)
    sets = unequal([60, 20, 12, 8], 0, settings, training=[40, 30, 20, 10])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    monkeypatch.setattr(checks, "probe", lambda *args, **how: _probe(*args, **how, Cs=(1.0,)))
    from lowland.features import probe as _probe

    record = GroupedCheck(model, sets, settings)(settings.steps, None)
    groups = sets.test.targets * 2 + sets.test.attributes
    with evaluating(model), torch.no_grad():
        wrong = (model(sets.test.inputs.float() / 255).argmax(1) != sets.test.targets).double()
    by_group = [wrong[groups == group].mean().item() for group in range(4)]
    assert record["worst_group_error"] == pytest.approx(max(by_group))
    assert record["group_balanced_error"] == pytest.approx(sum(by_group) / 4)
    assert record["test_error"] == pytest.approx(wrong.mean().item())
    assert record["adjusted_error"] == pytest.approx(np.dot([0.4, 0.3, 0.2, 0.1], by_group))  # as in training

    # A textbook probe: four fifths of each group of the validation images, each by one over the size of its group.
    features = {
        name: extract(model, [split.inputs.float() / 255]).double().numpy()
        for name, split in (("validation", sets.validation), ("test", sets.test))
    }
    labels = (sets.validation.targets * 2 + sets.validation.attributes).numpy()
    for name, column in (("hard", "targets"), ("easy", "attributes")):
        targets = getattr(sets.validation, column).numpy()
        random = np.random.default_rng(settings.seed)
        kept = []
        for target in (0, 1):
            for group in range(4):
                cell = np.flatnonzero((labels == group) & (targets == target))
                if len(cell):
                    kept.append(random.permutation(cell)[round(0.2 * len(cell)) :])
        kept = np.concatenate(kept)
        mean, deviation = features["validation"][kept].mean(0), features["validation"][kept].std(0)
        sizes = np.bincount(labels[kept])
        weights = len(kept) / (4 * sizes[labels[kept]])
        fit = LogisticRegression(C=1.0, max_iter=1000, tol=1e-6)
        fit.fit((features["validation"][kept] - mean) / deviation, targets[kept], sample_weight=weights)
        wrong = fit.predict((features["test"] - mean) / deviation) != getattr(sets.test, column).numpy()
        by_group = [wrong[groups.numpy() == group].mean() for group in range(4)]
        assert record[f"{name}_error"] == pytest.approx(np.mean(by_group), abs=0.02)  # float32 against float64
        assert record[f"{name}_worst_group_error"] == pytest.approx(max(by_group), abs=0.1)

    found = deep_feature_reweighting(
        extract(model, [sets.validation.inputs.float() / 255]), sets.validation.targets, labels,
        test=(extract(model, [sets.test.inputs.float() / 255]), sets.test.targets, groups), seed=settings.seed,
    )  # fmt: skip
    assert record["reweighted_worst_group_error"] == found.worst_group_error
    of_groups = [found.error_by_group[group] for group in range(4)]
    assert record["reweighted_adjusted_error"] == pytest.approx(np.dot([0.4, 0.3, 0.2, 0.1], of_groups))
    assert record["reweighted_group_balanced_error"] == found.group_balanced_error


def test_reweighting_is_left_to_the_last_step_and_weights_are_of_images_drawn_at_random():
    settings = configured(phantom_examples=30)
    sets = unequal([60, 20, 12, 8], 0, settings)
    check = GroupedCheck(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), sets, settings)
    record = check(0, None)
    assert not any("reweighted" in name for name in record)
    assert check.sets is sets
    weighed = check.importance_examples()
    assert len(weighed) == 30
    assert not torch.equal(weighed.inputs, sets.train.inputs[:30])
    assert len({image.numpy().tobytes() for image in weighed.inputs}) == 30


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_a_copy(drawn, lowland, tmp_path, request, name):
    if name != "waterbirds":
        request.getfixturevalue("undrawn")
    outcome = lowland("run", f"springer2024/{name}", "--scale", "smoke", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert [row["name"] for row in summary["table"]] == ["sgd", "sam", "lsam"]
    for row in summary["table"]:
        assert {"hard feature", "easy feature", "worst group", "groups balanced", "test error"} < set(row["measures"])
        assert row["measures"]["worst group, reweighted"]["mean"] == 0  # a class is a colour
    assert len(summary["metrics"]["lsam"]["lorenz_phantom"]) == 101
    if name == "waterbirds":
        for figure in find("springer2024/waterbirds").figures:
            assert (tmp_path / f"run/figures/{figure.name}.png").exists()


def test_a_resnet_starts_from_a_file(drawn, tmp_path):
    saved = bottleneck_resnet(width=2)
    torch.save(saved.state_dict(), tmp_path / "weights.pth")
    changes = {"network": "resnet-50", "width": 2, "size": 32, "weights": tmp_path / "weights.pth"}
    task = task_of(configured(**changes))
    for tensor, other in zip(list(task.model.parameters())[:-2], list(saved.parameters())[:-2], strict=True):
        assert torch.equal(tensor, other)
    assert task.model[-1].weight.shape == (2, 64)
    before = task.model.bn1.running_mean.clone()
    x, y = task.batch(0)
    task.loss_fn(task.model(x), y)
    assert not torch.equal(task.model.bn1.running_mean, before)  # it is not frozen


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("network=resnet-50", "weights=missing.pth"), "there is no missing.pth"),
        (("weights=missing.pth",), "resnet-50"),
        (("network=cnn", "width=4"), "multiple of 8"),
        (("examples=21",), ("examples is 21", "20 training images")),
        (("batch_size=11",), "batch_size is 11"),
        (("size=4",), "size"),
    ],
)
def test_bad_settings(drawn, refused, changes, says):
    settings = (part for change in changes for part in ("--set", change))
    refused("run", "springer2024/celeba", "--scale", "smoke", *settings, says=says)


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_and_groups_that_are_too_small(refused, tmp_path, monkeypatch, name):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path))
    data._load_groups.cache_clear()
    refused("run", f"springer2024/{name}", "--scale", "smoke", says=(name, "missing"))
    DRAW[name](tmp_path, 48)
    refused("run", f"springer2024/{name}", "--scale", "smoke", says=("validation has 4 images of the group", "take 5"))


def test_more_images_than_there_are(drawn):
    with pytest.raises(SettingError, match=r"examples is 162770, and .*celeba has 20 training images"):
        grouped_sets("celeba", configured(scale="paper", seeds=1, size=16), CPU)


def test_gender_is_the_hard_feature_of_celeba(drawn):
    sets = {name: grouped_sets(name, configured(name), CPU) for name in NAMES}
    assert (sets["celeba"].easy, sets["celeba"].hard) == ("targets", "attributes")  # the target is hair colour
    assert (sets["waterbirds"].easy, sets["waterbirds"].hard) == ("attributes", "targets")  # and the bird
    assert data._load_groups(drawn, "celeba", 16).attributes[1].lower() == "male"


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_views_at_paper_scale(drawn, name):
    settings = configured(name, scale="paper", arm="sam-0")
    assert (settings.weights, settings.augment) == ("imagenet", "on")
    assert (configured(name).weights, configured(name).augment) == ("none", "off")
    with pytest.raises(DataError, match=r"imagenet/resnet50.pth is missing: place"):
        task_of(configured(name, network="resnet-50", width=2, weights="imagenet"), name)


def test_views_are_crops_of_the_images_of_the_batch(drawn):
    plain, seen = (task_of(configured(augment=augment)) for augment in ("off", "on"))
    (x, y), (view, classes) = plain.batch(0), seen.batch(0)
    assert torch.equal(y, classes)
    assert x.shape == view.shape
    assert not torch.equal(x, view)
    assert torch.equal(view, seen.batch(0)[0])
    # A crop, resized bilinearly, has no colour brighter or darker than its image.
    assert (view.amax((2, 3)) <= x.amax((2, 3)) + 1e-5).all()
    assert (view.amin((2, 3)) >= x.amin((2, 3)) - 1e-5).all()
