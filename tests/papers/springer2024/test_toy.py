"""Points whose features are known, networks side by side against one at a time, probes against scikit-learn's."""

import json

import pytest
import torch
from torch.nn import functional as F

from lowland import SAM, features
from lowland.optim.scope import last_layer
from lowland.papers import find
from lowland.papers.springer2024.check import logistic_regression, probing_errors
from lowland.papers.springer2024.data import MARGIN, draw_points
from lowland.papers.springer2024.methods import Mechanism
from lowland.papers.springer2024.toy import ToyRuns

CPU = torch.device("cpu")


def configured(**changes):
    return find("springer2024/toy").configure("smoke", {name: str(value) for name, value in changes.items()})


@pytest.mark.parametrize("slabs", [3, 5])
def test_each_feature_alone_gives_its_label(slabs):
    points = draw_points(4000, slabs, 3, 0.0, 1, 0)
    x, easy, hard = points.x[0], points.easy[0], points.hard[0]
    assert x.shape == (4000, 5)
    assert torch.equal(x[:, 0].sign(), easy)
    assert x[:, 0].abs().min() >= MARGIN
    assert x.abs().max() <= 1
    width = {3: 1.6 / 3, 5: 0.24}[slabs]  # with gaps of 0.2 between them
    place, within = x[:, 1] / (width + 0.2), (x[:, 1] + width / 2) % (width + 0.2)
    ring = place.round().abs()
    assert torch.equal(2 * (ring % 2) - 1, hard)  # the centre is −
    assert within.max() <= width + 1e-9
    shares = torch.bincount(ring.long()) / 4000
    assert shares.tolist() == pytest.approx([0.5, 0.5] if slabs == 3 else [0.375, 0.5, 0.125], abs=0.03)
    assert x[:, 1].sign().mean().abs() < 0.05  # either side
    assert (easy * hard).mean().abs() < 0.1  # independent
    assert hard.mean().abs() < 0.1


def test_a_rotation_is_that_of_the_seed():
    plain, turned = (
        [draw_points(50, 3, 2, 1.0, 0, part, rotate=rotate) for part in (0, 1)] for rotate in (False, True)
    )
    (rotation, others) = (torch.linalg.lstsq(a.x[0], b.x[0]).solution for a, b in zip(plain, turned, strict=True))
    assert torch.allclose(rotation, others)
    assert torch.allclose(rotation @ rotation.T, torch.eye(4).double())
    assert torch.equal(plain[0].hard, turned[0].hard)


def test_correlation():
    assert torch.equal(*(getattr(draw_points(100, 5, 1, 1.0, 0, 0), name) for name in ("easy", "hard")))
    half = draw_points(4000, 5, 1, 0.5, 0, 0)
    assert (half.easy * half.hard).mean().item() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(draw_points(9, 5, 1, 1.0, 0, 0).x, draw_points(9, 5, 1, 1.0, 0, 1).x)
    assert not torch.equal(draw_points(9, 5, 1, 1.0, 0, 0).x, draw_points(9, 5, 1, 1.0, 1, 0).x)


def one_at_a_time(name, settings, runs, k, s):
    """The weights of one run after an epoch of an ordinary loop."""
    model = torch.nn.Sequential(torch.nn.Linear(2, settings.width), torch.nn.ReLU(), torch.nn.Linear(settings.width, 1))
    model = model.double()
    before = ToyRuns({name: settings}, CPU, torch.float64)
    with torch.no_grad():
        for p, w in zip(model.parameters(), before.weights.tensors, strict=True):
            p.copy_(w[0, 0].view_as(p))
    base = torch.optim.SGD(model.parameters(), lr=settings.lr)
    if settings.rho == 0 or settings.method in ("sam", "lsam"):
        optimizer = SAM(base, rho=settings.rho, model=model, scope=last_layer if settings.method == "lsam" else None)
    else:
        optimizer = Mechanism(
            base, settings.rho, model,
            weights=settings.method == "phantom-weights", scaling=settings.method == "phantom-scaling",
        )  # fmt: skip
    for step in range(settings.steps):
        before.train(1)
        batch = slice(step % 8 * 5, step % 8 * 5 + 5)
        x, y = before._x[0, batch], before._y[0, batch]

        def closure(x=x, y=y):
            loss = F.softplus(-y * model(x)[:, 0]).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
    for p, w in zip(model.parameters(), runs.weights.tensors, strict=True):
        assert torch.allclose(p, w[s, k].view_as(p), rtol=1e-9, atol=1e-12), name


def test_networks_side_by_side_are_those_of_an_ordinary_loop():
    arms = configured(lr=0.1)
    runs = ToyRuns(arms, CPU, torch.float64)
    runs.train(3)
    runs.train(13)
    names = runs.names[1]
    assert len(names) == 13
    for k in (0, 2, 5, 8, 11):  # one of each method
        one_at_a_time(names[k], arms[names[k]], runs, k, 1)


def test_what_is_measured():
    arms = configured(lr=0.1)
    runs = ToyRuns(arms, CPU, torch.float64)
    runs.train(next(iter(arms.values())).steps)
    record = runs.measure()["lsam-rho-0.3-1"]
    k, w = runs.names[1].index("lsam-rho-0.3-1"), runs.weights
    test = runs.points["test"]
    f = w.outputs(test.x)[1, :, k]
    assert record["test_error"] == pytest.approx((f * test.hard[1] <= 0).double().mean().item())
    assert record["test_loss"] == pytest.approx(F.softplus(-f * test.hard[1]).mean().item())

    first, last = torch.nn.Linear(2, 20).double(), torch.nn.Linear(20, 1).double()
    model = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    with torch.no_grad():
        for p, t in zip(model.parameters(), w.tensors, strict=True):
            p.copy_(t[1, k].view_as(p))
    x, y = runs.points["train"].x[1], runs.points["train"].hard[1]
    pulls = features.importance_weights(model, [(x, y)], 0.1, scope=last_layer)
    assert record["gini_real"] == pytest.approx(features.gini(pulls.real))
    assert record["gini_phantom"] == pytest.approx(features.gini(pulls.phantom))
    assert record["lorenz_real"][-1] == pytest.approx(1)

    apart = runs.apart[2]
    groups = 2 * (apart.hard[1] > 0) + (apart.easy[1] > 0)
    predicted = (model(apart.x[1])[:, 0] > 0).long()
    worst = features.worst_group_accuracy(predicted, (apart.hard[1] > 0).long(), groups.long())
    assert record["worst_group_error"] == pytest.approx(1 - worst)


def test_probes_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)

    def drawn(n):
        x = torch.randn(3, n, 6, generator=generator, dtype=torch.float64) * torch.arange(1, 7)
        x[..., 5] = 4.0  # a feature that says nothing
        noise = 0.8 * torch.randn(3, n, generator=generator)
        return x, torch.where(x[..., 0] + x[..., 1] / 3 + noise > 0.3, 1.0, -1.0)

    sets, Cs = [drawn(n) for n in (60, 40, 500)], (0.001, 0.1, 10.0)
    found = probing_errors(*sets, Cs)
    for run in range(3):
        train, validation, test = ((x[run], (y[run] > 0).long()) for x, y in sets)
        expected = features.probe(*train, test=test, validation=validation, Cs=Cs, max_iter=5000, show_progress=False)
        assert found[run].item() == pytest.approx(expected.error, abs=0.004)


def test_newton_finds_the_minimum_of_separable_data_too():
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(2, 30, 3, generator=generator, dtype=torch.float64), torch.ones(2, 30, 1)], 2)
    y = torch.where(x[..., 0] > 0, 1.0, -1.0).double()
    w = logistic_regression(x, y, 100.0, torch.zeros(2, 4, dtype=torch.float64)).requires_grad_()
    margins = y * (x @ w[..., None])[..., 0]
    loss = 100 * F.softplus(-margins).sum() + w[:, :-1].square().sum() / 2
    assert torch.autograd.grad(loss, w)[0].abs().max() < 1e-3
    assert (margins > 0).all()


def test_a_run_resumes_to_the_same_bits_and_ends_with_a_table(lowland, undrawn, tmp_path):
    outcome = lowland("run", "springer2024/toy", "--scale", "smoke", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    for text in ("hard feature", "phantom-scaling", "Gini, phantom"):
        assert text in outcome.out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    rows = {row["name"]: row for row in summary["table"]}
    assert list(rows) == ["sgd", "sam", "lsam", "phantom-weights", "phantom-scaling"]
    assert rows["sgd"]["measures"]["hard feature"]["n"] == 2
    assert rows["sgd"]["runs"] == {"0": "sgd-0", "1": "sgd-1"}
    arms = configured()
    straight, paused = ToyRuns(arms, CPU), ToyRuns(arms, CPU)
    straight.train(12)
    paused.train(7)
    resumed = ToyRuns(arms, CPU)
    resumed.load_state_dict(paused.state_dict())
    resumed.train(5)
    assert all(map(torch.equal, straight.weights.tensors, resumed.weights.tensors))


def test_a_network_that_diverges_leaves_the_others_alone():
    arms = configured(**{"sgd.lr": 1e30})
    runs = ToyRuns(arms, CPU)
    runs.train(3)
    records = runs.measure()
    assert isinstance(records["sgd-0"], FloatingPointError)
    alone = ToyRuns({name: settings for name, settings in arms.items() if not name.startswith("sgd")}, CPU)
    alone.train(3)
    for name, record in alone.measure().items():
        assert records[name] == pytest.approx(record)


def test_bad_settings(refused):
    run = ("run", "springer2024/toy", "--scale", "smoke", "--set")
    refused(*run, "correlation=1.5", says="correlation")
    refused(*run, "batch_size=100", says=("batch_size", "40"))
    refused(*run, "sam-rho-0.1.width=9", says="width must be the same in all arms")
    refused(*run, "slabs=4", says="3 or 5")
    refused(*run, "sgd.seeds=3", says="the same")
