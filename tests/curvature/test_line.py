"""The loss along a line against closed forms and a textbook loop, in float64."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from lowland.curvature import along_line


def net(seed, *between):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), *between, nn.Tanh(), nn.Linear(4, 2)).double()


def with_batch_norm(seed):
    model = net(seed, nn.BatchNorm1d(4).double())
    x, _ = data(8, seed)
    for _ in range(3):  # statistics of the model's own
        model(5 * x + seed)
    return model


def data(n=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator, dtype=torch.float64), torch.arange(n) % 2


def error(out, y):
    return (out.argmax(1) != y).double().mean()


def between(model_a, model_b, t):
    model, b = copy.deepcopy(model_a), dict(model_b.named_parameters())
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_((1 - t) * param + t * b[name])
    return model


def test_a_quadratic_is_a_parabola():
    # ‖Xw − y‖²/n along a line: L(t) = (1 − t) L(0) + t L(1) − t (1 − t) ‖X(w_b − w_a)‖²/n, convex.
    torch.manual_seed(0)
    a, b = (nn.Linear(3, 1, bias=False).double() for _ in range(2))
    x, _ = data(9)
    y = torch.randn(9, 1, dtype=torch.float64)
    found = along_line(a, b, F.mse_loss, list(zip(x.split([5, 4]), y.split([5, 4]), strict=True)), [-1, 0, 0.3, 1, 2])
    ends = [F.mse_loss(model(x), y).item() for model in (a, b)]
    bend = F.mse_loss(a(x), b(x)).item()
    assert found.points == [-1, 0, 0.3, 1, 2]
    expected = [(1 - t) * ends[0] + t * ends[1] - t * (1 - t) * bend for t in found.points]
    assert found.loss == pytest.approx(expected, rel=1e-12)
    assert found.barrier == pytest.approx(0, abs=1e-15)  # at the ends; beyond them the parabola rises
    assert found.metrics == {}


def test_the_textbook_loop_with_metrics_and_unequal_batches():
    a, b, (x, y) = net(0, nn.Dropout(0.5)), net(1, nn.Dropout(0.5)), data()
    batches = [(x[:5], y[:5]), (x[5:6], y[5:6]), (x[6:], y[6:])]
    found = along_line(
        a, b, F.cross_entropy, batches, metrics={"error": lambda out, y: error(out, y).item(), "loss": F.cross_entropy}
    )
    assert found.points == [i / 20 for i in range(21)]
    whole = [between(a, b, t).eval()(x) for t in found.points]
    assert found.loss == pytest.approx([F.cross_entropy(out, y).item() for out in whole], rel=1e-12)
    assert found.metrics["error"] == pytest.approx([error(out, y).item() for out in whole])
    assert found.metrics["loss"] == found.loss
    chord = [(1 - t) * found.loss[0] + t * found.loss[-1] for t in found.points]
    assert found.barrier == max(high - low for high, low in zip(found.loss, chord, strict=True))
    assert found.barrier == found.barrier_of(found.metrics["loss"])
    with pytest.raises(ValueError, match="0 and 1"):
        _ = along_line(a, b, F.cross_entropy, batches, [0, 0.5]).barrier


def test_weights_of_batches():
    a, b, (x, y) = net(0), net(1), data()
    masked = lambda out, y: F.cross_entropy(out, y, ignore_index=1)  # noqa: E731
    counted = lambda x, y: (y == 0).sum()  # noqa: E731
    found = along_line(a, b, masked, [(x[:5], y[:5]), (x[5:], y[5:])], [0.5], weight=counted)
    assert found.loss == pytest.approx([masked(between(a, b, 0.5)(x), y).item()], rel=1e-12)


@pytest.mark.parametrize("pairs", [False, True])
def test_statistics_of_batch_norm_are_those_of_each_point(pairs):
    a, b, (x, y) = with_batch_norm(0), with_batch_norm(1), data(12)
    seen = data(13, 2)[0].split(4)[:3]
    statistics = [(xs, None) for xs in seen] if pairs else seen
    found = along_line(a, b, F.cross_entropy, [(x, y)], [0, 0.5, 1], statistics=statistics)
    expected = []
    for t in found.points:
        model = between(a, b, t)
        update_bn(seen, model)
        expected.append(F.cross_entropy(model.eval()(x), y).item())
    assert found.loss == pytest.approx(expected, rel=1e-12)
    assert found.loss[0] != pytest.approx(F.cross_entropy(copy.deepcopy(a).eval()(x), y).item(), rel=1e-3)
    # By default from the batches themselves.
    by_default = along_line(a, b, F.cross_entropy, [(x, y)], [0.5])
    middle = between(a, b, 0.5)
    update_bn([x], middle)
    assert by_default.loss == pytest.approx([F.cross_entropy(middle.eval()(x), y).item()], rel=1e-12)


def test_statistics_do_not_see_dropout_nor_the_point_before():
    models = [net(seed, nn.BatchNorm1d(4).double()) for seed in (0, 1)]
    dropping = [net(seed, nn.Dropout(0.5), nn.BatchNorm1d(4).double()) for seed in (0, 1)]
    x, y = data()
    found = along_line(*models, F.cross_entropy, [(x, y)], [0, 1, 0])
    assert found.loss == along_line(*dropping, F.cross_entropy, [(x, y)], [0, 1, 0]).loss
    assert found.loss[0] == found.loss[2]


@pytest.mark.parametrize("fails", [False, True])
def test_both_models_and_the_random_state_stay_as_they_are(fails):
    a, b, (x, y) = with_batch_norm(0), with_batch_norm(1), data()
    a.train()
    b.eval()
    a[1].eval()
    a[0].bias.requires_grad_(False)
    F.cross_entropy(a(x), y).backward()
    state = torch.get_rng_state()

    def everything(model):
        tensors = {**model.state_dict(), **{f"grad {n}": p.grad for n, p in model.named_parameters()}}
        modes = [(m.training, getattr(m, "momentum", None)) for m in model.modules()]
        own = [(id(p), p.requires_grad) for p in model.parameters()]
        return {n: None if v is None else v.clone() for n, v in tensors.items()}, modes, own

    before = [everything(model) for model in (a, b)]

    def loss_fn(out, y):
        if fails:
            raise RuntimeError("no loss")
        return F.cross_entropy(out, y)

    loader = torch.utils.data.DataLoader(list(zip(x, y, strict=True)), batch_size=4, shuffle=True)
    if fails:
        with pytest.raises(RuntimeError, match="no loss"):
            along_line(a, b, loss_fn, loader)
    else:
        found = along_line(a, b, loss_fn, loader, [0.5, 0.5])  # the same order at each point
        assert found.loss[0] == found.loss[1]
    assert torch.equal(torch.get_rng_state(), state)
    for (tensors, *others), model in zip(before, (a, b), strict=True):
        now, *others_now = everything(model)
        assert others_now == others
        for name, value in tensors.items():
            assert now[name] is None if value is None else torch.equal(now[name], value), name


class Tied(nn.Module):
    def __init__(self, seed, tied=True):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = (nn.Linear(3, 3).double() for _ in range(2))
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_tied_parameters():
    a, b, (x, y) = Tied(0), Tied(1), data()
    found = along_line(a, b, F.cross_entropy, [(x, y)], [0.0, 0.3])
    assert found.loss == pytest.approx([F.cross_entropy(between(a, b, t)(x), y).item() for t in (0.0, 0.3)], rel=1e-12)
    for pair in [(a, Tied(1, tied=False)), (Tied(0, tied=False), b)]:
        with pytest.raises(ValueError, match=r"second\.weight is one tensor with another in only one"):
            along_line(*pair, F.cross_entropy, [(x, y)])


def test_one_model_inside_what_wraps_it():
    a, b, (x, y) = net(0), net(1), data()
    wrapped = torch.compile(nn.DataParallel(b), backend="eager")
    assert along_line(a, wrapped, F.cross_entropy, [(x, y)]) == along_line(a, b, F.cross_entropy, [(x, y)])


def test_frozen_parameters_move_too():
    a, b, (x, y) = net(0).requires_grad_(False), net(1), data()
    assert along_line(a, b, F.cross_entropy, [(x, y)], [1]).loss == pytest.approx([F.cross_entropy(b(x), y).item()])


def test_models_that_differ():
    x, y = data()
    wider = net(0)
    wider[2] = nn.Linear(4, 3).double()
    without = net(0)
    without[2] = nn.Linear(4, 2, bias=False).double()
    for a, b, message in [
        (net(0), wider, r"2\.weight is \(2, 4\) of torch\.float64 in model_a, \(3, 4\)"),
        (net(0), without, r"only model_a has 2\.bias"),
        (without, net(0), r"only model_b has 2\.bias"),
        (net(0), net(1).float(), r"0\.weight is \(4, 3\) of torch\.float64 in model_a, \(4, 3\) of torch\.float32"),
        (net(0), with_batch_norm(0), r"only model_a has 2\.weight"),
    ]:
        with pytest.raises(ValueError, match=message):
            along_line(a, b, F.cross_entropy, [(x, y)])


def test_buffers():
    a, b, (x, y) = net(0), net(1), data()
    for model in (a, b):
        model.register_buffer("table", torch.arange(3.0))
    assert all(map(math.isfinite, along_line(a, b, F.cross_entropy, [(x, y)]).loss))
    b.table[1] = 7.0
    with pytest.raises(ValueError, match="table differs between the models"):
        along_line(a, b, F.cross_entropy, [(x, y)])


def test_what_is_not_finite_is_seen():
    a, b, (x, y) = net(0), net(1), data()
    with torch.no_grad():
        b[2].bias[0] = math.nan
    found = along_line(a, b, F.cross_entropy, [(x, y)], [0, 0.5, 1])
    assert math.isfinite(found.loss[1]) is False
    assert math.isnan(found.barrier)
    high = lambda out, y: torch.where(out.abs().max() > 0, math.inf, 0.0)  # noqa: E731
    assert along_line(a, net(1), high, [(x, y)], [0.5]).loss == [math.inf]


def test_bad_arguments():
    a, b, batches = net(0), net(1), [data()]
    for points in ([], [math.nan], [0, math.inf]):
        with pytest.raises(ValueError, match="points"):
            along_line(a, b, F.cross_entropy, batches, points)
    for options in ({"batches": iter(batches)}, {"batches": batches, "statistics": iter(batches)}):
        with pytest.raises(TypeError, match="generator"):
            along_line(a, b, F.cross_entropy, **options)
    with pytest.raises(ValueError, match=r"the loss must be the mean .* \(7,\)"):
        along_line(a, b, lambda out, y: F.cross_entropy(out, y, reduction="none"), batches)
    with pytest.raises(ValueError, match="the metric each must be the mean"):
        along_line(a, b, F.cross_entropy, batches, metrics={"each": lambda out, y: out})
    with pytest.raises(ValueError, match="don't move along the line"):
        along_line(a, b, lambda out, y: F.cross_entropy(out, y) + a[0].weight.square().sum(), batches)
    with pytest.raises(ValueError, match="no batches to compute them from"):
        along_line(with_batch_norm(0), with_batch_norm(1), F.cross_entropy, batches, statistics=[])
