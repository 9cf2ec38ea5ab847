"""Weights from run directories and files, and everything that can be wrong with them."""

import re
import shutil

import pytest
import torch
from torch import nn

from lowland import training
from lowland.errors import RunError, SettingError
from lowland.models import bottleneck_resnet, preact_resnet, resnet
from lowland.training.weights import load_pretrained, load_weights, read_weights
from tests.fakes import TOY


def network(**changes):
    return preact_resnet(**{"blocks": (1, 1, 1, 1), "width": 2} | changes)


def tensors(seed=0):
    torch.manual_seed(seed)
    return network().state_dict()


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def refused(error, says, call, *arguments, **keywords):
    with pytest.raises(error, match=re.escape(says)) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(tensors(), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with two arms, and what its arm ``sam`` came to."""
    path, device = tmp_path_factory.mktemp("run"), torch.device("cpu")
    arms = TOY.configure("smoke", {})
    with training.RunDirectory(path, training.configuration(TOY, "smoke", arms, device)) as directory:
        trained = training.train(TOY, arms, directory, device, show_progress=False)
    return path, trained["sam"].records[-1]["weight"]


def test_a_run(run):
    path, total = run
    for where in (path, str(path), path / "checkpoint.pt"):
        weights = read_weights(where, "sam")
        assert list(weights) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert weights["0.weight"].sum().item() == pytest.approx(total)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 1))
    load_weights(model, weights, path)
    assert same(model.state_dict(), weights)
    assert not same(read_weights(path, "plain"), weights)


def test_a_run_of_one_arm_needs_no_name(run, tmp_path):
    arms = torch.load(run[0] / "checkpoint.pt")["arms"]
    torch.save({"arms": {"sam": arms["sam"]}}, tmp_path / "checkpoint.pt")
    assert same(read_weights(tmp_path), arms["sam"]["model"])


def test_what_a_run_lacks(run, tmp_path):
    refused(SettingError, "several arms: choose one of sam, plain", read_weights, run[0])
    refused(SettingError, "has no arm sgd: choose one of sam, plain", read_weights, run[0], "sgd")
    refused(SettingError, "leave the key last out", read_weights, run[0], "sam", "last")
    refused(RunError, "there is no", read_weights, tmp_path)
    torch.save({"arms": {"sam": {"step": 0}}}, tmp_path / "checkpoint.pt")
    refused(RunError, "diverged before the first checkpoint", read_weights, tmp_path)
    torch.save({"arms": {"sam": {"step": 0}}, "stacks": []}, tmp_path / "checkpoint.pt")
    refused(RunError, "trained as one program with others", read_weights, tmp_path)


def test_a_state_dict(file):
    assert same(read_weights(file), tensors())
    model = network()
    load_weights(model, read_weights(str(file)), file)
    assert same(model.state_dict(), tensors())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_papers_files(tmp_path, prefix):
    names = ("last", "best", "swa_last", "swa_best")
    states = {name: tensors(seed) for seed, name in enumerate(names)}
    saved = {name: {prefix + entry: t for entry, t in state.items()} for name, state in states.items()}
    torch.save(saved, tmp_path / "model.pth")
    assert same(read_weights(tmp_path / "model.pth"), states["last"])
    for name in names:
        assert same(read_weights(tmp_path / "model.pth", key=name), states[name])
    message = "has no key first: choose one of last, best, swa_last, swa_best"
    refused(SettingError, message, read_weights, tmp_path / "model.pth", key="first")


def test_a_prefix_that_is_not_before_all_names_stays(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "w.pt")
    assert list(read_weights(tmp_path / "w.pt")) == ["module.a", "b"]


def test_saved_on_a_device_that_is_not_here(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda storage: "cuda:7")
        torch.save(tensors(), tmp_path / "w.pt")
    with pytest.raises(RuntimeError):
        torch.load(tmp_path / "w.pt")
    assert same(read_weights(tmp_path / "w.pt"), tensors())


def test_arguments_of_the_other_kind_of_file(file):
    refused(SettingError, "leave the arm sam out", read_weights, file, "sam")
    refused(SettingError, "leave the key best out", read_weights, file, key="best")


def test_missing_files(tmp_path):
    for path in (tmp_path / "nowhere.pt", tmp_path / "nowhere" / "run"):
        refused(RunError, f"there is no {path}", read_weights, path)


@pytest.mark.parametrize("damage", ["empty", "half", "start", "bit", "text"])
def test_damaged_files(file, damage):
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[content.find(tensors()["layer4.0.conv2.weight"].numpy().tobytes()) + 6] ^= 1
    cut = {"empty": 0, "half": len(content) // 2, "start": 1000, "bit": len(content)}
    file.write_bytes(bytes(content[: cut[damage]]) if damage in cut else b"not weights\n" * 9)
    refused(RunError, "is damaged", read_weights, file)


def test_a_damaged_run(run, tmp_path):
    shutil.copy(run[0] / "checkpoint.pt", tmp_path)
    with (tmp_path / "checkpoint.pt").open("r+b") as content:
        content.truncate(2000)
    refused(RunError, "is damaged", read_weights, tmp_path, "sam")


class Code:
    """What no file of weights may bring along."""


@pytest.mark.parametrize("content", [{"last": tensors(), "settings": Code()}, Code()])
def test_objects_are_not_loaded(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    refused(RunError, "objects that are no tensors", read_weights, tmp_path / "w.pt")


@pytest.mark.parametrize("content", [{}, 3, [torch.zeros(2)], {"epoch": 3, "last": {}}, torch.zeros(2)])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    refused(RunError, "holds no weights", read_weights, tmp_path / "w.pt")


def test_unreadable(file, monkeypatch):
    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", deny)
    refused(RunError, "can't be read: Permission denied", read_weights, file)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            network(width=4),
            "first conv1.weight: (2, 3, 3, 3) in the file, (4, 3, 3, 3) in the network",
        ),
        (network(norm="group"), "27 unexpected, first layer1.0.bn1.running_mean"),
        (network(blocks=(2, 1, 1, 1)), "12 missing, first layer1.1.bn1.weight"),
        (resnet((1, 1, 1, 1), 2, 10), "first bn1.weight"),
        (network(classes=100), "the file has 10 classes, the network 100"),
        (network(classes=2), "the file has 10 classes, the network 2"),
        (network(classes=100, width=4), "of another shape, first conv1.weight"),
    ],
)
def test_another_network(file, model, says):
    before = {name: t.clone() for name, t in model.state_dict().items()}
    refused(RunError, says, load_weights, model, read_weights(file), file)
    refused(RunError, str(file), load_weights, model, read_weights(file), file)
    assert same(model.state_dict(), before)


def test_two_classes_have_one_output(tmp_path):
    two = network(classes=2).state_dict()
    refused(RunError, "has 2 classes, the network 10", load_weights, network(), two, "file")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(bad):
    weights = tensors()
    weights["layer2.0.conv1.weight"][0, 0, 0, 0] = weights["bn.running_var"][-1] = bad
    model = network()
    message = "NaN or infinity in 2 tensors, first layer2.0.conv1.weight"
    refused(RunError, message, load_weights, model, weights, "file")
    assert all(t.isfinite().all() for t in model.state_dict().values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_onto_and_from_a_gpu(tmp_path):
    torch.save({k: v.cuda() for k, v in tensors().items()}, tmp_path / "w.pt")
    weights, model = read_weights(tmp_path / "w.pt"), network().cuda()
    assert all(t.device.type == "cpu" for t in weights.values())
    load_weights(model, weights, tmp_path)
    assert same({k: v.cpu() for k, v in model.state_dict().items()}, tensors())


def backbone(**changes):
    return bottleneck_resnet(**{"blocks": (1, 1, 1, 1), "width": 2, "classes": 10} | changes)


@pytest.fixture
def pretrained(tmp_path):
    path = tmp_path / "resnet50.pth"
    torch.save(backbone().state_dict(), path)
    return path


def test_pretrained_for_the_same_classes(pretrained):
    model = backbone()
    load_pretrained(model, pretrained)
    assert same(model.state_dict(), torch.load(pretrained))


@pytest.mark.parametrize("classes", [2, 100])
def test_pretrained_for_other_classes_keeps_the_last_layer(pretrained, classes):
    model, there = backbone(classes=classes), torch.load(pretrained)
    own = model.fc.weight.detach().clone()
    load_pretrained(model, pretrained)
    assert model.fc.weight.equal(own)
    here = model.state_dict()
    assert all(torch.equal(here[name], there[name]) for name in there if not name.startswith("fc."))


def test_pretrained_from_before_batches_were_counted(pretrained):
    """Such files hold parameters, in the older format of torch.save, and no num_batches_tracked."""
    there = torch.load(pretrained)
    old = {name: nn.Parameter(t) for name, t in there.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, pretrained, _use_new_zipfile_serialization=False)
    model = backbone()
    load_pretrained(model, str(pretrained))
    assert same(model.state_dict(), there)


def without(name):
    return lambda weights: {other: tensor for other, tensor in weights.items() if other != name}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without("layer2.0.conv3.weight"), "1 missing, first layer2.0.conv3.weight"),
        (without("layer2.0.bn3.running_var"), "1 missing, first layer2.0.bn3.running_var"),
        (without("fc.bias"), "1 missing, first fc.bias"),
        (lambda weights: weights | {"conv1.weight": torch.zeros(2, 3, 3, 3)}, "(2, 3, 3, 3) in the file, (2, 3, 7, 7)"),
        (lambda weights: weights | {"fc.weight": torch.zeros(9, 63)}, "first fc.weight: (9, 63) in the file, (10, 64)"),
        (lambda weights: weights | {"bn1.bias": torch.full((2,), torch.nan)}, "NaN or infinity in 1 tensors"),
    ],
)
def test_wrong_pretrained(pretrained, damage, says):
    torch.save(damage(torch.load(pretrained)), pretrained)
    model = backbone()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    refused(RunError, says, load_pretrained, model, pretrained)
    refused(RunError, str(pretrained), load_pretrained, model, pretrained)
    assert same(model.state_dict(), before)
