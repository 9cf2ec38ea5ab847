"""On a CUDA device: the same numbers as on the CPU, and no waiting for the device in a SAM step."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland import SAM
from lowland.curvature import Hessian, Monitor, stability
from lowland.models import Transformer, preact_resnet
from lowland.optim import compiled_step, presets
from lowland.training import Experiment, RunDirectory, configuration, defaults, supervised
from lowland.training import train as train_alone
from lowland.training.vectorized import train_vectorized

from .fakes import NETWORKS
from .training.vectorized.test_vectorized import same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def setting(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 3)).double()
    x, y = torch.randn(16, 6, dtype=torch.float64), torch.arange(16) % 3
    return model.to(device), x.to(device), y.to(device)


def train(device, steps=5):
    model, x, y = setting(device)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = SAM(base, rho=0.3, model=model)

    def closure():
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return model, optimizer, closure


def test_trains_as_on_the_cpu():
    ours, expected = (train(device)[0].state_dict() for device in ("cuda", "cpu"))
    for name, value in ours.items():
        assert torch.allclose(value.cpu(), expected[name], atol=1e-10), name


@contextmanager
def no_waiting():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_does_not_wait_for_the_device():
    _, optimizer, closure = train("cuda", steps=1)
    with no_waiting():
        optimizer.step(closure)


@pytest.mark.parametrize("options", [{"keep_on": "cpu"}, {"same_masks": True}, {"rho": 0.0}])
def test_nor_with_these_options(options):
    model, x, y = setting("cuda")
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), **{"rho": 0.3, "model": model} | options)
    scaler = torch.amp.GradScaler("cuda")
    before = [p.detach().clone() for p in model.parameters()]
    for waits in (True, False):
        with nullcontext() if waits else no_waiting():
            for evaluation in optimizer.passes(scaler=scaler):
                with evaluation:
                    scaler.scale(F.cross_entropy(model(x), y)).backward()
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        optimizer.zero_grad()


def test_fp16_with_overflow_skips_what_plain_training_skips():
    results = []
    for sam in (True, False):
        model, x, y = setting("cuda")
        model, x = model.float(), x.float()
        base = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        optimizer = SAM(base, rho=0.1, model=model) if sam else base
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40, growth_interval=3)
        scales = []
        for _ in range(40):
            for evaluation in optimizer.passes(scaler=scaler) if sam else [nullcontext()]:
                with evaluation, torch.autocast("cuda", dtype=torch.float16):
                    scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scales.append(scaler.get_scale())
        results.append(scales)
        assert all(p.isfinite().all() for p in model.parameters())
    skipped = [scales.index(max(scales)) for scales in results]
    assert skipped[0] == pytest.approx(skipped[1], abs=2)  # other weights overflow at other scales
    assert results[0][:10] == results[1][:10]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_climbs_as_far_in_every_precision(dtype):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape).to("cuda", dtype)) for shape in ([17, 5], [], [3], [64, 64])]
    before = [p.detach().double() for p in params]
    optimizer = SAM(torch.optim.SGD(params, lr=0.1), rho=3.0)
    with optimizer.ascent():
        sum((p.float().sin() if dtype.itemsize < 4 else p.sin()).sum() for p in params).backward()
        gradients = [p.grad.double() for p in params]
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
    tolerance = 2 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-12
    with optimizer.perturbed():
        for p, w, g in zip(params, before, gradients, strict=True):
            torch.testing.assert_close(p.double(), w + 3.0 * g / norm, rtol=tolerance, atol=tolerance)


def kernels_of_perturb_and_restore(layers, dtype=torch.float32):
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers))).to("cuda", dtype)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3)
    x = torch.randn(2, 4, device="cuda", dtype=dtype)
    for _ in range(2):  # the first to warm up
        with optimizer.ascent():
            model(x).square().mean().backward()
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile, optimizer.perturbed():
            pass
        optimizer.base.zero_grad()
    return sum(event.count for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_number_of_kernels_does_not_grow_with_that_of_parameters(dtype):
    few, many = (kernels_of_perturb_and_restore(layers, dtype) for layers in (2, 60))
    assert many <= few + 12  # a foreach kernel takes some dozens of tensors


def test_the_whole_step_as_a_cuda_graph():
    trained = []
    for graph in (True, False):
        model, x, y = setting("cuda")
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.3, model=model)
        step = compiled_step(optimizer, model, F.cross_entropy)

        def closure(model=model, x=x, y=y):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        losses = [(step(x, y) if graph else optimizer.step(closure)).item() for _ in range(6)]
        trained.append([losses, [p.detach().clone() for p in model.parameters()]])
    (ours, weights), (theirs, expected) = trained
    assert ours == pytest.approx(theirs, rel=1e-9)
    for p, q in zip(weights, expected, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("bad", [0.0, float("inf"), float("nan")])
def test_a_gradient_that_is_zero_or_not_finite(bad):
    w = nn.Parameter(torch.tensor([1.0, 2.0], device="cuda"))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)
    for evaluation in optimizer.passes():
        with evaluation:
            assert w.tolist() == [1.0, 2.0]
            (w * bad).sum().backward()


def test_measures_as_on_the_cpu():
    results = []
    for device in ("cuda", "cpu"):
        model, x, y = setting(device)
        pairs = Hessian(model, F.cross_entropy, [(x[:7], y[:7]), (x[7:], y[7:])]).eigenpairs(k=2, tol=1e-8)
        check = stability(model, F.cross_entropy, [(x, y)], lr=0.1, rho=0.1, tol=1e-8)
        results.append([*pairs.values.tolist(), check.hessian_norm, check.edge, check.sam_gradient_alignment])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_runs_and_resumes_on_the_device(lowland, tmp_path):
    run = ("run", "long2024/digits", "--scale", "smoke", "--device", "cuda", "--out")
    assert lowland(*run, "a").code == 0
    assert lowland(*run, "b").code == 0
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()


def test_a_monitor_measures_as_on_the_cpu_and_leaves_the_device_alone():
    def run(device):
        model, x, y = setting(device)
        model.insert(3, nn.Dropout(0.0))
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, model=model)
        monitor = Monitor(optimizer, model, F.cross_entropy, [(x, y)], every=1, max_overhead=None, tol=1e-8)
        for _ in range(3):
            for evaluation in optimizer.passes():
                with evaluation:
                    F.cross_entropy(model(x), y).backward()
            optimizer.step()
            before = [t.clone() for t in (*model.state_dict().values(), *(p.grad for p in model.parameters()))]
            before.append(torch.cuda.get_rng_state())
            with torch.autocast("cuda", dtype=torch.bfloat16):
                monitor.step()
            after = [*model.state_dict().values(), *(p.grad for p in model.parameters()), torch.cuda.get_rng_state()]
            assert all(map(torch.equal, before, after))
            optimizer.zero_grad()
        return monitor.records

    for ours, expected in zip(run("cuda"), run("cpu"), strict=True):
        for name in ("loss", "gradient_norm", "hessian_norm", "edge", "m_sharpness", "sam_gradient_alignment"):
            assert ours[name] == pytest.approx(expected[name], rel=1e-6), name


def test_a_monitor_holds_dropout_fixed_on_the_device():
    model = nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.5), nn.Linear(9, 3)).cuda()
    x, y = torch.randn(16, 6, device="cuda"), torch.arange(16, device="cuda") % 3
    monitor = Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model, F.cross_entropy, [(x, y)])
    losses = []
    for seed in (1, 2):
        torch.cuda.manual_seed(seed)
        losses.append(monitor.check()["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_the_family_trains_as_on_the_cpu_without_waiting(name):
    models = []
    for device in ("cpu", "cuda"):
        model, x, y = setting(device)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        own = {"LateSAM": {"start": 2}, "EarlySAM": {"end": 2}}.get(name, {})
        radius = {"sharpness": 10.0} if name == "Dial" else {"rho": 0.1}
        optimizer = getattr(presets, name)(base, **radius, model=model, **own)
        per_example = getattr(optimizer.descent_rule, "per_example", False)

        def closure(model=model, x=x, y=y, per_example=per_example):
            loss = F.cross_entropy(model(x), y, reduction="none" if per_example else "mean")
            if not per_example:
                loss.backward()
            return loss

        for step in range(5):
            with no_waiting() if device == "cuda" and step > 2 else nullcontext():
                optimizer.step(closure)
        models.append(model)
    if name not in ("RandomSAM", "ESAM"):  # each device has random numbers of its own
        for p, q in zip(*(model.parameters() for model in models), strict=True):
            assert torch.allclose(p, q.cpu(), atol=1e-9)


def test_a_stack_is_each_run_alone(tmp_path):
    arms = {str(seed): NETWORKS.configure("paper", {"lr": 0.01, "rho": 0.02, "seed": seed})["sam"] for seed in range(3)}
    device = torch.device("cuda")
    trained = []
    for function in (train_vectorized, train_alone):
        with RunDirectory(tmp_path / function.__name__, configuration(NETWORKS, "paper", arms, device)) as directory:
            trained.append(function(NETWORKS, arms, directory, device, show_progress=False))
    same(*trained)


def m_sam(device, network, m, **options):
    """The gradient of m-SAM in one pass."""
    torch.manual_seed(0)
    if network == "transformer":
        model = Transformer(symbols=7, length=5, layers=1, width=8, heads=2, key_size=4).double()
        x, y = torch.randint(7, (2, 7, 5))
    else:
        model = preact_resnet(width=4, norm=network).double()
        x, y = torch.randn(7, 3, 16, 16).double(), torch.arange(7)
    model, x, y = model.to(device), x.to(device), y.to(device)

    def closure():
        return F.cross_entropy(model(x).movedim(-1, 1), y, reduction="none").view(7, -1).mean(1)

    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, model=model, m=m, **options)
    optimizer.backward(closure)
    assert optimizer._own.engine.reason is None
    return [p.grad.cpu() for p in model.parameters()]


@pytest.mark.parametrize("options", [{}, {"memory_limit": 1}, {"l2": 0.1, "perturbed_norms": True}])
@pytest.mark.parametrize("m", [2, 5])
@pytest.mark.parametrize("network", ["group", "batch", "transformer"])
def test_exact_m_sam_is_that_of_the_cpu(network, m, options):
    for ours, theirs in zip(m_sam("cuda", network, m, **options), m_sam("cpu", network, m, **options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("loaded", [False, True])
def test_an_experiment_that_is_built_on_the_cpu_trains_as_there(loaded, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    y = x[:, :3].argmax(1)

    def build(settings):
        model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()
        return supervised(model, settings, torch.utils.data.TensorDataset(x, y) if loaded else (x, y))

    settings = defaults(lr=0.1, rho=0.1, momentum=0.9, steps=20, batch_size=9)
    mine = Experiment(name="mine", settings=settings, build=build)
    arms, found = mine.configure("paper", {}), {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        with RunDirectory(tmp_path / name, configuration(mine, "paper", arms, device)) as directory:
            found[name] = train_alone(mine, arms, directory, device, show_progress=False)
    for arm in arms:
        for ours, expected in zip(found["cuda"][arm].records, found["cpu"][arm].records, strict=True):
            assert {**ours, "arm": 0} == pytest.approx({**expected, "arm": 0}, rel=1e-9)
