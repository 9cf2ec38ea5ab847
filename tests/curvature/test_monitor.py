"""The monitor in the loops that people have: what it records, and that it leaves everything else as it was."""

import copy
import json
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland import SAM, compat, optim
from lowland.curvature import Monitor, m_sharpness, read_jsonl, sam_edge, stopwatch
from lowland.report import draw_monitor
from lowland.report import monitor as report_monitor
from tests.curvature.test_hessian import data, dense, small

LR, RHO = 0.1, 0.3


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stopwatch, "perf_counter", clock)
    return clock


def sam(model, **options):
    return SAM(torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9), **{"rho": RHO, "model": model, **options})


def train_step(optimizer, loss):
    for evaluation in optimizer.passes():
        with evaluation:
            loss().backward()
    optimizer.step()
    optimizer.zero_grad()


def setting(dtype=torch.float64, **options):
    model, (x, y) = small(dtype), data(dtype=dtype)
    optimizer = sam(model)
    watch = Monitor(optimizer, model, F.cross_entropy, [(x, y)], **{"max_overhead": None, "tol": 1e-8, **options})
    return model, optimizer, watch, lambda: F.cross_entropy(model(x), y)


def trained(steps=10, **options):
    _, optimizer, watch, loss = setting(**options)
    for _ in range(steps):
        train_step(optimizer, loss)
        watch.step()
    return watch


def numbers(records):
    """What must come out the same twice."""
    return [{key: value for key, value in record.items() if "seconds" not in key} for record in records]


# What it records.


def test_records_are_the_explicit_computation():
    model, optimizer, watch, loss = setting(every=3, m=2)
    x, y = data()
    for step in range(1, 8):
        train_step(optimizer, loss)
        record = watch.step()
        assert (record is not None) == (step in (1, 3, 6))
        if record is None:
            continue
        params = list(model.parameters())
        g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(loss(), params)])
        values, vectors = torch.linalg.eigh(dense(model, F.cross_entropy, x, y))
        top = values.abs().argmax()
        moved = copy.deepcopy(model)
        offset = nn.utils.parameters_to_vector(params) + RHO * g / g.norm()
        nn.utils.vector_to_parameters(offset.detach(), moved.parameters())
        at_e = torch.autograd.grad(F.cross_entropy(moved(x), y), list(moved.parameters()))
        at_e = torch.cat([p.reshape(-1) for p in at_e])
        expected = {
            "step": step, "loss": loss().item(), "gradient_norm": g.norm().item(),
            "hessian_norm": values[top].abs().item(), "edge": sam_edge(g.norm().item(), LR / 1.9, RHO),
            "gd_edge": 2 * 1.9 / LR, "momentum": 0.9,
            "gradient_alignment": torch.cosine_similarity(g, vectors[:, top], dim=0).abs().item(),
            "sam_gradient_alignment": torch.cosine_similarity(at_e, vectors[:, top], dim=0).abs().item(),
            "m_sharpness": m_sharpness(model, F.cross_entropy, [(x, y)], RHO, 2), "lr": LR, "rho": RHO, "skipped": 0,
        }  # fmt: skip
        for name, value in expected.items():
            assert record[name] == pytest.approx(value, rel=1e-6), name
        assert record["converged"]
        assert record["residual"] <= 1e-8 * record["hessian_norm"]
    assert [record["step"] for record in watch.records] == [1, 3, 6]
    assert all(type(value) in (int, float, bool) for record in watch.records for value in record.values())
    assert json.loads(json.dumps(watch.records)) == watch.records
    watch.check()
    assert watch.records[-1]["step"] == 7


def test_line():
    watch = trained(1)
    record = {"residual": 0.0123, "hessian_norm": 12.34567, "edge": 12.5, "gd_edge": 20.0, "rho": 0.1}
    assert watch.line.startswith("‖H‖ ")
    watch.records.append(record)
    assert watch.line == "‖H‖ 12.35 ± 0.01  edge 12.5  2/η 20"
    watch.records.append({**record, "rho": 0.0, "edge": 20.0})
    assert watch.line == "‖H‖ 12.35 ± 0.01  2/η 20"
    watch.records.append({**record, "momentum": 0.9, "gd_edge": 38.0})
    assert watch.line == "‖H‖ 12.35 ± 0.01  edge 12.5  edge without SAM 38"
    watch.records.append({**record, "edge": None, "gd_edge": None})
    assert watch.line == "‖H‖ 12.35 ± 0.01"
    watch.records.append({"hessian_norm": None, "loss": math.nan})
    assert watch.line == "loss nan"
    assert setting()[2].line == ""


def first_check(clock, monkeypatch, takes, **options):
    """A monitor whose checks take so many seconds, after the first of its steps, which take one each."""
    _, optimizer, watch, loss = setting(every=5, **options)
    measure = watch._measure
    monkeypatch.setattr(watch, "_measure", lambda: setattr(clock, "now", clock.now + takes) or measure())
    return watch, lambda: (train_step(optimizer, loss), setattr(clock, "now", clock.now + 1), watch.step())


@pytest.mark.parametrize(
    ("takes", "budget", "says"),
    [
        (12.0, 0.1, "check took 12 s; next after about 4 min"),
        (12.0, 0.5, "check took 12 s; next after about 24 s"),
        (12.0, None, "check took 12 s; next at step 5"),
        (0.5, 1.0, "check took 0.5 s; next at step 5"),
    ],
)
def test_after_one_check_it_says_when_the_next_is_due(clock, monkeypatch, capsys, takes, budget, says):
    watch, step = first_check(clock, monkeypatch, takes, max_overhead=budget)
    step()
    assert watch.line.endswith(f"  ({says})")
    assert capsys.readouterr().err == (f"lowland: the first {says}\n" if takes > 2 else "")
    while len(watch.records) < 2:
        step()
    assert "next" not in watch.line
    if "after about 24 s" in says:
        assert watch.steps == 25  # the first multiple of 5 after 24 steps of a second
    if "at step 5" in says:
        assert watch.steps == 5
    assert capsys.readouterr().err == ""


def test_between_one_check_and_the_next_the_wait_grows_shorter(clock, monkeypatch):
    watch, step = first_check(clock, monkeypatch, 12.0, max_overhead=0.5)
    for _ in range(11):
        step()
    assert watch.line.endswith("(check took 12 s; next after about 14 s)")
    for _ in range(11):
        step()
    assert watch.line.endswith("(check took 12 s; next at step 25)")


def test_a_warm_start_saves_products():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10)).double()
    x, y = torch.randn(50, 20, dtype=torch.float64), torch.arange(50) % 10
    watch = Monitor(sam(model), model, F.cross_entropy, [(x, y)], tol=1e-5)
    assert watch.check()["products"] > watch.check()["products"]


def test_groups_that_differ():
    model, (x, y) = small(), data()
    groups = [
        {"params": model[0].parameters(), "lr": 0.2, "rho": 0.0},
        {"params": model[2].parameters(), "lr": 0.1, "rho": 0.5},
    ]
    optimizer = SAM(torch.optim.SGD(groups, lr=0.3), rho=0.9)
    watch = Monitor(optimizer, model, F.cross_entropy, [(x, y)], tol=1e-8)
    record = watch.check()
    assert (record["lr"], record["rho"], record["gd_edge"]) == (0.2, 0.5, 10)
    assert record["edge"] == pytest.approx(sam_edge(record["gradient_norm"], 0.2, 0.5))
    # SAM itself climbs in the second layer alone.
    params = list(model.parameters())
    g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(F.cross_entropy(model(x), y), params)])
    values, vectors = torch.linalg.eigh(dense(model, F.cross_entropy, x, y))
    with optimizer.ascent():
        F.cross_entropy(model(x), y).backward()
    with optimizer.perturbed():
        F.cross_entropy(model(x), y).backward()
    at_e = torch.cat([p.grad.reshape(-1) for p in params])
    v = vectors[:, values.abs().argmax()]
    expected = torch.cosine_similarity(at_e, v, dim=0).abs().item()
    assert record["sam_gradient_alignment"] == pytest.approx(expected, rel=1e-6)
    # Below the edge of the largest two nothing oscillates: the linearized step's largest eigenvalue is at most 2.
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in (model[0], model[2])]
    eta, rho = (torch.tensor(v).double().repeat_interleave(torch.tensor(sizes)) for v in ((0.2, 0.1), (0.0, 0.5)))
    H = dense(model, F.cross_entropy, x, y)
    H = H * (record["edge"] / values.abs().max())
    moved = eta[:, None] * (H + H @ (rho[:, None] * H) / g.norm())
    assert torch.linalg.eigvals(moved).abs().max() <= 2


def test_schedules_are_read_when_a_check_is_made():
    model, (x, y) = small(), data()
    optimizer = sam(model, rho=lambda step: 0.1 * (step + 1))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0 if epoch == 0 else 1 / epoch)
    watch = Monitor(optimizer, model, F.cross_entropy, [(x, y)], every=1, max_overhead=None)
    for _ in range(3):
        train_step(optimizer, lambda: F.cross_entropy(model(x), y))
        watch.step()
        scheduler.step()
    assert [record["lr"] for record in watch.records] == [None, LR, LR / 2]  # at 0 nothing moves: there is no edge
    assert watch.records[0]["gd_edge"] is None
    assert [record["gd_edge"] for record in watch.records[1:]] == pytest.approx([3.8 / LR, 7.6 / LR])
    assert watch.records[0]["edge"] is None
    assert [record["rho"] for record in watch.records] == pytest.approx([0.1, 0.2, 0.3])


def test_other_optimizers():
    model, (x, y) = small(), data()
    plain = Monitor(torch.optim.AdamW(model.parameters(), lr=LR), model, F.cross_entropy, [(x, y)]).check()
    assert (plain["rho"], plain["edge"], plain["gd_edge"], plain["m_sharpness"]) == (0, None, None, None)
    assert plain["lr"] == LR
    options = {"radius": 0.1, "ascent_steps": 3}
    decay = torch.optim.Adadelta(model.parameters(), rho=0.9)
    measured = Monitor(decay, model, F.cross_entropy, [(x, y)], **options).check()
    assert measured["rho"] == 0
    assert measured["m_sharpness"] == m_sharpness(model, F.cross_entropy, [(x, y)], 0.1, steps=3)
    others = [
        compat.SAM(model.parameters(), torch.optim.SGD, lr=LR, rho=1.0, adaptive=True),
        sam(model, ascent=optim.ascent.Adaptive()),
        sam(model, descent=optim.descent.SurrogateGap(0.1)),
        sam(model, scope=model[2]),
    ]
    for other in others:
        unknown = Monitor(other, model, F.cross_entropy, [(x, y)]).check()
        assert [unknown[key] for key in ("rho", "edge", "sam_gradient_alignment", "m_sharpness")] == [None] * 4
        assert unknown["hessian_norm"] == plain["hessian_norm"]
        assert unknown["gd_edge"] == pytest.approx(2 * (1 + unknown["momentum"]) / LR)


ADAPTIVE = {
    torch.optim.Adam: {}, torch.optim.AdamW: {}, torch.optim.RMSprop: {}, torch.optim.Adagrad: {},
    torch.optim.NAdam: {}, torch.optim.Adadelta: {}, torch.optim.Adamax: {}, torch.optim.Rprop: {},
    torch.optim.SGD: {"maximize": True},
}  # fmt: skip


class Lars(torch.optim.SGD):
    """A step of its own, in the clothes of SGD."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.norm() / p.grad.norm() * p.grad)


@pytest.mark.parametrize("kind", [*ADAPTIVE, Lars])
def test_there_is_no_edge_but_that_of_sgd(kind, tmp_path):
    model, (x, y) = small(), data()
    wraps = [lambda base: base]
    if kind not in (torch.optim.Adadelta, torch.optim.SGD):  # SAM refuses another rho, and to maximize
        wraps.append(lambda base: SAM(base, rho=RHO))
    for wrap in wraps:
        optimizer = wrap(kind(model.parameters(), lr=LR, **ADAPTIVE.get(kind, {})))
        watch = Monitor(optimizer, model, F.cross_entropy, [(x, y)], tol=1e-2)
        record = watch.check()
        assert record["edge"] is record["gd_edge"] is None
        assert record["lr"] == LR
        assert record["hessian_norm"] > 0
        assert "edge" not in watch.line
        assert "2/η" not in watch.line


class Own(torch.optim.SGD):
    """Its step is that of SGD."""


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.5, "dampening": 0.5}, {"momentum": 0.8, "nesterov": True}],
)
@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_on_either_side_of_the_edge(options, rho):
    # A steep line along one parameter keeps ‖g‖ what it is, a parabola along the other has the curvature: SAM's step
    # makes x grow above the edge, and shrink below.
    steep, lr = 2.0, 0.1

    class Valley(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.0, 1e-6], dtype=torch.float64))

        def forward(self, curvature):
            return steep * self.w[0] + curvature / 2 * self.w[1] ** 2

    def trained(curvature):
        model = Valley()
        optimizer = SAM(Own(model.parameters(), lr=lr, **options), rho=rho)
        batches = [(torch.tensor(curvature, dtype=torch.float64)[None], None)]
        record = Monitor(optimizer, model, lambda out, y: out.mean(), batches).check()
        for _ in range(100):
            for evaluation in optimizer.passes():
                with evaluation:
                    model(curvature).backward()
            optimizer.step()
            optimizer.zero_grad()
        return record, abs(model.w[1].item())

    edge = trained(1.0)[0]["edge"]
    below, above = trained(0.95 * edge), trained(1.05 * edge)
    assert below[0]["edge"] == pytest.approx(edge)
    assert below[0]["hessian_norm"] == pytest.approx(0.95 * edge)
    assert below[1] < 3e-7
    assert above[1] > 3e-6
    if not rho:
        assert below[0]["gd_edge"] == pytest.approx(edge)


def test_parameters_that_come_and_go():
    model, (x, y) = small(), data()
    model[0].requires_grad_(False)
    optimizer = sam(model)
    watch = Monitor(optimizer, model, F.cross_entropy, [(x, y)], tol=1e-8)

    def expected(frozen):
        whole = copy.deepcopy(model)
        whole[0].requires_grad_(not frozen)
        return torch.linalg.eigvalsh(dense(whole, F.cross_entropy, x, y)).abs().max().item()

    assert watch.check()["hessian_norm"] == pytest.approx(expected(True))
    model[0].requires_grad_(True)
    assert watch.check()["hessian_norm"] == pytest.approx(expected(False))
    # What the optimizer doesn't move is a constant.
    only = Monitor(torch.optim.SGD(model[2].parameters(), lr=LR), model, F.cross_entropy, [(x, y)], tol=1e-8)
    assert only.check()["hessian_norm"] == pytest.approx(expected(True))


# What it leaves alone.


class Everything(nn.Module):
    """Batch norm, dropout, a buffer that changes, and hooks on parameters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(3, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.3),
            nn.Linear(6, 2),
        )
        self.register_buffer("calls", torch.zeros(()))
        self.gradients = 0

    def forward(self, x):
        self.calls += 1
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


def fingerprint(model, optimizer):
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    state = copy.deepcopy(optimizer.state_dict())
    return [t.clone() for t in tensors], [t._version for t in model.parameters()], state, torch.get_rng_state()


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def region(name):
    return {
        "plain": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }[name]()  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "no_grad", "inference_mode", "autocast"])
def test_nothing_changes_whatever_region_the_call_is_in(name):
    model, (x, y) = Everything(), data(dtype=torch.float32)
    optimizer = sam(model)
    for p in model.parameters():
        p.register_hook(lambda g: setattr(model, "gradients", model.gradients + 1))
    train_step(optimizer, lambda: F.cross_entropy(model(x), y))
    F.cross_entropy(model(x), y).backward()  # gradients to keep
    watch = Monitor(optimizer, model, F.cross_entropy, [(x, y)], m=7)
    expected = Monitor(optimizer, model, F.cross_entropy, [(x, y)], m=7).check()
    before, seen = fingerprint(model, optimizer), model.gradients
    with region(name):
        record = watch.check()
        watch.step()
    assert same(fingerprint(model, optimizer), before)
    assert model.gradients == seen  # hooks of the training are not called
    assert numbers([record]) == numbers([expected])  # the same bits: in the parameters' own type


def test_training_goes_on_to_the_same_bits():
    def run(watched):
        model, (x, y) = Everything(), data(dtype=torch.float32)
        optimizer = sam(model)
        watch = Monitor(optimizer, model, F.cross_entropy, [(x, y)], every=2, max_overhead=None)
        torch.manual_seed(1)
        for _ in range(6):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                for evaluation in optimizer.passes():
                    with evaluation:
                        F.cross_entropy(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
                if watched:
                    watch.step()
        return model.state_dict()

    assert same(dict(run(True)), dict(run(False)))


def test_dropout_is_the_same_function_at_every_check():
    model, (x, y) = Everything(), data(dtype=torch.float32)
    watch = Monitor(sam(model), model, F.cross_entropy, [(x, y)])
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(watch.check()["loss"])
    assert losses[0] == losses[1]


def test_a_small_basis():
    model, (x, y) = small(), data()
    expected = torch.linalg.eigvalsh(dense(model, F.cross_entropy, x, y)).abs().max().item()
    record = Monitor(sam(model), model, F.cross_entropy, [(x, y)], max_basis=3, tol=1e-6).check()
    assert record["hessian_norm"] == pytest.approx(expected)
    assert record["converged"]


def test_grad_scaler():
    model, (x, y) = small(torch.float32), data(dtype=torch.float32)
    optimizer, scaler = sam(model), torch.amp.GradScaler("cpu", init_scale=64.0)
    watch = Monitor(optimizer, model, F.cross_entropy, [(x, y)], every=1, max_overhead=None)
    for evaluation in optimizer.passes(scaler=scaler):
        with evaluation, torch.autocast("cpu", dtype=torch.float16):
            scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaled = [p.grad.clone() for p in model.parameters()]
    record = watch.check()  # before the step: gradients are scaled, and stay so
    assert all(map(torch.equal, scaled, (p.grad for p in model.parameters())))
    scaler.step(optimizer)
    scaler.update()
    assert record["gradient_norm"] < 10
    assert watch.step()["step"] == 1


def test_a_compiled_model_is_not_compiled_again():
    from torch._dynamo.testing import CompileCounter

    model, (x, y) = small(), data()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    optimizer = sam(model)
    watch = Monitor(optimizer, compiled, F.cross_entropy, [(x, y)], every=1, max_overhead=None)
    for _ in range(3):
        train_step(optimizer, lambda: F.cross_entropy(compiled(x), y))
        watch.step()
    assert counter.frame_count == 1
    expected = torch.linalg.eigvalsh(dense(model, F.cross_entropy, x, y)).abs().max().item()
    assert watch.check()["hessian_norm"] == pytest.approx(expected, rel=1e-3)


def test_inside_a_pass_is_refused():
    model, optimizer, watch, loss = setting()
    for evaluation in optimizer.passes():
        with evaluation:
            loss().backward()
            for call in (watch.step, watch.check):
                with pytest.raises(RuntimeError, match=r"inside SAM's (ascent|perturbed) pass"):
                    call()
    optimizer.step()
    assert watch.step()["step"] == 1
    old = compat.SAM(model.parameters(), torch.optim.SGD, lr=LR)
    watch = Monitor(old, model, F.cross_entropy, [data()])
    loss().backward()
    old.first_step(zero_grad=True)
    with pytest.raises(RuntimeError, match="perturbed pass"):
        watch.step()
    loss().backward()
    old.second_step()
    assert watch.step() is not None


# What it refuses, and what it survives.


def test_a_loss_of_chance():
    model, (x, y) = small(torch.float32), data(64, dtype=torch.float32)
    optimizer = sam(model)
    noise = torch.Generator().manual_seed(0)

    class Augmented:
        def __iter__(self):
            yield x + 0.1 * torch.randn(x.shape, generator=noise), y

    dataset = torch.utils.data.TensorDataset(x, y)
    own = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True, drop_last=False, generator=noise)
    few = torch.utils.data.DataLoader(
        dataset, batch_size=4, sampler=torch.utils.data.RandomSampler(dataset, num_samples=8, generator=noise)
    )
    for batches in (Augmented(), few):
        watch = Monitor(optimizer, model, F.cross_entropy, batches)
        with pytest.raises(ValueError, match=r"differ by \S+ in the loss and \S+ in the gradient"):
            watch.step()
    Monitor(optimizer, model, F.cross_entropy, own).check()  # the same examples in another order: only rounding
    with pytest.raises(TypeError, match="generator"):
        Monitor(optimizer, model, F.cross_entropy, iter([(x, y)]))
    shuffled = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True, drop_last=True)
    one, two = (Monitor(optimizer, model, F.cross_entropy, shuffled).check() for _ in range(2))
    assert numbers([one]) == numbers([two])


def test_divergence_is_recorded_and_does_not_kill_the_run(tmp_path):
    path = tmp_path / "sharpness.jsonl"
    model, _, watch, _ = setting(every=1, to=path)
    watch.step()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    with pytest.warns(UserWarning, match="diverged"):
        record = watch.step()
    assert math.isnan(record["loss"])
    assert record["hessian_norm"] is record["edge"] is record["residual"] is None
    assert record["gd_edge"] == pytest.approx(3.8 / LR)
    assert not record["converged"]
    assert record.keys() == watch.records[0].keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.step()  # said once
    assert [line["loss"] is None for line in read_jsonl(path)] == [False, True, True]
    draw_monitor(path, tmp_path / "figures")


def test_a_product_that_is_not_finite():
    model, (x, y) = small(), data()

    def loss_fn(out, y):  # with a first derivative of 0 in the second term, and an infinite second one
        return F.cross_entropy(out, y) + (out - out.detach()).abs().pow(1.5).sum()

    watch = Monitor(sam(model), model, loss_fn, [(x, y)])
    with pytest.warns(UserWarning, match="not finite"):
        record = watch.check()
    assert record["hessian_norm"] is None


def test_bad_arguments():
    model, (x, y) = small(), data()
    optimizer = sam(model)

    def refuse(error, match, *arguments, **options):
        with pytest.raises(error, match=match):
            Monitor(*arguments, **options)

    good = optimizer, model, F.cross_entropy, [(x, y)]
    refuse(TypeError, "param_groups", model, *good[1:])
    refuse(ValueError, "another model", optimizer, small(), *good[2:])
    refuse(ValueError, "every", *good, every=0)
    refuse(ValueError, "max_overhead", *good, max_overhead=0)
    refuse(ValueError, "max_overhead", *good, max_overhead=2)
    refuse(ValueError, "tol", *good, tol=0)
    refuse(ValueError, "max_basis", *good, max_basis=2)
    refuse(ValueError, "m must", *good, m=0)
    refuse(ValueError, "rho", *good, radius=-1)
    refuse(TypeError, "to= takes", *good, to=3)


# Time.


def test_keeps_to_its_budget(clock, monkeypatch):
    _, _, watch, _ = setting(every=5, max_overhead=0.1)
    measure = watch._measure

    def slow():
        clock.now += 4.0
        return measure()

    monkeypatch.setattr(watch, "_measure", slow)
    for step in range(1, 201):
        clock.now += 1.0
        watch.step()
        if step > 80:
            assert watch.overhead <= 0.1
    # The first is free; then there must be 36 seconds of training for every 4 of a check.
    assert [record["step"] for record in watch.records] == [1, 75, 110, 145, 185]
    assert [record["skipped"] for record in watch.records] == [0, 14, 6, 6, 7]
    assert watch.seconds == 20
    assert watch.training_seconds == 199  # from the first call on
    assert watch.overhead == pytest.approx(20 / 219)
    watch.check()  # whatever it takes
    assert watch.records[-1]["skipped"] == 3
    assert [watch.records[-1][key] for key in ("seconds", "training_seconds")] == [4, 199]


def test_without_a_budget_none_is_skipped(clock, monkeypatch):
    _, _, watch, _ = setting(every=5, max_overhead=None)
    monkeypatch.setattr(watch, "_measure", lambda: setattr(clock, "now", clock.now + 99) or {})
    for _ in range(20):
        watch.step()
    assert [record["step"] for record in watch.records] == [1, 5, 10, 15, 20]
    assert watch.overhead == 1


def test_a_check_that_fails_counts_as_a_check(clock):
    _, _, watch, _ = setting()
    watch.loss_fn = lambda out, y: setattr(clock, "now", clock.now + 7) or 1 / 0
    with pytest.raises(ZeroDivisionError):
        watch.check()
    clock.now += 1
    assert (watch.seconds, watch.training_seconds) == (7, 1)


# Resuming.


def test_a_resumed_run_goes_on(tmp_path):
    def build(path):
        model, (x, y) = Everything(), data(dtype=torch.float32)
        optimizer = sam(model)
        watch = Monitor(optimizer, model, F.cross_entropy, [(x, y)], every=4, max_overhead=None, to=path)
        return (model, optimizer, watch), lambda: F.cross_entropy(model(x), y)

    def train(parts, loss, steps):
        for step in steps:
            torch.manual_seed(step)
            train_step(parts[1], loss)
            parts[2].step()

    straight, loss = build(tmp_path / "straight.jsonl")
    train(straight, loss, range(20))
    killed, loss = build(tmp_path / "killed.jsonl")
    train(killed, loss, range(10))
    torch.save([part.state_dict() for part in killed], tmp_path / "checkpoint.pt")
    train(killed, loss, range(10, 14))
    with (tmp_path / "killed.jsonl").open("a") as file:
        file.write('{"step": 14, "lo')  # killed in the middle of a line
    torch.manual_seed(9)  # another process's random state
    resumed, loss = build(tmp_path / "killed.jsonl")
    for part, state in zip(resumed, torch.load(tmp_path / "checkpoint.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    lines = (tmp_path / "killed.jsonl").read_text().splitlines()
    assert len(lines) == 5  # nothing is cut before there is something to write
    train(resumed, loss, range(10, 20))
    assert numbers(resumed[2].records) == numbers(straight[2].records)
    assert [record["step"] for record in straight[2].records] == [1, 4, 8, 12, 16, 20]
    for name in ("straight", "killed"):
        assert numbers(read_jsonl(tmp_path / f"{name}.jsonl")) == numbers(straight[2].records)
        assert len((tmp_path / f"{name}.jsonl").read_text().splitlines()) == 6


def test_a_resumed_run_keeps_the_verdict_of_the_first_check(monkeypatch):
    """Whether the gradient is that of the loss is looked at once, and may depend on the weights."""
    verdicts = iter(["hidden at first"])
    monkeypatch.setattr("lowland.curvature.hessian.cut_off", lambda objective: next(verdicts))
    _, _, watch, _ = setting()
    assert watch.check()["converged"] is False
    _, _, resumed, _ = setting()
    resumed.load_state_dict(watch.state_dict())
    assert resumed.check()["converged"] is False


def test_state_without_records_and_with_times(clock):
    _, _, watch, _ = setting()
    watch.step()
    clock.now += 5
    state = watch.state_dict(records=False)
    assert "records" not in state
    clock.now += 50  # while nothing runs
    _, _, resumed, _ = setting()
    resumed.load_state_dict(state)
    assert (resumed.records, resumed.steps, resumed.training_seconds) == ([], 1, 5)
    resumed.step()
    clock.now += 2
    assert resumed.training_seconds == 7
    assert resumed.records == []  # the first check was made long ago


# Where records go.


def test_jsonl_is_appended_to_and_the_last_run_is_read(tmp_path):
    path = tmp_path / "new" / "sharpness.jsonl"
    first = trained(6, every=2, to=str(path))
    assert numbers(read_jsonl(path)) == numbers(first.records)
    trained(3, every=2, to=path)
    assert len(path.read_text().splitlines()) == 6
    assert [record["step"] for record in read_jsonl(path)] == [1, 2]
    path.write_text("hello\n")
    with pytest.raises(ValueError, match="line 1: this is no record"):
        read_jsonl(path)


def test_resuming_keeps_what_stands_before(tmp_path):
    path = tmp_path / "sharpness.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in (1, 50, 100, 1, 50, 60)))
    _, _, watch, _ = setting(to=path)
    watch.load_state_dict({**watch.state_dict(), "steps": 50})
    watch.check()
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [1, 50, 100, 1, 50, 50]


def test_a_full_disk_does_not_kill_the_run():
    def full(step, record):
        raise OSError(28, "No space left on device")

    _, _, watch, _ = setting(to=full)
    with pytest.warns(UserWarning, match="was not written: .*No space"):
        assert watch.step() is watch.records[0]


class Writer:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))


class Run:
    def __init__(self):
        self.rows, self.metrics = [], {}

    def define_metric(self, name, step_metric=None):
        self.metrics[name] = step_metric

    def log(self, row):
        self.rows.append(row)


def test_sinks_of_every_kind(tmp_path):
    writer, run, seen = Writer(), Run(), []
    to = [writer, run, (tmp_path / "a.jsonl", lambda step, record: seen.append((step, record)))]
    watch = trained(4, every=2, to=to)
    assert seen == [(record["step"], record) for record in watch.records]
    assert len(read_jsonl(tmp_path / "a.jsonl")) == 3
    last = watch.records[-1]
    assert ("lowland/hessian_norm", last["hessian_norm"], 4) in writer.scalars
    assert all(type(value) is float for _, value, _ in writer.scalars)
    assert run.metrics == {"lowland/step": None, "lowland/*": "lowland/step"}
    assert [row["lowland/step"] for row in run.rows] == [1, 2, 4]
    assert run.rows[-1]["lowland/edge"] == last["edge"]


def test_tensorboard(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tensorboard.SummaryWriter(tmp_path) as writer:
        watch = trained(4, every=2, to=writer)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = events.Scalars("lowland/hessian_norm")
    assert [event.step for event in scalars] == [1, 2, 4]
    assert scalars[-1].value == pytest.approx(watch.records[-1]["hessian_norm"])


def test_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=tmp_path, project="lowland") as run:
        watch = trained(4, every=2, to=run)
        assert run.summary["lowland/hessian_norm"] == watch.records[-1]["hessian_norm"]
        assert run.summary["lowland/step"] == 4


# The figures.


def test_figures_from_records_and_from_the_file(tmp_path):
    watch = trained(6, every=2, to=tmp_path / "sharpness.jsonl")
    names = ["hessian-norm", "hessian-norm-sam-edge", "alignment", "loss", "sharpness"]
    paths = draw_monitor(watch.records, tmp_path / "one", title="mine")
    assert [path.stem for path in paths] == names
    several = draw_monitor({"a": watch.records, "b": tmp_path / "sharpness.jsonl"}, str(tmp_path / "two"))
    for path in paths + several:
        assert path.read_bytes().startswith(b"\x89PNG")
    without = [{**record, "m_sharpness": None} for record in watch.records]
    assert [path.stem for path in draw_monitor(without, tmp_path / "three")] == names[:-1]
    with pytest.raises(ValueError, match="no records"):
        draw_monitor([], tmp_path / "four")


@pytest.fixture
def panels(monkeypatch):
    """The panels of the figures that are drawn, by name."""
    drawn = {}

    def draw(directory, name, heading, panels, columns=3):
        drawn[name] = panels
        return directory / f"{name}.png"

    monkeypatch.setattr(report_monitor, "draw_figure", draw)
    return drawn


def test_several_runs_are_drawn_into_one_panel_and_what_has_no_edge_says_so(tmp_path, panels):
    records = trained(6, every=2).records
    adaptive = [{**record, "edge": None, "gd_edge": None, "m_sharpness": None} for record in records]
    draw_monitor({"SGD": records, "Adam": adaptive, "still": [{**adaptive[0], "lr": None}]}, tmp_path)
    assert {name: len(found) for name, found in panels.items()} == dict.fromkeys(
        ["hessian-norm", "hessian-norm-sam-edge", "alignment", "loss", "sharpness"], 1
    )
    (norms,) = panels["hessian-norm"]
    assert norms.labels == [
        "SGD: Hessian norm", "SGD: edge without SAM", "SGD: SAM edge", "Adam: Hessian norm", "still: Hessian norm"
    ]  # fmt: skip
    assert "Adam: no edge, which is known for SGD alone" in norms.note
    assert "still: one check so far" in norms.note
    assert "still: no edge" not in norms.note
    assert panels["loss"][0].labels == ["SGD", "Adam", "still"]
    assert panels["sharpness"][0].labels == ["SGD"]
    assert "edge" not in panels["loss"][0].note


def test_a_figure_of_one_run_names_its_curves(tmp_path, panels):
    records = [{**record, "momentum": 0.0} for record in trained(1).records]
    draw_monitor(records, tmp_path)
    (norms,) = panels["hessian-norm"]
    assert norms.labels == ["Hessian norm", "2/η", "SAM edge"]
    assert norms.note == f"one check so far, at step {records[0]['step']}"
    panels.clear()
    draw_monitor([{**record, "edge": None, "gd_edge": None} for record in records], tmp_path)
    assert list(panels) == ["hessian-norm", "alignment", "loss", "sharpness"]
    assert panels["hessian-norm"][0].labels == ["Hessian norm"]


@pytest.mark.parametrize(
    ("norms", "note"), [((0.5, 0.95), ""), ((0.5, 0.85), "hasn't reached its edge (0.85 of it at most)")]
)
def test_a_figure_says_that_a_run_has_not_reached_its_edge(tmp_path, panels, norms, note):
    first = trained(1).records[0]
    records = [{**first, "step": k, "edge": 2.0, "hessian_norm": 2 * norm} for k, norm in enumerate(norms)]
    draw_monitor(records, tmp_path)
    assert panels["hessian-norm"][0].note == note
    assert panels["loss"][0].note == ""
