"""Hugging Face's Trainer with SAM: what a loop written by hand gives, on real data."""

import functools
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[huggingface]'")
pytest.importorskip("accelerate", reason="Accelerate is not installed: pip install '.[huggingface]'")

from accelerate import DistributedType
from accelerate.state import AcceleratorState, GradientState
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
)

from lowland import SAM
from lowland.adapters.accelerate import inner
from lowland.adapters.huggingface import MonitorCallback, SAMMixin, SAMTrainer
from lowland.curvature import Monitor
from lowland.data import load
from lowland.errors import RunError
from lowland.optim import presets
from tests.adapters.real import digits, equal
from tests.cases import check, outcomes_of
from tests.optim import textbook

RHO, STEPS, CLIP = 0.1, 6, 0.1


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its state for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def vit():
    """A tiny image classifier; 5,018 parameters."""
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            image_size=8, patch_size=2, num_channels=1, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, num_labels=10, initializer_range=0.2,
        )
    )  # fmt: skip


def images(dtype=torch.float32):
    x, y = digits(dtype)
    return [{"pixel_values": a.view(1, 8, 8), "labels": int(b)} for a, b in zip(x[:384], y[:384], strict=True)]


class Recorder:
    """A collator that keeps what it gave: the order of the batches is the trainer's."""

    def __init__(self):
        self.batches = []

    def __call__(self, examples):
        self.batches.append(default_data_collator(examples))
        return self.batches[-1]


def build(folder, model, data, kind=SAMTrainer, micro=1, **more):
    """A trainer for a few steps of SGD, and the batches that it will have seen."""
    ours = {
        name: more.pop(name)
        for name in ("rho", "sam", "sync", "together", "callbacks", "compute_loss_func")
        if name in more
    }
    arguments = {
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1,
        "optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.1, "max_steps": STEPS,
        "per_device_train_batch_size": 16, "gradient_accumulation_steps": micro, "max_grad_norm": CLIP,
    }  # fmt: skip
    recorder = Recorder()
    trainer = kind(
        model,
        TrainingArguments(str(folder), **arguments | more),
        train_dataset=data,
        data_collator=recorder,
        **({} if "sam" in ours else {"rho": RHO}) | ours,
    )
    return trainer, recorder.batches


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def linear(base, steps=STEPS):
    """The trainer's default schedule."""
    return torch.optim.lr_scheduler.LambdaLR(base, lambda step: (steps - step) / steps)


def expect(trainer, expected, batches, micro, loss_fn, rtol=1e-10, atol=1e-12):
    """The weights, and the losses logged, that the textbook gets.

    ``loss_fn(model, batch, count)`` is a micro-batch's part, ``count`` the number of labels in its step.
    """
    base, seen = sgd(expected), []
    scheduler = linear(base)

    def part(batch, count):
        seen.append(loss_fn(expected, batch, count))
        return seen[-1]

    steps = []
    for i in range(0, STEPS * micro, micro):
        group = batches[i : i + micro]
        count = sum((batch["labels"] != -100).sum() for batch in group)
        steps.append([functools.partial(part, batch, count) for batch in group])
    textbook.train(expected, base, steps, trainer._radius["rho"], clip=CLIP, after=scheduler.step)
    for param, want in zip(trainer.model.parameters(), expected.parameters(), strict=True):
        param = param.full_tensor() if hasattr(param, "full_tensor") else param
        torch.testing.assert_close(param, want, rtol=rtol, atol=atol)
    at_w = [loss.item() for loss in seen[::2]]
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([sum(at_w[i : i + micro]) for i in range(0, len(at_w), micro)], rel=1e-5)
    assert inner(trainer.optimizer).steps == STEPS


def summed(model, batch, count, **options):
    return F.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"], reduction="sum", **options) / count


@pytest.mark.parametrize("micro", [1, 3])
def test_trains_as_the_textbook(micro, tmp_path):
    trainer, batches = build(tmp_path, vit().double(), images(torch.float64), micro=micro)
    trainer.train()
    expect(trainer, vit().double(), batches, micro, summed)


def merged(batches, micro):
    """Each step's micro-batches as one."""
    groups = [batches[i : i + micro] for i in range(0, len(batches), micro)]
    return [{key: torch.cat([batch[key] for batch in group]) for key in group[0]} for group in groups]


def test_all_micro_batches_climb_together(tmp_path):
    trainer, batches = build(tmp_path, vit().double(), images(torch.float64), micro=3, together=True)
    trainer.train()
    expect(trainer, vit().double(), merged(batches, 3), 1, summed)


def test_label_smoothing(tmp_path):
    data = images(torch.float64)
    trainer, batches = build(tmp_path, vit().double(), data, micro=2, label_smoothing_factor=0.2)
    trainer.train()
    loss_fn = functools.partial(summed, label_smoothing=0.2)
    expect(trainer, vit().double(), batches, 2, loss_fn, rtol=1e-6, atol=1e-8)  # part of theirs is in float32


def test_a_loss_function_of_the_users(tmp_path):
    def squared(outputs, labels, num_items_in_batch=None):
        return (outputs.logits - F.one_hot(labels, 10)).square().sum() / num_items_in_batch

    trainer, batches = build(tmp_path, vit().double(), images(torch.float64), micro=2, compute_loss_func=squared)
    trainer.train()
    expect(
        trainer, vit().double(), batches, 2,
        lambda model, batch, count: squared(model(batch["pixel_values"]), batch["labels"], count),
    )  # fmt: skip


def test_a_trainer_with_a_compute_loss_of_its_own(tmp_path):
    calls = []

    class Theirs(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            calls.append(inputs.pop("labels"))  # what is popped is there again for the next pass
            outputs = model(**inputs)
            loss = F.cross_entropy(outputs.logits, calls[-1])
            return (loss, outputs) if return_outputs else loss

    class Mine(SAMMixin, Theirs):
        loss_is_scaled_for_ga = False

    trainer, batches = build(tmp_path, vit().double(), images(torch.float64), kind=Mine, micro=2)
    trainer.loss_is_scaled_for_ga = False
    trainer.train()
    assert len(calls) == STEPS * 2 * 2
    expect(
        trainer, vit().double(), batches, 2,
        lambda model, batch, count: F.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"]) / 2,
    )  # fmt: skip


def llama():
    """A tiny language model; 7,280 parameters."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.2,
        )
    )  # fmt: skip


@pytest.mark.data
def test_micro_batches_with_unequal_numbers_of_tokens(data_root, tmp_path):
    text = load("tinyshakespeare", root=data_root).train.inputs.long()
    data = []
    for i in range(400):
        ids = text[i * 32 : i * 32 + 32]
        data.append({"input_ids": ids, "labels": ids.clone().index_fill_(0, torch.arange(i % 29), -100)})
    trainer, batches = build(tmp_path, llama().double(), data, micro=3)
    trainer._loss_shifts_labels = True
    trainer.train()
    for batch in batches:
        batch["labels"][:, 0] = -100  # nothing predicts it

    def loss_fn(model, batch, count):
        return model(**batch, num_items_in_batch=count).loss

    expect(trainer, llama().double(), batches, 3, loss_fn, rtol=1e-6, atol=1e-7)  # their loss is in float32


def by_hand(model, optimizer, batches, micro, dtype, scaler=None):
    """The recipe of torch's documentation, SAM in plain sight."""
    scheduler = linear(optimizer, len(batches) // micro)
    for i in range(0, len(batches), micro):
        for batch in batches[i : i + micro]:
            for evaluation in optimizer.passes(scaler=scaler):
                with evaluation:
                    with torch.autocast("cpu", dtype=dtype):
                        logits = model(batch["pixel_values"]).logits
                    loss = F.cross_entropy(logits.float(), batch["labels"], reduction="sum") / (16 * micro)
                    (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
        else:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() >= scale:
                scheduler.step()
        optimizer.zero_grad()
    return model


def loss_in_float32(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


def test_bfloat16_gives_the_bits_of_the_hand_written_loop(tmp_path):
    trainer, batches = build(tmp_path, vit(), images(), micro=2, bf16=True, compute_loss_func=loss_in_float32)
    trainer.train()
    expected = vit()
    by_hand(expected, SAM(sgd(expected), rho=RHO), batches[: STEPS * 2], 2, torch.bfloat16)
    assert equal(trainer.model, expected)


def with_scaler(trainer, **arguments):
    """As Accelerate sets itself up for float16 on a GPU; on the CPU it silently trains in float32."""
    trainer.accelerator.scaler, trainer.accelerator.native_amp = torch.amp.GradScaler("cpu", **arguments), True
    trainer.accelerator.state._mixed_precision = "fp16"
    return trainer


@pytest.mark.parametrize("init_scale", [2.0**10, 2.0**30])
def test_float16_gives_the_bits_of_the_hand_written_loop_and_skips_overflows(init_scale, tmp_path):
    trainer, batches = build(tmp_path, vit(), images(), micro=2, max_steps=25, compute_loss_func=loss_in_float32)
    with_scaler(trainer, init_scale=init_scale)
    trainer.train()
    expected, scaler = vit(), torch.amp.GradScaler("cpu", init_scale=init_scale)
    optimizer = SAM(sgd(expected), rho=RHO)
    by_hand(expected, optimizer, batches[:50], 2, torch.float16, scaler)
    skipped = 25 - optimizer.steps
    assert 0 < skipped < 20 if init_scale > 2.0**20 else skipped == 0
    assert equal(trainer.model, expected)
    assert not equal(trainer.model, vit())
    assert inner(trainer.optimizer).steps == optimizer.steps
    assert trainer.accelerator.scaler.get_scale() == scaler.get_scale()


FAMILY = {  # one, two, three and four passes, some a changing number of them, some in need of the loss scale
    "USAM": presets.USAM,
    "MultiStepSAM": presets.MultiStepSAM,
    "MomentumSAM": presets.MomentumSAM,
    "ASAM": presets.ASAM,
    "GSAM": presets.GSAM,
    "LookSAM": functools.partial(presets.LookSAM, k=3),
    "PeriodicSAM": functools.partial(presets.PeriodicSAM, k=3),
}


@pytest.mark.parametrize("name", FAMILY)
def test_the_family(name, tmp_path):
    trainer, batches = build(tmp_path, vit(), images(), micro=2, sam=FAMILY[name], compute_loss_func=loss_in_float32)
    with_scaler(trainer, init_scale=2.0**10)
    trainer.train()
    expected, scaler = vit(), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    by_hand(expected, FAMILY[name](sgd(expected), model=expected), batches[: STEPS * 2], 2, torch.float16, scaler)
    assert equal(trainer.model, expected)
    assert inner(trainer.optimizer).steps == STEPS


def bert(seed):
    """Reads the pixels one by one, with dropout."""
    # Not ViT: in transformers 5.23 its checkpoints don't load into a Trainer, with or without SAM.
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=17, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64, num_labels=10, initializer_range=0.2,
        )
    )  # fmt: skip


def pixels():
    return [{"input_ids": (d["pixel_values"].flatten() * 16).long(), "labels": d["labels"]} for d in images()]


@pytest.mark.parametrize("scaled", [False, True])
def test_resumes_to_the_same_bits(scaled, tmp_path):
    """With dropout, in the middle of an epoch, with the trainer's default optimizer, and rho on a schedule."""

    def start(seed):
        more = {"optim": "adamw_torch_fused", "optim_args": None, "max_steps": 20, "learning_rate": 0.01}
        saving = {"save_strategy": "steps", "save_steps": 8}
        trainer, _ = build(tmp_path, bert(seed), pixels(), micro=2, rho=lambda step: 0.1 * 0.9**step, **more, **saving)
        return with_scaler(trainer, init_scale=2.0**20 if seed == 0 else 1.0) if scaled else trainer

    straight = start(seed=0)
    straight.train()
    AcceleratorState._reset_state(reset_partial_state=True)
    resumed = start(seed=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert equal(straight.model, resumed.model)
    assert not equal(straight.model, bert(0))
    assert inner(straight.optimizer).param_groups[0]["rho"] < 0.1
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (straight, resumed)]
    assert losses[0] == losses[1]
    saved = torch.load(tmp_path / "checkpoint-8" / "optimizer.pt", weights_only=True)
    assert {"rho", "sam_steps"} <= saved["param_groups"][0].keys()
    assert json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())["global_step"] == 8


def test_training_again_goes_on_with_the_same_sam(tmp_path):
    trainer, _ = build(tmp_path, vit(), images())
    trainer.train()
    sam = inner(trainer.optimizer)
    trainer.train()
    assert inner(trainer.optimizer) is sam
    assert sam.steps == 2 * STEPS


def test_a_sam_of_the_users(tmp_path):
    model = vit()
    sam = SAM(sgd(model), rho=lambda step: 0.1 * (step % 2))
    passes = []

    class Counting(SAMMixin, Trainer):
        def compute_loss(self, *args, **kwargs):
            passes.append(self.state.global_step)
            return super().compute_loss(*args, **kwargs)

    trainer = Counting(
        model,
        TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], max_steps=4, save_strategy="no"),
        train_dataset=images(),
        optimizers=(sam, None),
    )
    trainer.train()
    assert inner(trainer.optimizer) is sam
    assert passes == [0, 1, 1, 2, 3, 3]  # one pass where rho is 0


def test_more_arguments_for_sam(tmp_path):
    trainer, _ = build(tmp_path, vit(), images(), sam=functools.partial(SAM, same_masks=True, keep_on="cpu"))
    trainer.train()
    assert inner(trainer.optimizer).same_masks


def test_the_monitor_looks_after_each_update(tmp_path):
    class Fake:
        def __init__(self, optimizer, model):
            self.optimizer, self.model, self.records = optimizer, model, []

        def step(self):
            self.records.append({"step": self.optimizer.steps})

    callback = MonitorCallback(Fake)
    trainer, _ = build(tmp_path, vit(), images(), micro=2, callbacks=[callback])
    trainer.train()
    assert callback.monitor.model is trainer.model
    assert [record["step"] for record in callback.monitor.records] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("plain", [False, True])
def test_the_monitors_records_are_in_the_trainers_log(tmp_path, plain):
    logged = []

    class Told(TrainerCallback):  # as those of W&B and TensorBoard are
        def on_log(self, args, state, control, logs=None, **_):
            logged.append(dict(logs))

    batch = default_data_collator(images()[:16])

    def make(optimizer, model):
        return Monitor(optimizer, model, None, [batch], every=3, max_overhead=None, tol=0.1)

    if plain:
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=16, report_to=[], use_cpu=True
        )
        trainer = Trainer(vit(), arguments, train_dataset=images(), callbacks=[Told()])
        callback = MonitorCallback(make, trainer.log)
        trainer.add_callback(callback)
    else:
        callback = MonitorCallback(make)
        trainer, _ = build(tmp_path, vit(), images(), callbacks=[callback, Told()])
    trainer.train()
    norms = [record["hessian_norm"] for record in callback.monitor.records]
    assert len(norms) == 3  # at steps 1, 3 and 6
    for lines in (logged, trainer.state.log_history):
        assert [line["lowland/hessian_norm"] for line in lines if "lowland/hessian_norm" in line] == norms
    assert not any(value is None for line in logged for value in line.values())
    with pytest.raises(TypeError, match=r"trainer\.log"):
        MonitorCallback(make, "wandb")


def test_the_monitor_goes_on_where_training_was_resumed(tmp_path):
    def loss_fn(output, y):
        return F.cross_entropy(output.logits, y)

    def start(folder):
        batch = default_data_collator(pixels()[:32])

        def make(optimizer, model):
            sample = [(batch["input_ids"], batch["labels"])]
            return Monitor(optimizer, model, loss_fn, sample, every=2, max_overhead=None)

        callback = MonitorCallback(make)
        more = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4}
        return build(folder, bert(0), pixels(), callbacks=[callback], **more)[0], callback

    (straight, watching), (resumed, again) = start(tmp_path), start(tmp_path)
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert (
        [r["step"] for r in again.monitor.records] == [r["step"] for r in watching.monitor.records] == [1, 2, 4, 6, 8]
    )


def checkpointed(tmp_path, state):
    """A callback that has saved the state of its monitor, what it was called with, and the file."""
    monitor = SimpleNamespace(state_dict=lambda: state, load_state_dict=lambda state: state["steps"], step=list)
    callback = MonitorCallback(lambda optimizer, model: monitor)
    callback.monitor = monitor
    called = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(is_world_process_zero=True, global_step=4)
    folder = tmp_path / "checkpoint-4"
    folder.mkdir(exist_ok=True)
    callback.on_save(*called)
    callback.monitor = None
    callback.on_train_begin(*called)
    return callback, called, folder / "sharpness_monitor.pt"


def test_a_monitors_state_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    callback, called, file = checkpointed(tmp_path, {"steps": 4})
    before = file.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    callback.monitor = SimpleNamespace(state_dict=lambda: {"steps": 8})
    with monkeypatch.context() as dying:
        dying.setattr("os.fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            callback.on_save(*called)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before
    callback.on_save(*called)
    assert torch.load(file, weights_only=True) == {"steps": 8}


@pytest.mark.parametrize("damage", [
    lambda data: data[:-1], lambda data: data[:100], lambda data: b"", lambda data: b"\0" * len(data),
    lambda data: data.replace(b"steps", b"stops"),
])  # fmt: skip
def test_a_damaged_state_of_a_monitor_is_named(tmp_path, damage):
    callback, (arguments, _), file = checkpointed(tmp_path, {"steps": 4})
    objects = {"optimizer": sgd(vit()), "model": None}
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RunError, match="is damaged: remove that file") as caught:
        callback.on_step_end(arguments, **objects)
    assert str(file) in str(caught.value)
    file.unlink()
    callback.monitor = None
    callback.on_step_end(arguments, **objects)
    assert callback.monitor is not None


def test_refuses_a_radius_beside_a_finished_sam(tmp_path):
    model = vit()
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], max_steps=1, save_strategy="no")
    given = {"train_dataset": images(), "optimizers": (SAM(sgd(model)), None)}
    with pytest.raises(ValueError, match="leave rho= out"):
        SAMTrainer(model, arguments, rho=0.1, **given).train()
    with pytest.raises(TypeError, match="sam= makes the optimizer"):
        SAMTrainer(model, arguments, sam=given["optimizers"][0], **given)


def test_refuses_the_wrong_order():
    with pytest.raises(TypeError, match=r"class Mine\(SAMMixin, Trainer\)"):

        class Mine(Trainer, SAMMixin):
            pass


def test_refuses_to_train_without_passes(tmp_path):
    class Mine(SAMTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = self.compute_loss(model, inputs)
            loss.backward()
            return loss.detach()

    trainer, _ = build(tmp_path, vit(), images(), kind=Mine)
    with pytest.raises(RuntimeError, match="no SAM passes"):
        trainer.train()


def test_refuses_what_would_not_be_sam(tmp_path, monkeypatch):
    trainer, _ = build(tmp_path, vit(), images(), sam=lambda base, **kwargs: SAM(base, m=4, **kwargs))
    with pytest.raises(NotImplementedError, match="m="):
        trainer.train()
    trainer, _ = build(tmp_path, vit(), images(), sam=presets.ESAM)
    with pytest.raises(RuntimeError, match="m= and ESAM"):
        trainer.train()
    trainer, _ = build(tmp_path, vit(), images())
    trainer.args.optim = "galore_adamw_layerwise"
    with pytest.raises(NotImplementedError, match="during the ascent"):
        trainer.train()
    trainer, _ = build(tmp_path, vit(), images())
    for kind in ("DEEPSPEED", "FSDP"):
        monkeypatch.setattr(type(trainer.accelerator), "distributed_type", DistributedType[kind])
        with pytest.raises(NotImplementedError, match="no SAM here"):
            trainer.create_optimizer()


CASES = (
    "ddp", "ddp_accumulation", "ddp_unequal_tokens", "ddp_local_ascents", "ddp_all_together", "ddp_resumes",
    "fsdp2_accumulation", "fsdp2_all_together",
)  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return outcomes_of("tests.adapters.huggingface_cases", 2, tmp_path_factory.mktemp("huggingface"), joined=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_as_one(outcomes, case):
    check(outcomes, case)
