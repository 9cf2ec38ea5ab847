"""Accelerate's own loops with SAM: what a loop written by hand gives, on real digits."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("accelerate", reason="Accelerate is not installed: pip install '.[accelerate]'")

from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, GradientState
from torch.utils.data import DataLoader, TensorDataset

from lowland import SAM
from lowland.adapters.accelerate import inner, passes
from tests.adapters.real import batches, digits, equal, network
from tests.cases import check, outcomes_of
from tests.optim import textbook

RHO, CLIP = 0.1, 0.05


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its state for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def with_scaler(accelerator, **arguments):
    """As Accelerate sets itself up for float16 on a GPU; on the CPU it refuses to, though torch can."""
    accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", **arguments), True
    accelerator.state._mixed_precision = "fp16"
    return accelerator


def train(accelerator, model, optimizer, loader, scheduler=None, clip=None):
    """The loop of Accelerate's documentation, with one line more; the losses at w."""
    losses = []
    for x, y in loader:
        with accelerator.accumulate(model):
            first = None
            for evaluation in passes(accelerator, optimizer, model):
                with evaluation:
                    loss = F.cross_entropy(model(x), y)
                    accelerator.backward(loss)
                first = loss.item() if first is None else first
            if clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            optimizer.zero_grad()
        losses.append(first)
    return losses


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("clip", [None, CLIP])
def test_trains_as_the_textbook(micro, clip):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=micro)
    model = network().double()
    base = sgd(model)
    optimizer = SAM(base, rho=RHO)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    data = batches(6 * micro, dtype=torch.float64)
    logged = train(accelerator, model, optimizer, data, scheduler, clip)
    assert inner(optimizer).steps == 6

    expected = network().double()
    base = sgd(expected)
    scheduler = torch.optim.lr_scheduler.StepLR(base, 2, gamma=0.5)
    seen = []

    def loss_fn(x, y):
        seen.append(F.cross_entropy(expected(x), y))
        return seen[-1] / micro

    parts = [lambda x=x, y=y: loss_fn(x, y) for x, y in data]
    steps = [parts[i : i + micro] for i in range(0, len(parts), micro)]
    textbook.train(expected, base, steps, RHO, clip=clip, after=scheduler.step)
    torch.testing.assert_close(list(model.parameters()), list(expected.parameters()), rtol=1e-10, atol=1e-12)
    assert logged == pytest.approx([loss.item() for loss in seen[::2]], rel=1e-10)  # at w, not at w + e


def test_all_micro_batches_climb_together():
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    model = network().double()
    model, optimizer = accelerator.prepare(model, SAM(sgd(model), rho=RHO))
    data = batches(12, dtype=torch.float64)
    for i in range(0, 12, 3):
        for evaluation in passes(accelerator, optimizer, model):
            with evaluation:
                for x, y in data[i : i + 3]:
                    accelerator.backward(F.cross_entropy(model(x), y))
        optimizer.step()
        optimizer.zero_grad()
    expected = network().double()
    wholes = [[torch.cat(parts) for parts in zip(*data[i : i + 3], strict=True)] for i in range(0, 12, 3)]
    losses = [lambda x=x, y=y: F.cross_entropy(expected(x), y) for x, y in wholes]
    textbook.train(expected, sgd(expected), losses, RHO)
    torch.testing.assert_close(list(model.parameters()), list(expected.parameters()), rtol=1e-10, atol=1e-12)


def by_hand(model, optimizer, data, dtype, scaler=None, clip=CLIP, micro=2):
    """The same with torch's own recipe, SAM in plain sight."""
    for i, (x, y) in enumerate(data):
        for evaluation in optimizer.passes(scaler=scaler):
            with evaluation:
                with torch.autocast("cpu", dtype=dtype):
                    logits = model(x)
                loss = F.cross_entropy(logits.float(), y) / micro
                (loss if scaler is None else scaler.scale(loss)).backward()
        if i % micro == micro - 1:
            if scaler is not None:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()
    return model


def test_bfloat16_gives_the_bits_of_the_hand_written_loop():
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    model = network()
    model, optimizer = accelerator.prepare(model, SAM(sgd(model), rho=RHO))
    train(accelerator, model, optimizer, batches(8), clip=CLIP)
    expected = network()
    by_hand(expected, SAM(sgd(expected), rho=RHO), batches(8), torch.bfloat16)
    assert equal(model, expected)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("init_scale", [2.0**10, 2.0**40])
def test_float16_gives_the_bits_of_the_hand_written_loop_and_skips_overflows(init_scale, fused):
    def adamw(model):
        return torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)

    accelerator = with_scaler(Accelerator(cpu=True, gradient_accumulation_steps=2), init_scale=init_scale)
    model = network()
    model, optimizer = accelerator.prepare(model, SAM(adamw(model), rho=RHO))
    before = [p.detach().clone() for p in model.parameters()]
    train(accelerator, model, optimizer, batches(2), clip=CLIP)
    overflows = init_scale > 2.0**20
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) == overflows
    assert fused or accelerator.optimizer_step_was_skipped == overflows
    train(accelerator, model, optimizer, batches(60)[2:], clip=CLIP)

    expected = network()
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    by_hand(expected, SAM(adamw(expected), rho=RHO), batches(60), torch.float16, scaler)
    assert equal(model, expected)
    assert accelerator.scaler.get_scale() == scaler.get_scale()
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_overflow_of_the_ascent_alone_skips_the_step():
    accelerator = with_scaler(Accelerator(cpu=True), init_scale=4.0)
    model = network()
    model, optimizer = accelerator.prepare(model, SAM(sgd(model), rho=RHO))
    before = [p.detach().clone() for p in model.parameters()]
    x, y = batches(1)[0]
    for number, evaluation in enumerate(passes(accelerator, optimizer, model)):
        with evaluation:
            accelerator.backward(F.cross_entropy(model(x), y) * (float("inf") if number == 0 else 1.0))
    optimizer.step()
    assert accelerator.optimizer_step_was_skipped
    assert accelerator.scaler.get_scale() == 2.0
    assert inner(optimizer).steps == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_resumes_to_the_same_bits(precision, tmp_path):
    def start(seed):
        accelerator = Accelerator(cpu=True, mixed_precision=precision if precision == "bf16" else "no")
        if precision == "fp16":
            with_scaler(accelerator, init_scale=2.0**40 if seed == 0 else 1.0)
        model = network(seed, dropout=0.2, batch_norm=True)
        optimizer = SAM(torch.optim.AdamW(model.parameters(), lr=1e-2), rho=lambda step: 0.1 * 0.9**step)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return accelerator, *accelerator.prepare(model, optimizer, scheduler)

    data = batches(60)
    accelerator, model, optimizer, scheduler = start(seed=0)
    train(accelerator, model, optimizer, data[:40], scheduler, CLIP)
    accelerator.save_state(str(tmp_path))
    train(accelerator, model, optimizer, data[40:], scheduler, CLIP)
    assert inner(optimizer).steps > 20
    accelerator.free_memory()
    AcceleratorState._reset_state(reset_partial_state=True)

    accelerator, resumed, optimizer, scheduler = start(seed=1)
    torch.rand(3)
    accelerator.load_state(str(tmp_path))
    train(accelerator, resumed, optimizer, data[40:], scheduler, CLIP)
    assert equal(model, resumed)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), resumed.buffers(), strict=True))


def test_loads_from_a_prepared_loader():
    x, y = digits()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = network()
    loader = DataLoader(TensorDataset(x[:330], y[:330]), batch_size=64)  # the last batch and accumulation are short
    model, optimizer, loader = accelerator.prepare(model, SAM(sgd(model), rho=RHO), loader)
    losses = [train(accelerator, model, optimizer, loader) for _ in range(8)]
    assert inner(optimizer).steps == 8 * 3
    assert losses[-1][0] < losses[0][0] / 2


def test_without_accumulation_and_scaler_a_closure_does():
    accelerator = Accelerator(cpu=True)
    model = network()
    model, optimizer = accelerator.prepare(model, SAM(sgd(model), rho=RHO))
    for x, y in batches(5):

        def closure(x=x, y=y):
            loss = F.cross_entropy(model(x), y)
            accelerator.backward(loss)
            return loss

        optimizer.step(closure)
    expected = network()
    plain = Accelerator(cpu=True)
    other, optimizer = plain.prepare(expected, SAM(sgd(expected), rho=RHO))
    train(plain, other, optimizer, batches(5))
    assert equal(model, expected)


def test_rho_zero_takes_one_pass():
    accelerator = Accelerator(cpu=True)
    model = network()
    model, optimizer = accelerator.prepare(model, SAM(sgd(model), rho=lambda step: 0.1 * (step % 2)))
    x, y = batches(1)[0]
    counts = []
    for _ in range(4):
        counts.append(0)
        for evaluation in passes(accelerator, optimizer, model):
            with evaluation:
                accelerator.backward(F.cross_entropy(model(x), y))
            counts[-1] += 1
        optimizer.step()
        optimizer.zero_grad()
    assert counts == [1, 2, 1, 2]


def test_refuses_what_would_not_be_sam(monkeypatch):
    accelerator = Accelerator(cpu=True)
    model = network()
    model, optimizer = accelerator.prepare(model, sgd(model))
    with pytest.raises(TypeError, match="no SAM in this optimizer, but SGD"):
        passes(accelerator, optimizer, model)
    grouped = accelerator.prepare(SAM(sgd(model), rho=RHO, model=model, m=8))
    with pytest.raises(NotImplementedError, match="m="):
        passes(accelerator, grouped, model)
    optimizer = accelerator.prepare(SAM(sgd(model), rho=RHO))
    with pytest.raises(ValueError, match="sync=False"):
        next(passes(accelerator, optimizer, model, sync=False)).__enter__()
    for kind in ("DEEPSPEED", "MEGATRON_LM", "XLA", "FSDP"):
        monkeypatch.setattr(Accelerator, "distributed_type", DistributedType[kind])
        with pytest.raises(NotImplementedError, match="no SAM here"):
            passes(accelerator, optimizer, model)


CASES = (
    "ddp", "ddp_accumulation", "ddp_all_together", "ddp_local_ascents", "ddp_bfloat16_agrees", "ddp_overflow_of_one",
    "ddp_resumes", "ddp_unwrapped_is_refused", "fsdp2", "fsdp2_accumulation", "fsdp2_resumes",
)  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return outcomes_of("tests.adapters.accelerate_cases", 2, tmp_path_factory.mktemp("accelerate"), joined=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_as_one(outcomes, case):
    check(outcomes, case)
