"""Two processes with Accelerate, on the CPU; run by test_accelerate.py."""

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from lowland import SAM
from lowland.adapters.accelerate import inner, passes
from tests.adapters.real import batches, network
from tests.adapters.test_accelerate import CASES as NAMES
from tests.adapters.test_accelerate import CLIP, RHO, sgd, train, with_scaler
from tests.optim import textbook

MICRO = 3


def wholes(count):
    """Batches of both processes together, in float64."""
    return batches(count, size=32, dtype=torch.float64)


def mine(batch):
    """The half of this process."""
    rank, world = dist.get_rank(), dist.get_world_size()
    return tuple(part.chunk(world)[rank] for part in batch)


def start(micro=1, seed=0, make=sgd, accelerator=None, **arguments):
    """An accelerator, and what it makes of a network and its SAM."""
    accelerator = accelerator or Accelerator(cpu=True, gradient_accumulation_steps=micro)
    model = network(seed, **arguments).double()
    return accelerator, *accelerator.prepare(model, SAM(make(model), rho=RHO))


def expect(model, steps, clip=None, make=sgd):
    """``model`` has the weights that the textbook gets with the losses ``steps(expected)``."""
    expected = network().double()
    textbook.train(expected, make(expected), steps(expected), RHO, clip=clip)
    for (name, param), want in zip(model.named_parameters(), expected.parameters(), strict=True):
        param = param.full_tensor() if isinstance(param, DTensor) else param
        torch.testing.assert_close(param, want, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def each_for_itself(count, micro):
    """Of each step the losses of its micro-batches."""

    def steps(model):
        parts = [lambda x=x, y=y: F.cross_entropy(model(x), y) / micro for x, y in wholes(count)]
        return [parts[i : i + micro] for i in range(0, count, micro)]

    return steps


def ddp():
    accelerator, model, optimizer = start()
    assert accelerator.distributed_type == DistributedType.MULTI_CPU
    train(accelerator, model, optimizer, map(mine, wholes(6)), clip=CLIP)
    expect(model, each_for_itself(6, 1), CLIP)


def ddp_accumulation():
    """The ascent of each micro-batch is that of both processes, though accumulate() stands around it."""
    accelerator, model, optimizer = start(MICRO)
    train(accelerator, model, optimizer, map(mine, wholes(4 * MICRO)), clip=CLIP)
    expect(model, each_for_itself(4 * MICRO, MICRO), CLIP)


def ddp_all_together():
    accelerator, model, optimizer = start(MICRO)
    data = list(map(mine, wholes(4 * MICRO)))
    for i in range(0, len(data), MICRO):
        for evaluation in passes(accelerator, optimizer, model):
            with evaluation:
                with accelerator.no_sync(model):
                    for x, y in data[i : i + MICRO - 1]:
                        accelerator.backward(F.cross_entropy(model(x), y))
                x, y = data[i + MICRO - 1]
                accelerator.backward(F.cross_entropy(model(x), y))
        optimizer.step()
        optimizer.zero_grad()

    def steps(model):
        data = wholes(4 * MICRO)
        groups = [data[i : i + MICRO] for i in range(0, len(data), MICRO)]
        joined = [[torch.cat(parts) for parts in zip(*group, strict=True)] for group in groups]
        return [lambda x=x, y=y: F.cross_entropy(model(x), y) for x, y in joined]

    expect(model, steps)


def ddp_local_ascents():
    """sync=False: m-SAM with m = the batch of one process."""
    accelerator, model, optimizer = start()
    for x, y in map(mine, wholes(6)):
        for evaluation in passes(accelerator, optimizer, model, sync=False):
            with evaluation:
                accelerator.backward(F.cross_entropy(model(x), y))
        optimizer.step()
        optimizer.zero_grad()
    expect(
        model,
        lambda model: [
            [lambda x=x, y=y: F.cross_entropy(model(x), y) / 2 for x, y in zip(a.chunk(2), b.chunk(2), strict=True)]
            for a, b in wholes(6)
        ],
    )


def ddp_bfloat16_agrees():
    """Both processes have the same bits, and SAM's: the second pass doesn't see casts of the first."""

    def trained(rho):
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
        model = network()
        model, optimizer = accelerator.prepare(model, SAM(sgd(model), rho=rho))
        train(accelerator, model, optimizer, map(mine, batches(12, size=32)), clip=CLIP)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    flat = trained(RHO)
    everyone = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(everyone, flat)
    assert torch.equal(*everyone)
    assert (flat - trained(0.0)).abs().max() > 1e-3


def ddp_overflow_of_one():
    """One process overflows in an ascent that is not synchronized: both skip, both back off."""
    accelerator = with_scaler(Accelerator(cpu=True), init_scale=4.0)
    _, model, optimizer = start(accelerator=accelerator)
    before = [p.detach().clone() for p in model.parameters()]
    x, y = mine(wholes(1)[0])
    for number, evaluation in enumerate(passes(accelerator, optimizer, model, sync=False)):
        with evaluation:
            loss = F.cross_entropy(model(x), y)
            accelerator.backward(loss * (float("inf") if number == 0 and dist.get_rank() == 0 else 1.0))
    optimizer.step()
    assert accelerator.optimizer_step_was_skipped
    assert accelerator.scaler.get_scale() == 2.0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def resumes(folder, **arguments):
    data = list(map(mine, wholes(16)))
    accelerator, model, optimizer = start(2, make=adamw, accelerator=arguments["new"]())
    train(accelerator, model, optimizer, data[:8])
    accelerator.save_state(folder)
    train(accelerator, model, optimizer, data[8:])
    accelerator.free_memory()
    accelerator, resumed, optimizer = start(2, seed=1, make=adamw, accelerator=arguments["new"]())
    accelerator.load_state(folder)
    assert inner(optimizer).steps == 4
    train(accelerator, resumed, optimizer, data[8:])
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        one, other = (p.to_local() if isinstance(p, DTensor) else p for p in (one, other))
        assert torch.equal(one, other)


def ddp_resumes():
    resumes("ddp", new=lambda: Accelerator(cpu=True, gradient_accumulation_steps=2))


def ddp_unwrapped_is_refused():
    accelerator, model, optimizer = start()
    with pytest.raises(ValueError, match="what accelerator"):
        passes(accelerator, optimizer, model.module)


def sharded(micro=1):
    """As Accelerate sets itself up for FSDP2 on GPUs; on the CPU it takes the plugin and does DDP instead."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=micro)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=300, cpu_ram_efficient_loading=False
    )
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    assert accelerator.is_fsdp2
    return accelerator


def fsdp2():
    accelerator, model, optimizer = start(accelerator=sharded())
    assert all(isinstance(param, DTensor) for param in model.parameters())
    train(accelerator, model, optimizer, map(mine, wholes(6)), clip=CLIP)
    expect(model, each_for_itself(6, 1), CLIP)


def fsdp2_accumulation():
    accelerator, model, optimizer = start(accelerator=sharded(MICRO))
    train(accelerator, model, optimizer, map(mine, wholes(4 * MICRO)), clip=CLIP)
    expect(model, each_for_itself(4 * MICRO, MICRO), CLIP)


def fsdp2_resumes():
    resumes("fsdp2", new=lambda: sharded(2))


def between():
    """Accelerate keeps its state for the whole process."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_CPU


CASES = [globals()[name] for name in NAMES]
