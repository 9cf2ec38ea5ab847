"""What two processes with a monitor must do; run by test_processes.py, a process a rank."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as DDP

from lowland import SAM
from lowland.curvature import Hessian, Monitor, along_line, average_sharpness, read_jsonl, stopwatch
from lowland.features import importance_weights

TOL = 1e-8


def net(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), *between, nn.Tanh(), nn.Linear(7, 3)).double()


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(11, 5, generator=generator, dtype=torch.float64), torch.arange(11) % 3


def mine():
    """Seven examples in two batches for the first process, four in one for the second."""
    x, y = data()
    parts = [[(x[:3], y[:3]), (x[3:7], y[3:7])], [(x[7:], y[7:])]]
    return parts[dist.get_rank()]


def sam(model, wrapper=None):
    return SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.3, model=wrapper)


def train(model, optimizer, watch, batches, steps):
    for _ in range(steps):
        for evaluation in optimizer.passes():
            with evaluation:
                x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
                F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.step()


def numbers(record):
    return {key: value for key, value in record.items() if "seconds" not in key and key not in ("products", "residual")}


def everywhere(value):
    """What each process has."""
    box = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box


def processes_measure_as_one():
    whole = net()
    expected = Monitor(sam(whole), whole, F.cross_entropy, [data()], tol=TOL, m=1).check()
    for wrap in (DDP, lambda model: torch.compile(DDP(model), backend="eager")):
        model = wrap(net())
        watch = Monitor(sam(model, model), model, F.cross_entropy, mine(), tol=TOL, m=1)
        record = watch.check()
        assert numbers(record) == pytest.approx(numbers(expected), rel=1e-6)
        assert record["converged"]
        first, second = everywhere(numbers(record))
        assert first == second
        assert numbers(watch.check()) == pytest.approx(numbers(expected), rel=1e-6)  # from the warm start


def they_train_on_as_before_and_only_the_first_writes():
    folder = Path()

    def run(watched):
        model = DDP(net(nn.BatchNorm1d(7, dtype=torch.float64)))
        optimizer = sam(model, model)
        options = {"every": 2, "max_overhead": None, "to": folder / "sharpness.jsonl"}
        watch = Monitor(optimizer, model, F.cross_entropy, mine(), **options)
        watch.step = watch.step if watched else lambda: None
        train(model, optimizer, watch, mine(), 5)
        return watch, model.state_dict()

    (watch, one), (_, other) = run(True), run(False)
    assert all(torch.equal(one[name], other[name]) for name in one)
    dist.barrier()
    assert [record["step"] for record in read_jsonl(folder / "sharpness.jsonl")] == [1, 2, 4]
    assert len((folder / "sharpness.jsonl").read_text().splitlines()) == len(watch.records) == 3


def the_clock_of_the_first_decides():
    now = [0.0]
    real, stopwatch.perf_counter = stopwatch.perf_counter, lambda: now[0]
    try:
        model = DDP(net())
        watch = Monitor(sam(model, model), model, F.cross_entropy, mine(), every=1, max_overhead=0.5)
        measure = watch._measure

        def slow():
            now[0] += 1.0
            return measure()

        watch._measure = slow
        for _ in range(30):
            now[0] += (0.25, 4.0)[dist.get_rank()]
            watch.step()
    finally:
        stopwatch.perf_counter = real
    assert [record["step"] for record in watch.records] == [1, 9, 13, 17, 21, 25, 29]


def what_fails_in_the_iteration_fails_in_all():
    model = DDP(net())

    def loss_fn(out, y):
        return F.cross_entropy(out, y) + (out - out.detach()).abs().pow(1.5).sum()

    watch = Monitor(sam(model, model), model, loss_fn, mine())
    with pytest.warns(UserWarning, match="not finite"):
        assert watch.check()["hessian_norm"] is None


def one_process_for_itself():
    model = DDP(net())
    if dist.get_rank() == 1:
        watch = Monitor(sam(model, model), model.module, F.cross_entropy, [data()], tol=TOL)
        whole = net()
        expected = Monitor(sam(whole), whole, F.cross_entropy, [data()], tol=TOL).check()
        assert numbers(watch.check()) == numbers(expected)
    dist.barrier()


def synchronized_batch_norm_is_refused():
    model = net(nn.SyncBatchNorm(7))
    model[1].training = True
    wrapper = DDP.__new__(DDP)  # which refuses such layers on the CPU
    nn.Module.__init__(wrapper)
    wrapper.module, wrapper.process_group = model, dist.group.WORLD
    with pytest.raises(ValueError, match=r"SyncBatchNorm \(1\)"):
        Monitor(sam(model), wrapper, F.cross_entropy, mine())


def pieces_are_refused():
    mesh = init_device_mesh("cpu", (2,))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    models = [fully_shard(net()), parallelize_module(net(), mesh, plan)]
    models += [FullyShardedDataParallel(net(), use_orig_params=o, device_id=torch.device("cpu")) for o in (True, False)]
    gathered = fully_shard(net())
    with torch.no_grad():
        gathered(data()[0])  # after a forward pass the root's parameters are tensors like any
    assert not hasattr(next(gathered.parameters()), "placements")
    for model in [*models, gathered]:
        plain = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match=r"lies in pieces .* Gather the weights"):
            Monitor(plain, model, F.cross_entropy, mine())
    for measure in (
        lambda: Hessian(gathered, F.cross_entropy, mine()),
        lambda: average_sharpness(gathered, F.cross_entropy, mine(), 0.1),
        lambda: along_line(gathered, gathered, F.cross_entropy, mine()),
        lambda: importance_weights(gathered, mine(), rho=0.1),
    ):
        with pytest.raises(ValueError, match=r"lies in pieces .* Gather the weights"):
            measure()


CASES = [
    processes_measure_as_one, they_train_on_as_before_and_only_the_first_writes, the_clock_of_the_first_decides,
    what_fails_in_the_iteration_fails_in_all, one_process_for_itself, synchronized_batch_norm_is_refused,
    pieces_are_refused,
]  # fmt: skip
