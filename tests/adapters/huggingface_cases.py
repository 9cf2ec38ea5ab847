"""Two processes with Hugging Face's Trainer, on the CPU; run by test_huggingface.py."""

import torch
import torch.distributed as dist
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lowland.adapters.accelerate import inner
from lowland.adapters.huggingface import SAMTrainer
from tests.adapters.real import equal
from tests.adapters.test_huggingface import CASES as NAMES
from tests.adapters.test_huggingface import bert, build, expect, images, llama, merged, pixels, summed, vit


def joined(batches):
    """The batches of both processes together: what one would have seen."""
    everyone = [None, None]
    dist.all_gather_object(everyone, batches)
    return [
        {key: torch.cat([part[key] for part in parts]) for key in parts[0]} for parts in zip(*everyone, strict=True)
    ]


def check_ddp(micro, **more):
    trainer, batches = build("trained", vit().double(), images(torch.float64), micro=micro, **more)
    trainer.train()
    assert isinstance(trainer.model_wrapped, DistributedDataParallel)
    return trainer, batches


def ddp():
    trainer, batches = check_ddp(1)
    expect(trainer, vit().double(), joined(batches), 1, summed)


def ddp_accumulation():
    """The ascent of each micro-batch is that of both processes, though the trainer puts no_sync() around it."""
    trainer, batches = check_ddp(2)
    expect(trainer, vit().double(), joined(batches), 2, summed)


def ddp_unequal_tokens():
    """Both processes and all micro-batches count by their numbers of labels."""
    x = images()
    generator = torch.Generator().manual_seed(0)
    data = []
    for image in x:
        ids = (image["pixel_values"].flatten()[:32] * 16).long()
        masked = int(torch.randint(1, 30, (1,), generator=generator))
        data.append({"input_ids": ids, "labels": ids.clone().index_fill_(0, torch.arange(masked), -100)})
    trainer, batches = build("trained", llama().double(), data, micro=2)
    trainer.train()

    def loss_fn(model, batch, count):
        return model(**batch, num_items_in_batch=count).loss

    expect(trainer, llama().double(), joined(batches), 2, loss_fn, rtol=1e-6, atol=1e-7)  # their loss is in float32


def ddp_local_ascents():
    """sync=False: m-SAM with m = the batch of one process."""
    trainer, batches = check_ddp(1, sync=False)
    halves = [{key: part.chunk(2)[rank] for key, part in batch.items()} for batch in joined(batches) for rank in (0, 1)]
    expect(trainer, vit().double(), halves, 2, summed)


def ddp_all_together():
    trainer, batches = check_ddp(3, together=True)
    expect(trainer, vit().double(), merged(joined(batches), 3), 1, summed)


def ddp_resumes():
    def start(seed):
        more = {"optim": "adamw_torch", "optim_args": None, "max_steps": 12, "learning_rate": 0.01, "bf16": True}
        saving = {"save_strategy": "steps", "save_steps": 5}
        return build("resumes", bert(seed), pixels(), micro=2, **more, **saving)[0]

    straight = start(seed=0)
    straight.train()
    between()
    resumed = start(seed=1)
    resumed.train(resume_from_checkpoint="resumes/checkpoint-5")
    assert inner(resumed.optimizer).steps == 12
    assert equal(straight.model, resumed.model)
    flat = torch.cat([p.detach().flatten() for p in resumed.model.parameters()])
    everyone = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(everyone, flat)
    assert torch.equal(*everyone)


class Sharded(SAMTrainer):
    """As the trainer sets itself up for FSDP2 on GPUs; on the CPU Accelerate takes the plugin and does DDP instead."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        self.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["ViTLayer"],
            cpu_ram_efficient_loading=False,
        )
        self.accelerator.state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.is_fsdp_enabled = True


def fsdp2_accumulation():
    trainer, batches = build("trained", vit().double(), images(torch.float64), kind=Sharded, micro=2)
    trainer.train()
    assert all(isinstance(param, DTensor) for param in trainer.model.parameters())
    expect(trainer, vit().double(), joined(batches), 2, summed)


def fsdp2_all_together():
    trainer, batches = build("trained", vit().double(), images(torch.float64), kind=Sharded, micro=3, together=True)
    trainer.train()
    expect(trainer, vit().double(), merged(joined(batches), 3), 1, summed)


def between():
    """Accelerate keeps its state for the whole process."""
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_CPU
    AcceleratorState._reset_state()
    GradientState._reset_state()


CASES = [globals()[name] for name in NAMES]
