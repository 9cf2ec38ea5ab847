"""Networks with separate features against an ordinary loop, what is measured of them, and the claims."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland import SAM
from lowland.optim.scope import last_layer
from lowland.papers import find
from lowland.papers.springer2024.claims import larger_ratio
from lowland.papers.springer2024.figures import ratio_against_rho
from lowland.papers.springer2024.methods import Mechanism
from lowland.papers.springer2024.toy import SeparateRuns
from lowland.training import Outcome

CPU = torch.device("cpu")
NAME = "springer2024/toy-separate"


def configured(**changes):
    return find(NAME).configure("smoke", {name: str(value) for name, value in changes.items()})


class Separate(nn.Module):
    """The same network as modules."""

    def __init__(self, weights, s, k):
        super().__init__()
        self.W, self.b, self.a = (nn.Parameter(w[s, k].clone()) for w in weights.tensors[:3])
        self.last = nn.Linear(2, 1, bias=False).double()
        with torch.no_grad():
            self.last.weight.copy_(weights.v[s, k][None])

    def forward(self, x):
        z = [(x[:, f, None] * self.W[f] + self.b[f]).relu() @ self.a[f] for f in (0, 1)]
        return self.last(torch.stack(z, 1))


def test_networks_side_by_side_are_those_of_an_ordinary_loop():
    arms = configured(lr=0.1)
    runs, before = SeparateRuns(arms, CPU, torch.float64), SeparateRuns(arms, CPU, torch.float64)
    names, begun = runs.names[1], runs.weights
    runs.train(3)
    runs.train(9)
    for k in (0, 2, 5, 8, 11):  # one of each method
        settings, model = arms[names[k]], Separate(begun, 1, k)
        base = torch.optim.SGD(model.parameters(), lr=settings.lr)
        if settings.rho == 0 or settings.method in ("sam", "lsam"):
            scope = last_layer if settings.method == "lsam" else None
            optimizer = SAM(base, rho=settings.rho, model=model, scope=scope)
        else:
            optimizer = Mechanism(
                base, settings.rho, model,
                weights=settings.method == "phantom-weights", scaling=settings.method == "phantom-scaling",
            )  # fmt: skip
        before.step, before._epoch = 0, -1
        for step in range(12):
            before.train(1)
            batch = slice(step % 8 * 5, step % 8 * 5 + 5)
            x, y = before._x[1, batch], before._y[1, batch]

            def closure(x=x, y=y, model=model):
                loss = F.softplus(-y * model(x)[:, 0]).mean()
                loss.backward()
                return loss

            optimizer.step(closure)
        found = (model.W, model.b, model.a, model.last.weight[0])
        for p, w in zip(found, runs.weights.tensors, strict=True):
            assert torch.allclose(p, w[1, k], rtol=1e-9, atol=1e-12), names[k]


def test_each_effect_on_the_last_layer_to_first_order():
    """What a small ρ adds to the gradient of v_j, by hand, with λ = sigmoid(−y f), g the gradient and u = g/‖g‖.

    The importance weights add ρ mean(λ (1 − λ) (∇f·u) z_j), the perturbed features ρ ‖g_j‖²/(v_j ‖g‖), where g_j is the
    gradient of sub-network j, and the scaling nothing; together that is ρ times the Hessian times u.
    """
    rho, methods = 1e-5, ("sam", "phantom-weights", "phantom-scaling")
    arms = configured(lr=0.1)
    names = {method: f"{method}-rho-0.1-0" for method in methods}
    runs = SeparateRuns({name: replace(arms[name], rho=rho) for name in names.values()}, CPU, torch.float64)
    x, y = runs.points["train"].x[:, :5], runs.points["train"].hard[:, :5]
    begun = runs.weights
    runs.weights = runs.networks.step(begun, x, y)

    model = Separate(begun, 0, 0)
    f = model(x[0])[:, 0]
    parameters = [model.W, model.b, model.a, model.last.weight]
    g = torch.autograd.grad(F.softplus(-y[0] * f).mean(), parameters, create_graph=True)
    norm = torch.cat([each.flatten() for each in g]).norm().detach()
    u = [each.detach() / norm for each in g]
    along = sum((p * q).sum() for p, q in zip(g, u, strict=True))
    hessian_u = torch.autograd.grad(along, parameters, retain_graph=True)[3][0]
    slopes = [torch.autograd.grad(each, parameters, retain_graph=True) for each in f]
    slopes = torch.stack([sum((p * q).sum() for p, q in zip(slope, u, strict=True)) for slope in slopes])
    pulled, v = torch.sigmoid(-y[0] * f), model.last.weight[0]
    z = torch.stack([(x[0, :, j, None] * model.W[j] + model.b[j]).relu() @ model.a[j] for j in (0, 1)], 1)
    by_weights = ((pulled * (1 - pulled) * slopes)[:, None] * z).mean(0)
    by_features = sum(each.square().flatten(1).sum(1) for each in g[:3]) / (v * norm)

    plain = begun.v[0, 0] - 0.1 * g[3][0]
    rates = {
        method: (plain - runs.weights.v[0, runs.names[0].index(name)]) / (0.1 * rho) for method, name in names.items()
    }
    assert torch.allclose(rates["phantom-weights"], by_weights, rtol=1e-4)
    assert torch.allclose(rates["phantom-scaling"], torch.zeros(2).double(), atol=1e-9)
    assert torch.allclose(by_weights + by_features, hessian_u, rtol=1e-9)
    assert torch.allclose(rates["sam"], hessian_u, rtol=1e-3)


def test_what_is_measured():
    runs = SeparateRuns(configured(lr=0.1), CPU, torch.float64)
    assert runs.measure()["sgd-0"]["ratio"] == pytest.approx(1)
    runs.train(16)
    record, k = runs.measure()["lsam-rho-0.3-1"], runs.names[1].index("lsam-rho-0.3-1")
    model = Separate(runs.weights, 1, k)
    test = runs.points["test"]
    f = model(test.x[1])[:, 0]
    assert record["test_error"] == pytest.approx((f * test.hard[1] <= 0).double().mean().item())
    assert record["test_loss"] == pytest.approx(F.softplus(-f * test.hard[1]).mean().item())
    easy, hard = runs.weights.v[1, k].abs().tolist()
    assert (record["v_easy"], record["v_hard"], record["ratio"]) == pytest.approx((easy, hard, hard / easy))
    x = test.x[1]
    parts = [
        ((x[:, n, None] * model.W[n] + model.b[n]).relu() @ model.a[n]).abs().mean() * (easy, hard)[n] for n in (0, 1)
    ]
    assert record["hard_share"] == pytest.approx((parts[1] / (parts[0] + parts[1])).item())


def test_the_claims():
    arms = configured(seeds=5)
    made = {
        label: Outcome(s, [{"step": 1, "ratio": 0.5 + s.rho * (1 + 0.1 * s.seed), "hard_share": 0.2}])
        for label, s in arms.items()
    }
    verdict = larger_ratio("sam")(made)
    assert verdict.passed is True
    assert verdict.measured == pytest.approx(-0.12)
    ratio, share, ratio_difference, _ = ratio_against_rho(made)
    assert list(ratio.lines[0].x) == [0, 0.03, 0.1, 0.3]
    assert ratio.lines[0].y[0] == pytest.approx(0.5)
    assert (ratio.ylabel, share.ylabel) == ("v_hard / v_easy", "share of the hard feature")
    assert list(ratio_difference.lines[0].x) == [0.03, 0.1, 0.3]
    assert ratio_difference.lines[0].y[1] == pytest.approx(0.12)


def test_claims_of_networks_that_are_not_trained_are_undecided():
    def verdict(error):
        made = {
            label: Outcome(s, [{"step": 1, "ratio": 0.5 + s.rho * (1 + 0.1 * s.seed), "train_error": error}])
            for label, s in configured(seeds=5).items()
        }
        return next(claim for claim in find(NAME).claims if claim.id == "ratio-sam").decide(made)

    assert verdict(0.0).passed is True
    assert verdict(0.1).passed is None
    assert verdict(0.1).reason == ("SGD's training error is 0.1, and the claim is about networks that get to 0.02")


def test_a_run(lowland, undrawn, tmp_path, refused):
    outcome = lowland("run", NAME, "--scale", "smoke", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"]["phantom-scaling-rho-0.3-1"]["ratio"] > 0
    arms = configured()
    straight, resumed = SeparateRuns(arms, CPU), SeparateRuns(arms, CPU)
    straight.train(5)
    resumed.load_state_dict(straight.state_dict())
    straight.train(6)
    resumed.train(6)
    assert all(map(torch.equal, straight.weights.tensors, resumed.weights.tensors))
    refused("run", NAME, "--scale", "smoke", "--set", "rotate=true", says="rotate=false")
