"""What two or four processes must do as one would; run by test_parallel.py, a process a rank.

Every case trains in float64 and compares the weights with a textbook loop over the whole batch in one process.
"""

import contextlib
import copy
import functools
import itertools
import math
import tempfile
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as DDP

from lowland import SAM, compat
from lowland.optim import presets
from tests.optim import textbook

LR, MOMENTUM, RHO, STEPS, MICRO = 0.2, 0.9, 0.3, 4, 3


class Net(nn.Module):
    """Sizes that don't divide by the number of processes, an unused layer, and a frozen one."""

    def __init__(self, unused=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.unused = nn.Linear(2, 2) if unused else nn.Identity()
        self.double()

    def forward(self, x):
        return self.second(torch.tanh(self.norm(self.first(self.frozen(x)))))


def batches(step, count=1, size=8):
    """``count`` micro-batches of a step; ``size`` examples in all processes together."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(count):
        yield (
            torch.randn(size, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )


def mine(batch):
    rank, world = dist.get_rank(), dist.get_world_size()
    return tuple(part.chunk(world)[rank] for part in batch)


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def sam_gradient(model, params, climbing, descending=None, l2=0.0):
    """The gradient of the loss of some batches at w + e, e from the gradient of some at w."""

    def loss_of(parts):
        return textbook.penalized(lambda: sum(loss_fn(model, batch) for batch in parts), params, l2)

    return textbook.gradient(loss_of(descending or climbing), params, RHO, ascent=loss_of(climbing))


def mean(gradients):
    return [sum(parts) / len(gradients) for parts in zip(*gradients, strict=True)]


def trained(gradient_of_step, net=Net):
    """Train with SGD and momentum along ``gradient_of_step(model, params, step)``; the trained model."""
    model = net()
    base = sgd(model)
    params = [p for p in model.parameters() if p.requires_grad]
    for step in range(STEPS):
        textbook.descend(base, params, gradient_of_step(model, params, step))
    return model


def plain(model, params, step):
    return sam_gradient(model, params, list(batches(step)))


def by_groups(count, micro=1, l2=0.0):
    """The mean over ``count`` groups of a batch, each of which climbs for itself; the mean over micro-batches of it."""

    def gradient(model, params, step):
        groups = [
            group for batch in batches(step, micro) for group in zip(*(t.chunk(count) for t in batch), strict=True)
        ]
        return mean([sam_gradient(model, params, [group], l2=l2) for group in groups])

    return gradient


def each_for_itself(model, params, step):
    return [MICRO * g for g in by_groups(1, MICRO)(model, params, step)]


def all_together(model, params, step):
    return sam_gradient(model, params, list(batches(step, MICRO)))


def same(model, expected):
    """Equal weights, wherever their pieces are; and w itself, not w + e, is what gathers find."""
    expected = dict(expected.named_parameters())
    for name, param in model.named_parameters():
        param = param.full_tensor() if isinstance(param, DTensor) else param
        name = name.removeprefix("module.")
        if name in expected:
            torch.testing.assert_close(param, expected[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)


def train(model, optimizer, steps=range(STEPS), **options):
    for step in steps:
        (batch,) = batches(step)
        for evaluation in optimizer.passes(**options):
            with evaluation:
                loss_fn(model, mine(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()


# DDP.


def ddp_synchronized():
    for view in (False, True):
        model = DDP(Net(), gradient_as_bucket_view=view)
        train(model, SAM(sgd(model), rho=RHO, model=model))
        same(model, trained(plain))


def ddp_local_ascent_is_m_sam():
    for view in (False, True):
        model = DDP(Net(), gradient_as_bucket_view=view)
        train(model, SAM(sgd(model), rho=RHO, model=model), sync=False)
        same(model, trained(by_groups(dist.get_world_size())))


def ddp_accumulation():
    for view, unused in itertools.product((False, True), (False, True)):
        model = DDP(Net(unused), gradient_as_bucket_view=view, find_unused_parameters=unused)
        optimizer = SAM(sgd(model), rho=RHO, model=model)
        for step in range(STEPS):
            for i, batch in enumerate(batches(step, MICRO)):
                last = i == MICRO - 1
                for evaluation in optimizer.passes():
                    with evaluation:
                        if last:
                            loss_fn(model, mine(batch)).backward()
                        else:
                            synchronized = optimizer.under_way == "ascent"  # forced, whatever stands around
                            with model.no_sync():
                                model.require_backward_grad_sync = synchronized
                                loss_fn(model, mine(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
        same(model, trained(each_for_itself))


def ddp_accumulation_with_no_sync_around_both_passes():
    for view in (False, True):
        model = DDP(Net(), gradient_as_bucket_view=view)
        optimizer = SAM(sgd(model), rho=RHO, model=model)
        for step in range(STEPS):
            *first, last = batches(step, MICRO)
            for batch in first:
                with model.no_sync():
                    for evaluation in optimizer.passes():
                        with evaluation:
                            loss_fn(model, mine(batch)).backward()
            for evaluation in optimizer.passes():
                with evaluation:
                    loss_fn(model, mine(last)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=step % 2 == 0)
        same(model, trained(each_for_itself))


def ddp_accumulation_where_nobody_names_the_wrapper():
    """The network alone is given, or nothing: the ascent is that of all processes all the same."""
    for given, rule in itertools.product((False, True), ("SAM", "GSAM", "LookSAM")):
        net, expected = Net(), Net()
        model = DDP(net)
        optimizer = getattr(presets, rule)(sgd(model), rho=RHO, model=net if given else None)
        reference = getattr(presets, rule)(sgd(expected), rho=RHO, model=expected if given else None)
        for step in range(STEPS):
            for i, batch in enumerate(batches(step, MICRO)):
                with contextlib.nullcontext() if i == MICRO - 1 else model.no_sync():
                    one_batch(optimizer, model, mine(batch))
                one_batch(reference, expected, batch)
            for each in (optimizer, reference):
                each.step()
                each.zero_grad()
        same(model, expected)
        assert model.require_backward_grad_sync
    refused(ValueError, "it needs model=", lambda: ascend(SAM(sgd(model)), model, next(batches(0)), sync=False))


def one_batch(optimizer, model, batch):
    for evaluation in optimizer.passes():
        with evaluation:
            loss_fn(model, batch).backward()


def processes_that_train_networks_of_their_own():
    """Without DDP nobody waits for the others, who make other numbers of steps on other data."""
    rank = dist.get_rank()
    for m in (None, 2):
        model, expected = Net(), Net()
        optimizer = SAM(sgd(model), rho=RHO, model=None if m is None else model, m=m)
        base = sgd(expected)
        params = [p for p in expected.parameters() if p.requires_grad]
        for step in range(2 + rank):
            (batch,) = batches(step + 10 * rank)
            if m is None:
                one_batch(optimizer, model, batch)
                optimizer.step()
                optimizer.zero_grad()
            else:
                losses = functools.partial(F.cross_entropy, reduction="none")
                optimizer.step(lambda model=model, b=batch, losses=losses: losses(model(b[0]), b[1]))
            groups = [batch] if m is None else list(zip(*(part.split(m) for part in batch), strict=True))
            textbook.descend(base, params, mean([sam_gradient(expected, params, [group]) for group in groups]))
        same(model, expected)
    dist.barrier()


def ddp_no_sync_inside_the_ascent_is_refused():
    for view in (False, True):
        model = DDP(Net(), gradient_as_bucket_view=view)
        optimizer = SAM(sgd(model), rho=RHO, model=model)

        def step(model=model, optimizer=optimizer):
            for evaluation in optimizer.passes():
                with evaluation, model.no_sync():
                    loss_fn(model, mine(next(batches(0)))).backward()

        refused(RuntimeError, "Put no_sync() around the passes", step)
        train(model, optimizer)  # nothing of the refused pass is left
        same(model, trained(plain))


def ddp_accumulation_of_all_together():
    for view, given in itertools.product((False, True), (False, True)):
        model = DDP(Net(), gradient_as_bucket_view=view)
        optimizer = SAM(sgd(model), rho=RHO, model=model if given else None)
        for step in range(STEPS):
            for evaluation in optimizer.passes():
                with evaluation:
                    *first, last = batches(step, MICRO)
                    with model.no_sync():
                        for batch in first:
                            loss_fn(model, mine(batch)).backward()
                    loss_fn(model, mine(last)).backward()
            optimizer.step()
            optimizer.zero_grad()
        same(model, trained(all_together))


def ddp_unused_parameters():
    model = DDP(Net(unused=True), find_unused_parameters=True)
    train(model, SAM(sgd(model), rho=RHO, model=model))
    same(model, trained(plain))


def ddp_m_sam():
    model = DDP(Net())
    optimizer = SAM(sgd(model), rho=RHO, model=model, m=2)
    for step in range(STEPS):
        (batch,) = batches(step)
        x, y = mine(batch)
        optimizer.step(lambda x=x, y=y: F.cross_entropy(model(x), y, reduction="none"))

    same(model, trained(by_groups(4)))


def ddp_m_sam_of_unequal_batches():
    model = DDP(Net())
    optimizer = SAM(sgd(model), rho=RHO, model=model, m=1)
    (batch,) = batches(0)
    x, y = (part[: 4 - dist.get_rank()] for part in mine(batch))
    optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))


def ddp_m_sam_by_the_loop_in_one_process():
    """Rows in another order go by the loop, whose looking for a reason averages nothing; one group alone doesn't."""
    model = DDP(Net())
    optimizer = SAM(sgd(model), rho=RHO, model=model, m=2)
    parts = slice(0, 6), slice(6, 8)
    for step in range(STEPS):
        (batch,) = batches(step)
        x, y = (part[parts[dist.get_rank()]] for part in batch)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "m-SAM goes group by group")
            optimizer.step(lambda x=x, y=y: F.cross_entropy(model(x), y, reduction="none").flip(0))

    def by_process(model, params, step):
        (batch,) = batches(step)
        means = []
        for part in parts:
            groups = list(zip(*(t[part].split(2) for t in batch), strict=True))
            means.append(mean([sam_gradient(model, params, [group]) for group in groups]))
        return mean(means)

    same(model, trained(by_process))


def hybrid_accumulation_without_all_reduce():
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("replicate", "shard"))
    model = fully_shard(Net(), mesh=mesh)
    optimizer = SAM(sgd(model), rho=RHO, model=model)
    for step in range(STEPS):
        for i, batch in enumerate(batches(step, MICRO)):
            with optimizer.ascent():
                loss_fn(model, mine(batch)).backward()
            model.set_requires_all_reduce(i == MICRO - 1)
            with optimizer.perturbed():
                loss_fn(model, mine(batch)).backward()
            model.set_requires_all_reduce(True)
        optimizer.step()
        optimizer.zero_grad()
    same(model, trained(each_for_itself))


def compat_under_fsdp():
    model = sharded(reshard_after_forward=False)
    optimizer = compat.SAM(model.parameters(), torch.optim.SGD, rho=RHO, lr=LR, momentum=MOMENTUM)
    for step in range(STEPS):
        (batch,) = batches(step)
        loss_fn(model, mine(batch)).backward()
        optimizer.first_step(zero_grad=True)
        loss_fn(model, mine(batch)).backward()
        optimizer.second_step(zero_grad=True)
    same(model, trained(plain))


def ddp_static_graph():
    model = DDP(Net(), static_graph=True)
    train(model, SAM(sgd(model), rho=RHO, model=model))
    same(model, trained(plain))
    refused(ValueError, "Leave static_graph out", lambda: SAM(sgd(model), rho=RHO, model=model, m=1))


def optimizer_state_in_pieces():
    model = DDP(Net())
    base = ZeroRedundancyOptimizer(
        [p for p in model.parameters() if p.requires_grad], torch.optim.SGD, lr=LR, momentum=MOMENTUM
    )
    train(model, SAM(base, rho=RHO, model=model))
    same(model, trained(plain))


def the_older_fsdp_is_refused():
    for original in (True, False):
        model = FullyShardedDataParallel(
            Net().requires_grad_(), use_orig_params=original, device_id=torch.device("cpu")
        )
        refused(ValueError, "fully_shard", lambda model=model: SAM(sgd(model), rho=RHO))


def fsdp_with_mixed_precision():
    policy = MixedPrecisionPolicy(param_dtype=torch.float64, reduce_dtype=torch.float64)
    model = sharded(mp_policy=policy)
    train(model, SAM(sgd(model), rho=RHO, model=model))
    same(model, trained(plain))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(mp_policy=policy)
    optimizer = SAM(sgd(model), rho=RHO, model=model)
    for step in range(STEPS):
        for i, batch in enumerate(batches(step, MICRO)):
            with optimizer.ascent():
                loss_fn(model, mine(batch)).backward()
            model.set_requires_gradient_sync(i == MICRO - 1)  # gradients accumulate in reduce_dtype, elsewhere
            with optimizer.perturbed():
                loss_fn(model, mine(batch)).backward()
            model.set_requires_gradient_sync(True)
        optimizer.step()
        optimizer.zero_grad()
    expected = trained(each_for_itself)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.full_tensor(), q, rtol=0, atol=0.02)


def ddp_compiled():
    model = torch.compile(DDP(Net()), backend="eager")
    train(model, SAM(sgd(model), rho=RHO, model=model))
    same(model._orig_mod, trained(plain))


def an_overflow_in_one_process_skips_the_step_in_all():
    def run(wrap, **options):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        model = wrap(Net())
        optimizer = SAM(sgd(model), rho=RHO, model=model)
        before = copy.deepcopy(list(model.parameters()))
        (batch,) = batches(0)
        for i, evaluation in enumerate(optimizer.passes(scaler=scaler, **options)):
            with evaluation:
                loss = loss_fn(model, mine(batch))
                if i == 0 and dist.get_rank() == 1:
                    loss = loss * math.inf
                scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 4.0
        for p, b in zip(model.parameters(), before, strict=True):
            p, b = (x.full_tensor() if isinstance(x, DTensor) else x for x in (p, b))
            assert torch.equal(p, b)

    run(DDP)
    run(DDP, sync=False)
    run(fully_shard)


def batches_that_all_leave_out():
    """Before backward, in either pass; gathered weights of w + e don't stay."""

    def kept(model, params, step):
        return plain(model, params, (0, 2, 4, 5)[step])

    wraps = (
        DDP,
        functools.partial(DDP, find_unused_parameters=True),
        sharded,
        functools.partial(sharded, reshard_after_forward=False),
    )
    for wrap, scaled in itertools.product(wraps, (False, True)):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=scaled)
        model = wrap() if wrap is sharded or getattr(wrap, "func", None) is sharded else wrap(Net())
        optimizer = SAM(sgd(model), rho=RHO, model=model)
        for step in range(6):
            (batch,) = batches(step)
            for index, evaluation in enumerate(optimizer.passes(scaler=scaler)):
                with evaluation:
                    loss = loss_fn(model, mine(batch))
                    if (step, index) in ((1, 0), (3, 1)):
                        optimizer.skip()
                        break
                    scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert optimizer.steps == 4
        same(model, trained(kept))


# FSDP2.


def sharded(**options):
    model = Net()
    for layer in (model.first, model.norm, model.second):
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def fsdp():
    for options in ({}, {"reshard_after_forward": False}):
        for given in (True, False):
            model = sharded(**options)
            optimizer = SAM(sgd(model), rho=RHO, model=model if given else None)
            train(model, optimizer)
            same(model, trained(plain))
            shard = [p.to_local().numel() for p in model.parameters() if p.requires_grad]
            assert [copy.numel() for copy in optimizer._own.displacement._copies] == shard  # no full copy
    assert sum(shard) < sum(p.numel() for p in Net().parameters() if p.requires_grad)


def fsdp_gathered_weights_are_refused():
    """As an optimizer's parameters they are not what is trained."""
    model = sharded(reshard_after_forward=False)
    base = sgd(model)
    with torch.no_grad():
        model(next(iter(batches(0)))[0])
    refused(ValueError, "call model.reshard()", lambda: SAM(sgd(model), rho=RHO))
    refused(ValueError, "call model.reshard()", lambda: SAM(base, rho=RHO, model=model))
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    SAM(base, rho=RHO, model=model)


def fsdp_after_an_evaluation():
    model = sharded(reshard_after_forward=False)
    optimizer = SAM(sgd(model), rho=RHO, model=model)
    for step in range(STEPS):
        (batch,) = batches(step)
        for evaluation in optimizer.passes():
            with evaluation:
                loss_fn(model, mine(batch)).backward()
                with torch.no_grad():
                    model(batch[0])  # leaves gathered weights behind
        optimizer.step()
        optimizer.zero_grad()
    same(model, trained(plain))


def fsdp_without_resharding_after_backward():
    for given in (True, False):
        model = sharded()
        model.set_reshard_after_backward(False)
        optimizer = SAM(sgd(model), rho=RHO, model=model if given else None)
        train(model, optimizer)
        same(model, trained(plain))


def fsdp_accumulation_each_for_itself():
    for reshard in (True, False):
        model = sharded()
        optimizer = SAM(sgd(model), rho=RHO, model=model)
        for step in range(STEPS):
            for i, batch in enumerate(batches(step, MICRO)):
                last = i == MICRO - 1
                with optimizer.ascent():
                    loss_fn(model, mine(batch)).backward()
                model.set_requires_gradient_sync(last)
                model.set_reshard_after_backward(reshard or last)
                with optimizer.perturbed():
                    loss_fn(model, mine(batch)).backward()
                model.set_requires_gradient_sync(True)
                model.set_reshard_after_backward(True)
            optimizer.step()
            optimizer.zero_grad()
        same(model, trained(each_for_itself))


def fsdp_accumulation_of_all_together():
    for reshard in (True, False):
        model = sharded()
        optimizer = SAM(sgd(model), rho=RHO, model=model)
        for step in range(STEPS):
            for evaluation in optimizer.passes():
                with evaluation:
                    for i, batch in enumerate(batches(step, MICRO)):
                        model.set_requires_gradient_sync(i == MICRO - 1)
                        model.set_reshard_after_backward(reshard or i == MICRO - 1)
                        loss_fn(model, mine(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
        same(model, trained(all_together))


def fsdp_ascent_without_synchronization_is_refused():
    model = sharded()
    optimizer = SAM(sgd(model), rho=RHO, model=model)
    (batch,) = batches(0)
    model.set_requires_gradient_sync(False)
    refused(RuntimeError, "set_requires_gradient_sync", lambda: ascend(optimizer, model, batch))
    model.set_requires_gradient_sync(True)
    refused(ValueError, "FSDP2 can't climb locally", lambda: ascend(optimizer, model, batch, sync=False))
    train(model, optimizer)  # nothing of the refused passes is left
    same(model, trained(plain))


def fsdp_ascent_with_a_part_unsynchronized_is_refused():
    """A norm of the rest would be wrong; layers out of scope may do as they like."""
    for policy in (None, MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float64)):
        model = sharded() if policy is None else sharded(mp_policy=policy)
        optimizer = SAM(sgd(model), rho=RHO, model=model)
        model.second.set_requires_gradient_sync(False)
        refused(
            RuntimeError, "the norm would be of the rest", lambda m=model, o=optimizer: ascend(o, m, next(batches(0)))
        )
        model.second.set_requires_gradient_sync(True)
    model = sharded()
    optimizer = SAM(sgd(model), rho=RHO, model=model, scope=lambda model: model.first.parameters())
    expected = Net()
    reference = SAM(sgd(expected), rho=RHO, model=expected, scope=lambda model: model.first.parameters())
    for step in range(STEPS):
        (batch,) = batches(step)
        for evaluation in optimizer.passes():
            with evaluation:
                model.second.set_requires_gradient_sync(optimizer.under_way != "ascent")
                loss_fn(model, mine(batch)).backward()
        for evaluation in reference.passes():
            with evaluation:
                loss_fn(expected, batch).backward()
        for each in (optimizer, reference):
            each.step()
            each.zero_grad()
    same(model, expected)


def ascend(optimizer, model, batch, **options):
    with optimizer.ascent(**options):
        loss_fn(model, mine(batch)).backward()


def refused(kind, text, call):
    try:
        call()
    except kind as error:
        if text in str(error):
            return
        raise
    raise AssertionError("not refused")


def fsdp_exception_in_the_perturbed_pass():
    model = sharded()
    optimizer = SAM(sgd(model), rho=RHO, model=model)
    (batch,) = batches(99)
    before = [p.to_local().clone() for p in model.parameters()]
    ascend(optimizer, model, batch)
    try:
        with optimizer.perturbed():
            loss_fn(model, mine(batch)).backward()
            raise MemoryError
    except MemoryError:
        pass
    assert all(torch.equal(p.to_local(), b) for p, b in zip(model.parameters(), before, strict=True))
    optimizer.zero_grad()
    train(model, optimizer)
    same(model, trained(plain))


def fsdp_saves_and_resumes():
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)

    def start():
        model = sharded()
        return model, SAM(torch.optim.AdamW(model.parameters(), lr=LR), rho=lambda step: RHO / (1 + step), model=model)

    straight, saved, resumed = start(), start(), start()
    train(*straight, range(5))
    train(*saved, range(2))
    weights, state = get_state_dict(*saved)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
    weights, state = get_state_dict(*resumed)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
    set_state_dict(*resumed, model_state_dict=weights, optim_state_dict=state)
    assert resumed[1].steps == 2
    train(*resumed, range(2, 5))
    for a, b in zip(straight[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a.to_local(), b.to_local())


# Tensor parallelism, and two at a time.

PLAN = {"first": ColwiseParallel(), "second": RowwiseParallel()}


class Wide(Net):
    """Without the norm between the layers, and with sizes that divide."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(5, 8).double(), nn.Identity(), nn.Linear(8, 3).double()


def train_on_everything(model, optimizer, rank=0, world=1):
    for step in range(STEPS):
        (batch,) = batches(step)
        part = tuple(x.chunk(world)[rank] for x in batch)
        for evaluation in optimizer.passes():
            with evaluation:
                loss_fn(model, part).backward()
        optimizer.step()
        optimizer.zero_grad()


def tensor_parallel():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = parallelize_module(Wide(), mesh, PLAN)
    train_on_everything(model, SAM(sgd(model), rho=RHO, model=model))
    same(model, trained(plain, Wide))


def fsdp_and_tensor_parallel():
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "tensor"))
    model = fully_shard(parallelize_module(Wide(), mesh["tensor"], PLAN), mesh=mesh["data"])
    train_on_everything(model, SAM(sgd(model), rho=RHO, model=model), mesh.get_local_rank("data"), mesh["data"].size())
    same(model, trained(plain, Wide))


def hybrid_sharding():
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("replicate", "shard"))
    model = fully_shard(Net(), mesh=mesh)
    train(model, SAM(sgd(model), rho=RHO, model=model))
    same(model, trained(plain))


# The l2 term.

L2 = 0.4


def l2_ddp():
    for sync, view in itertools.product((True, False), (False, True)):
        model = DDP(Net(unused=True), gradient_as_bucket_view=view, find_unused_parameters=True)
        train(model, SAM(sgd(model), rho=RHO, model=model, l2=L2), sync=sync)
        same(model, trained(by_groups(1 if sync else dist.get_world_size(), l2=L2), lambda: Net(unused=True)))


def l2_ddp_accumulation():
    for sync, view in itertools.product((True, False), (False, True)):
        model = DDP(Net(), gradient_as_bucket_view=view)
        optimizer = SAM(sgd(model), rho=RHO, model=model, l2=L2 / MICRO)
        for step in range(STEPS):
            for i, batch in enumerate(batches(step, MICRO)):
                with contextlib.nullcontext() if i == MICRO - 1 else model.no_sync():
                    for evaluation in optimizer.passes(sync=sync):
                        with evaluation:
                            (loss_fn(model, mine(batch)) / MICRO).backward()
            optimizer.step()
            optimizer.zero_grad()
        same(model, trained(by_groups(1 if sync else dist.get_world_size(), MICRO, L2)))


def ddp_m_sam_of_another_wrapper_is_refused():
    """Gradients of groups would be averaged over the processes; with a network of others' it is no matter."""
    (batch,) = batches(0)
    x, y = mine(batch)
    inner = Net()
    wrapper = DDP(inner)
    parts = nn.ModuleList([DDP(nn.Linear(5, 7).double()), DDP(nn.Linear(7, 3).double())])
    holder = nn.Sequential(DDP(Net()))
    teacher = DDP(Net())
    for model, run in (
        (inner, wrapper),
        (holder, holder),
        (parts, lambda x: parts[1](parts[0](x).tanh())),
    ):
        for audit in (True, False):
            optimizer = SAM(sgd(model), rho=RHO, model=model, m=2, audit=audit)
            before = [p.detach().clone() for p in model.parameters()]
            step = functools.partial(optimizer.step, lambda run=run: F.cross_entropy(run(x), y, reduction="none"))
            refused(ValueError, "hand SAM the wrapper itself", step)
            assert all(map(torch.equal, before, model.parameters()))
    model = DDP(Net())
    optimizer = SAM(sgd(model), rho=RHO, model=model, m=2)
    optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none") + teacher(x).detach().sum(1) * 0)


def l2_ddp_m_sam():
    model = DDP(Net())
    optimizer = SAM(sgd(model), rho=RHO, model=model, m=2, l2=L2)
    for step in range(STEPS):
        (batch,) = batches(step)
        x, y = mine(batch)
        optimizer.step(lambda x=x, y=y: F.cross_entropy(model(x), y, reduction="none"))
    same(model, trained(by_groups(4, l2=L2)))


def l2_ddp_out_of_step_is_refused():
    model = DDP(Net(unused=True), find_unused_parameters=True)
    optimizer = SAM(sgd(model), rho=RHO, model=model, l2=L2)
    (batch,) = batches(0)

    def step():
        with model.no_sync():
            for evaluation in optimizer.passes(sync=False):
                with evaluation:
                    loss_fn(model, mine(batch)).backward()

    refused(ValueError, "without synchronization: not under DDP with find_unused_parameters", step)


def l2_fsdp():
    model = sharded()
    train(model, SAM(sgd(model), rho=RHO, model=model, l2=L2))
    same(model, trained(by_groups(1, l2=L2)))
    model = sharded()
    optimizer = SAM(sgd(model), rho=RHO, model=model, l2=L2 / MICRO)
    for step in range(STEPS):
        for i, batch in enumerate(batches(step, MICRO)):
            with optimizer.ascent():
                (loss_fn(model, mine(batch)) / MICRO).backward()
            model.set_requires_gradient_sync(i == MICRO - 1)
            with optimizer.perturbed():
                (loss_fn(model, mine(batch)) / MICRO).backward()
            model.set_requires_gradient_sync(True)
        optimizer.step()
        optimizer.zero_grad()
    same(model, trained(by_groups(1, MICRO, L2)))


def l2_tensor_parallel():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = parallelize_module(Wide(), mesh, PLAN)
    train_on_everything(model, SAM(sgd(model), rho=RHO, model=model, l2=L2))
    same(model, trained(by_groups(1, l2=L2), Wide))


# The family: as one process does on the whole batch.

FAMILY = {
    "USAM": {}, "ASAM": {}, "MultiStepSAM": {}, "PreviousSAM": {}, "FriendlySAM": {}, "MomentumSAM": {}, "LESAM": {},
    "GSAM": {}, "LookSAM": {"k": 2}, "WSAM": {"gamma": 0.7}, "StepSizeSAM": {}, "SAMON": {}, "LSAM": {},
    "PeriodicSAM": {"k": 2}, "EarlySAM": {"end": 2},
}  # fmt: skip


def one_of_the_family(name, model):
    return getattr(presets, name)(sgd(model), rho=RHO, model=model, **FAMILY.get(name, {}))


def by_one(name, net=Net):
    model = net()
    train_on_everything(model, one_of_the_family(name, model))
    return model


def family_ddp():
    for name in (*FAMILY, "RandomSAM"):
        model = DDP(Net(), gradient_as_bucket_view=name in ("GSAM", "WSAM"))
        train(model, one_of_the_family(name, model))
        same(model, by_one(name))


def family_ddp_accumulation():
    for name in ("GSAM", "WSAM", "StepSizeSAM", "LookSAM", "PreviousSAM", "FriendlySAM"):
        for view in (False, True):
            model, expected = DDP(Net(), gradient_as_bucket_view=view), Net()
            optimizer, reference = one_of_the_family(name, model), one_of_the_family(name, expected)
            for step in range(STEPS):
                for i, batch in enumerate(batches(step, MICRO)):
                    with contextlib.nullcontext() if i == MICRO - 1 else model.no_sync():
                        for evaluation in optimizer.passes():
                            with evaluation:
                                loss_fn(model, mine(batch)).backward()
                    for evaluation in reference.passes():
                        with evaluation:
                            loss_fn(expected, batch).backward()
                for o in (optimizer, reference):
                    o.step()
                    o.zero_grad()
            same(model, expected)


def family_fsdp():
    for name in FAMILY:
        model = sharded()
        train(model, one_of_the_family(name, model))
        same(model, by_one(name))


def family_fsdp_unsynchronized_is_refused():
    for name in ("GSAM", "WSAM"):
        model = sharded()
        optimizer = one_of_the_family(name, model)
        (batch,) = batches(0)
        with optimizer.ascent():
            loss_fn(model, mine(batch)).backward()
        model.set_requires_gradient_sync(False)
        refused = ""
        try:
            with optimizer.perturbed():
                loss_fn(model, mine(batch)).backward()
        except RuntimeError as error:
            refused = str(error)
        assert "for every pass where a rule takes both" in refused, name


def family_tensor_parallel():
    for name in FAMILY:
        if name != "SAMON":
            model = parallelize_module(Wide(), init_device_mesh("cpu", (dist.get_world_size(),)), PLAN)
            train_on_everything(model, one_of_the_family(name, model))
            same(model, by_one(name, Wide))


def a_random_direction_in_pieces():
    model = sharded()
    optimizer = one_of_the_family("RandomSAM", model)
    before = [p.full_tensor().clone() for p in model.parameters()]
    for evaluation in optimizer.passes():
        with evaluation:
            moved = [p.full_tensor() - w for p, w in zip(model.parameters(), before, strict=True)]
            loss_fn(model, mine(next(batches(0)))).backward()
    assert math.isclose(math.sqrt(sum(e.square().sum().item() for e in moved)), RHO)
    rows = moved[0].chunk(dist.get_world_size())
    assert not torch.equal(rows[0][:1], rows[1][:1])


def family_fsdp_saves_and_resumes():
    for name in ("FriendlySAM", "LookSAM", "PreviousSAM"):
        folder = [tempfile.mkdtemp()]
        dist.broadcast_object_list(folder)
        model = sharded()
        optimizer = one_of_the_family(name, model)
        train(model, optimizer, range(3))
        weights, state = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
        train(model, optimizer, range(3, 6))
        resumed = sharded()
        again = one_of_the_family(name, resumed)
        weights, state = get_state_dict(resumed, again)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
        set_state_dict(resumed, again, model_state_dict=weights, optim_state_dict=state)
        train(resumed, again, range(3, 6))
        for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(p.full_tensor(), q.full_tensor()), name


TWO = [
    ddp_synchronized, ddp_local_ascent_is_m_sam, ddp_accumulation, ddp_accumulation_with_no_sync_around_both_passes,
    ddp_accumulation_of_all_together, ddp_accumulation_where_nobody_names_the_wrapper,
    ddp_no_sync_inside_the_ascent_is_refused, processes_that_train_networks_of_their_own,
    ddp_unused_parameters, ddp_compiled,
    an_overflow_in_one_process_skips_the_step_in_all, fsdp, fsdp_after_an_evaluation,
    fsdp_gathered_weights_are_refused,
    fsdp_without_resharding_after_backward, fsdp_accumulation_each_for_itself, fsdp_accumulation_of_all_together,
    fsdp_with_mixed_precision,
    fsdp_ascent_without_synchronization_is_refused, fsdp_ascent_with_a_part_unsynchronized_is_refused,
    fsdp_exception_in_the_perturbed_pass, fsdp_saves_and_resumes,
    tensor_parallel, ddp_m_sam, ddp_m_sam_of_unequal_batches, compat_under_fsdp,
    ddp_m_sam_by_the_loop_in_one_process, ddp_static_graph, optimizer_state_in_pieces, the_older_fsdp_is_refused,
    family_ddp, family_ddp_accumulation, family_fsdp, family_tensor_parallel, a_random_direction_in_pieces,
    family_fsdp_saves_and_resumes, family_fsdp_unsynchronized_is_refused,
    batches_that_all_leave_out,
    l2_ddp, l2_ddp_accumulation, l2_ddp_m_sam,
    ddp_m_sam_of_another_wrapper_is_refused, l2_ddp_out_of_step_is_refused, l2_fsdp, l2_tensor_parallel,
]  # fmt: skip
FOUR = [
    ddp_synchronized, ddp_local_ascent_is_m_sam, ddp_accumulation_with_no_sync_around_both_passes, fsdp,
    fsdp_accumulation_each_for_itself, hybrid_sharding, hybrid_accumulation_without_all_reduce,
    fsdp_and_tensor_parallel, family_fsdp,
]  # fmt: skip
CASES = {2: TWO, 4: FOUR}
