"""The real Lightning, on real digits, against the same training written as a plain loop: the same bits."""

import warnings
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lowland import SAM, curvature
from lowland.data import load
from lowland.optim.presets import ESAM, PRESETS
from tests.processes import end, python

pytest.importorskip("lightning", reason="Lightning is not installed: pip install '.[lightning]'")

import torchmetrics
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision

from lowland.adapters.lightning import MonitorCallback, SharpnessAware, passes, registered

SIZE = 64
BATCHES = 6  # an epoch
RHO = 0.1

pytestmark = [
    pytest.mark.filterwarnings("error:step\\(\\) without passes:UserWarning"),
    pytest.mark.filterwarnings("error:Detected call of:UserWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


def digits(dtype=torch.float64):
    train = load("digits").train
    return (train.inputs.flatten(1) / 16).to(dtype)[: SIZE * BATCHES], train.targets[: SIZE * BATCHES]


def loader(dtype=torch.float64, size=SIZE):
    return DataLoader(TensorDataset(*digits(dtype)), batch_size=size)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.Dropout(0.1), nn.Linear(32, 10)
    ).to(dtype)


def base(net, fused=None):
    return torch.optim.AdamW(net.parameters(), lr=0.01, fused=fused)


def schedule(step):
    return RHO * 0.9**step


class Net(LightningModule):
    """What a user writes."""

    def __init__(self, net, rho=schedule, scheduled=True, **options):
        super().__init__()
        self.net, self.rho, self.scheduled, self.options = net, rho, scheduled, options
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)
        self.losses = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self.net(x)
        loss = F.cross_entropy(scores, y)
        self.accuracy(scores, y)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

    def configure_optimizers(self):
        optimizer = SAM(base(self.net), self.rho, model=self.net, **self.options)
        if not self.scheduled:
            return optimizer
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(module, train_loader=None, ckpt_path=None, epochs=2, callbacks=None, **options):
    options.setdefault("logger", False)
    options.setdefault("enable_checkpointing", False)
    options.setdefault("enable_progress_bar", False)
    callbacks = [SharpnessAware()] if callbacks is None else callbacks
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, callbacks=callbacks, enable_model_summary=False, **options)
    torch.manual_seed(1)  # dropout
    trainer.fit(module, loader() if train_loader is None else train_loader, ckpt_path=ckpt_path)
    return trainer


def by_hand(
    net, *, epochs=2, accumulate=1, clip=None, by_value=False, autocast=None, scaler=None, dtype=torch.float64,
    rho=schedule, fused=None, **options,
):  # fmt: skip
    """The same without Lightning; the losses at w of each batch."""
    optimizer = SAM(base(net, fused), rho, model=net, **options)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.8)
    scale = (lambda loss: loss) if scaler is None else scaler.scale
    losses = []
    torch.manual_seed(1)
    for _ in range(epochs):
        for index, (x, y) in enumerate(loader(dtype)):
            at_w = []
            for evaluation in optimizer.passes(scaler=scaler):
                with evaluation:
                    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
                        loss = F.cross_entropy(net(x), y) / accumulate
                    scale(loss).backward()
                    at_w.append(loss.item())
            losses.append(at_w[0])
            if (index + 1) % accumulate and index + 1 < BATCHES:
                continue
            if scaler is not None and not fused:
                scaler.unscale_(optimizer)
            if clip is not None:
                bound = torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_
                bound(net.parameters(), clip)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a schedule ahead of a step that a scaler skipped
                scheduler.step()
    return optimizer, losses


def same(one, other):
    """Bit for bit, batch-norm statistics included."""
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_same_bits_as_a_loop_by_hand():
    module, net = Net(network()), network()
    trainer = fit(module)
    optimizer, losses = by_hand(net)
    same(module.net, net)
    assert module.losses == losses
    assert trainer.global_step == 2 * BATCHES == trainer.optimizers[0].steps == optimizer.steps
    assert net[1].num_batches_tracked == 2 * BATCHES
    assert trainer.optimizers[0].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    plain = network()
    by_hand(plain, rho=0.0)
    with pytest.raises(AssertionError):
        same(net, plain)


def test_without_model_sam_gets_the_module():
    class Forgetful(Net):
        def configure_optimizers(self):
            return SAM(torch.optim.SGD(self.parameters(), lr=0.1), rho=RHO)

    module = Forgetful(network())
    fit(module)
    assert module.net[1].num_batches_tracked == 2 * BATCHES


def test_same_masks_and_steps_of_a_single_pass():
    module, net = Net(network(), same_masks=True), network()
    fit(module)
    by_hand(net, same_masks=True)
    same(module.net, net)

    def every_third(step):
        return RHO * (step % 3 == 0)

    module, net = Net(network(), rho=every_third), network()
    fit(module)
    by_hand(net, rho=every_third)
    same(module.net, net)


PASSES = {"PreviousSAM": [1, 1, 1], "MultiStepSAM": [3, 3, 3], "LookSAM": [2, 1, 1], "GSAM": [2, 2, 2]}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", PASSES)
def test_as_many_passes_as_the_rule_asks_for(name, accumulate):
    seen = []

    def optimizer_of(net):
        return PRESETS[name].build(torch.optim.SGD(net.parameters(), lr=0.1), model=net)

    class Family(Net):
        def training_step(self, batch, batch_idx):
            seen.append(batch_idx)
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self):
            return optimizer_of(self.net)

    module, net = Family(network()), network()
    trainer = fit(module, accumulate_grad_batches=accumulate, limit_train_batches=3 * accumulate, epochs=1)
    assert [seen.count(step * accumulate) for step in range(3)] == PASSES[name]
    assert trainer.global_step == 3

    optimizer = optimizer_of(net)
    torch.manual_seed(1)
    batches = iter(loader())
    for _ in range(3):
        for _ in range(accumulate):
            x, y = next(batches)
            for evaluation in optimizer.passes():
                with evaluation:
                    (F.cross_entropy(net(x), y) / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
    same(module.net, net)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_each_accumulated_batch_climbs(accumulate):
    module, net = Net(network()), network()
    trainer = fit(module, accumulate_grad_batches=accumulate)
    optimizer, losses = by_hand(net, accumulate=accumulate)
    same(module.net, net)
    assert module.losses == losses
    assert trainer.global_step == optimizer.steps == trainer.optimizers[0].steps == 2 * -(-BATCHES // accumulate)


@pytest.mark.parametrize("by_value", [False, True])
def test_clipping_sees_the_gradient_of_the_step_alone(by_value):
    clip = 0.01 if by_value else 0.5
    module, net = Net(network()), network()
    fit(module, gradient_clip_val=clip, gradient_clip_algorithm="value" if by_value else "norm")
    by_hand(net, clip=clip, by_value=by_value)
    same(module.net, net)


def test_bfloat16():
    module, net = Net(network(torch.float32)), network(torch.float32)
    fit(module, loader(torch.float32), precision="bf16-mixed", accumulate_grad_batches=2, gradient_clip_val=0.5)
    by_hand(net, autocast=torch.bfloat16, dtype=torch.float32, accumulate=2, clip=0.5)
    same(module.net, net)


@pytest.mark.parametrize("fused", [None, True])
def test_float16_with_a_scaler_that_overflows(fused):
    scaler, theirs = (torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=3) for _ in range(2))
    module, net = Net(network(torch.float32)), network(torch.float32)
    module.configure_optimizers = lambda: {
        "optimizer": (optimizer := SAM(base(module.net, fused), schedule, model=module.net)),
        "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.8), "interval": "step"},
    }
    clip = None if fused else 0.5  # Lightning refuses to clip what a fused optimizer unscales
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the schedule runs ahead where the scaler skips
        trainer = fit(
            module, loader(torch.float32), epochs=3, accumulate_grad_batches=2, gradient_clip_val=clip,
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        )  # fmt: skip
    optimizer, _ = by_hand(
        net, epochs=3, autocast=torch.float16, scaler=theirs, dtype=torch.float32, accumulate=2, clip=clip, fused=fused
    )
    same(module.net, net)
    assert scaler.get_scale() == theirs.get_scale() < 2.0**22
    assert trainer.global_step == 9
    assert trainer.optimizers[0].steps == optimizer.steps
    if not fused:
        assert 0 < optimizer.steps < 9


@pytest.mark.parametrize("overflows", [1, 2])
def test_an_overflow_of_one_pass_skips_the_step(overflows):
    """Nothing moves but the scale."""

    class Overflowing(Net):
        passes = 0

        def training_step(self, batch, batch_idx):
            self.passes += 1
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if self.passes == overflows else loss

    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    module = Overflowing(network(torch.float32))
    before = [p.clone() for p in module.net.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the schedule runs ahead
        trainer = fit(
            module, loader(torch.float32), epochs=1, limit_train_batches=1,
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        )  # fmt: skip
    assert module.passes == 2
    assert scaler.get_scale() == 128.0
    assert trainer.optimizers[0].steps == 0
    assert all(torch.equal(a, b) for a, b in zip(before, module.net.parameters(), strict=True))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_training_ends_in_the_same_bits(tmp_path, accumulate):
    def start():
        net = network()
        net[4] = nn.Identity()  # Lightning doesn't save the random generators, which dropout draws from
        return Net(net)

    options = {"enable_checkpointing": True, "default_root_dir": tmp_path, "accumulate_grad_batches": accumulate}
    straight, first, resumed = start(), start(), start()
    fit(straight, epochs=3, accumulate_grad_batches=accumulate)
    saved = ModelCheckpoint(tmp_path, save_last=True)
    fit(first, epochs=1, callbacks=[SharpnessAware(), saved], **options)
    for param in resumed.parameters():
        nn.init.zeros_(param)
    trainer = fit(resumed, epochs=3, ckpt_path=saved.last_model_path, **options)
    same(straight.net, resumed.net)
    assert trainer.global_step == trainer.optimizers[0].steps == 3 * BATCHES // accumulate


def test_logs_and_metrics_are_those_at_w(tmp_path):
    module = Net(network())
    trainer = fit(module, epochs=1, logger=CSVLogger(tmp_path, version=0), log_every_n_steps=1)
    logged = trainer.logged_metrics
    assert logged["loss_epoch"].item() == pytest.approx(sum(module.losses) / BATCHES)
    assert logged["loss_step"].item() == pytest.approx(module.losses[-1])
    assert module.accuracy.update_count in (0, BATCHES)

    # The same accuracy as that of a loop which counts at w alone.
    net, right = network(), []
    optimizer = SAM(base(net), schedule, model=net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.8)
    torch.manual_seed(1)
    for x, y in loader():
        for index, evaluation in enumerate(optimizer.passes()):
            with evaluation:
                scores = net(x)
                F.cross_entropy(scores, y).backward()
            if index == 0:
                right.append((scores.argmax(1) == y).float().mean().item())
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    assert logged["accuracy"].item() == pytest.approx(sum(right) / BATCHES)
    lines = Path(tmp_path, "lightning_logs", "version_0", "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + BATCHES + 1  # a header, the steps, the epoch


def test_hooks_of_the_step_run_once():
    class Counter(Callback):
        calls: list = []  # noqa: RUF012

        def on_before_zero_grad(self, *_):
            self.calls.append("zero")

        def on_before_optimizer_step(self, trainer, module, optimizer):
            assert all(p.grad is not None for p in module.parameters())
            self.calls.append("step")

        def on_train_batch_end(self, *_):
            self.calls.append("end")

    fit(Net(network()), epochs=1, callbacks=[Counter(), SharpnessAware()])
    assert Counter.calls == ["zero", "step", "end"] * BATCHES


def test_a_step_without_a_loss_is_left_out():
    class Picky(Net):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 2 else super().training_step(batch, batch_idx)

    module = Picky(network())
    module.on_train_batch_end = lambda *_: None
    trainer = fit(module, epochs=1)
    assert trainer.optimizers[0].steps == BATCHES - 1


def test_an_exception_leaves_weights_and_hooks_as_they_were():
    class Interrupted(Net):
        calls = 0

        def training_step(self, batch, batch_idx):
            self.calls += 1
            if self.calls == 4:
                self.here = [p.clone() for p in self.net.parameters()]
                raise MemoryError
            self.w = [p.clone() for p in self.net.parameters()] if self.calls == 3 else None
            return super().training_step(batch, batch_idx)

    module = Interrupted(network())
    kept = []
    original = module.configure_optimizers
    module.configure_optimizers = lambda: kept.append(original()) or kept[0]
    with pytest.raises(MemoryError):
        fit(module)
    optimizer = kept[0]["optimizer"]
    assert not optimizer._optimizer_step_pre_hooks
    assert "log" not in module.__dict__
    assert any(not torch.equal(a, b) for a, b in zip(module.here, module.net.parameters(), strict=True))
    x, y = digits()
    optimizer.step(lambda: (loss := F.cross_entropy(module.net(x), y)).backward() or loss)  # still an ordinary SAM
    assert optimizer.steps == 2


def test_closures_by_hand_in_manual_optimization():
    """Two optimizers, each with its own passes: what the documentation says to write."""

    class Manual(Net):
        def __init__(self, net):
            super().__init__(net)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            x, y = batch
            for optimizer in self.optimizers():

                def closure():
                    loss = F.cross_entropy(self.net(x), y)
                    self.manual_backward(loss)
                    return loss

                self.zero_grad()
                optimizer.step(closure=closure)

        def on_train_batch_end(self, *_):
            pass

        def configure_optimizers(self):
            return halves(self.net)

    def halves(net):
        return [SAM(torch.optim.SGD(part.parameters(), lr=0.1), rho=RHO, model=part) for part in (net[:3], net[3:])]

    module, net = Manual(network()), network()
    trainer = fit(module, callbacks=registered())
    torch.manual_seed(1)
    optimizers = halves(net)
    for _ in range(2):
        for x, y in loader():
            for optimizer in optimizers:
                net.zero_grad()
                for evaluation in optimizer.passes():
                    with evaluation:
                        F.cross_entropy(net(x), y).backward()
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(module.net.parameters(), net.parameters(), strict=True))
    assert trainer.global_step == 4 * BATCHES
    with pytest.raises(ValueError, match=r"passes\(self, self\.optimizers\(\)\).*closure="):
        fit(Manual(network()))


class Manual(Net):
    """What the documentation says to write, in any precision."""

    def __init__(self, net, way="the adapter", build=None):
        super().__init__(net)
        self.automatic_optimization, self.way, self.build, self.hooks = False, way, build, []

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        if self.way == "the adapter":
            evaluations = passes(self, optimizer)
        else:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            evaluations = (optimizer if self.way == "the wrapper" else optimizer.optimizer).passes(scaler=scaler)
        for evaluation in evaluations:
            with evaluation:
                self.manual_backward(F.cross_entropy(self.net(x), y))
        optimizer.step()
        optimizer.zero_grad()
        self.lr_schedulers().step()

    def on_before_optimizer_step(self, optimizer):
        self.hooks.append(all(p.grad is not None for p in self.net.parameters()))

    def on_train_batch_end(self, *_):
        pass

    def configure_optimizers(self):
        if self.build is None:
            return super().configure_optimizers()
        optimizer = self.build(base(self.net), model=self.net)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.8)]


@pytest.mark.parametrize("way", ["the adapter", "the wrapper", "the optimizer"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_passes_by_hand_in_manual_optimization(precision, way):
    module, net = Manual(network(torch.float32), way), network(torch.float32)
    scalers = [torch.amp.GradScaler("cpu", init_scale=256.0) for _ in range(2)] if precision == "16-mixed" else [None]
    options = {"precision": precision}
    if precision == "16-mixed":
        options = {"plugins": [MixedPrecision("16-mixed", "cpu", scalers[0])]}
    callbacks = registered() if way == "the adapter" else []
    trainer = fit(module, loader(torch.float32), callbacks=callbacks, epochs=1, **options)
    autocast = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[precision]
    optimizer, _ = by_hand(net, epochs=1, autocast=autocast, scaler=scalers[-1], dtype=torch.float32)
    same(module.net, net)
    assert trainer.global_step == trainer.optimizers[0].steps == optimizer.steps == BATCHES
    assert module.hooks == [True] * BATCHES


@pytest.mark.parametrize("name", ["LookSAM", "PreviousSAM", "WSAM", "MultiStepSAM"])
def test_the_family_in_manual_optimization(name):
    module, net = Manual(network(), build=PRESETS[name].build), network()
    trainer = fit(module, callbacks=[])
    optimizer = PRESETS[name].build(base(net), model=net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.8)
    torch.manual_seed(1)
    for _ in range(2):
        for x, y in loader():
            for evaluation in optimizer.passes():
                with evaluation:
                    F.cross_entropy(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    same(module.net, net)
    assert trainer.global_step == 2 * BATCHES


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_fabric(precision):
    from lightning.fabric import Fabric
    from lightning.fabric.plugins import MixedPrecision as Mixed

    module, net = network(torch.float32), network(torch.float32)
    plugins, scalers = [], [None, None]
    if precision == "16-mixed":
        scalers = [torch.amp.GradScaler("cpu", init_scale=256.0) for _ in range(2)]
        plugins = [Mixed("16-mixed", "cpu", scalers[0])]
    fabric = Fabric(accelerator="cpu", precision=None if plugins else precision, plugins=plugins)
    wrapped, optimizer = fabric.setup(module, SAM(base(module), schedule, model=module))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.8)
    torch.manual_seed(1)
    for _ in range(2):
        for x, y in loader(torch.float32):
            for evaluation in optimizer.passes(scaler=scalers[0]):
                with evaluation:
                    fabric.backward(F.cross_entropy(wrapped(x), y))
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    theirs = SAM(base(net), schedule, model=net)
    scheduler = torch.optim.lr_scheduler.StepLR(theirs, step_size=2, gamma=0.8)
    autocast = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    torch.manual_seed(1)
    for _ in range(2):
        for x, y in loader(torch.float32):
            for evaluation in theirs.passes(scaler=scalers[1]):
                with evaluation:
                    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
                        scores = net(x)
                    loss = F.cross_entropy(scores.float(), y)
                    (loss if scalers[1] is None else scalers[1].scale(loss)).backward()
            if scalers[1] is None:
                theirs.step()
            else:
                scalers[1].step(theirs)
                scalers[1].update()
            theirs.zero_grad()
            scheduler.step()
    same(module, net)
    assert optimizer.steps == theirs.steps == 2 * BATCHES
    assert optimizer.param_groups[0]["rho"] == theirs.param_groups[0]["rho"] == schedule(2 * BATCHES - 1)


def test_passes_by_hand_refuse_what_is_no_sam():
    class Wrong(Manual):
        def configure_optimizers(self):
            optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[:3], self.net[3:])]
            return optimizers if self.way == "list" else torch.optim.SGD(self.net.parameters(), lr=0.1)

        def training_step(self, batch, batch_idx):
            passes(self, self.optimizers())

    for way, says in (("list", "one of those in the list, not list"), ("one", "not LightningSGD")):
        with pytest.raises(TypeError, match=says):
            fit(Wrong(network(), way), callbacks=[])


class NoSam(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class PerExample(Net):
    def configure_optimizers(self):
        return SAM(torch.optim.SGD(self.parameters(), lr=0.1), rho=RHO, model=self.eval(), m=8)


class Chosen(Net):
    def configure_optimizers(self):
        return ESAM(torch.optim.SGD(self.parameters(), lr=0.1), model=self)


class Iterating(Net):
    def training_step(self, dataloader_iter):
        return super().training_step(*next(dataloader_iter)[:2])


@pytest.mark.parametrize(
    ("module", "error", "says"),
    [
        (NoSam, TypeError, "not SGD"),
        (PerExample, ValueError, "loss of each example"),
        (Chosen, ValueError, "ESAM can't be"),
        (Iterating, ValueError, "another batch"),
    ],
)
def test_what_cannot_work_is_an_error_in_one_line(module, error, says):
    with pytest.raises(error, match=says) as caught:
        fit(module(network()))
    assert "\n" not in str(caught.value)


def test_a_strategy_that_steps_by_itself_is_refused():
    from lightning.pytorch.strategies import SingleDeviceStrategy

    class Stepping(SingleDeviceStrategy):
        handles_gradient_accumulation = True

    with pytest.raises(ValueError, match="Stepping makes the steps itself"):
        fit(Net(network()), strategy=Stepping("cpu"))


def test_a_lightning_that_works_otherwise_is_an_error_for_sam_alone(monkeypatch):
    monkeypatch.setattr("lowland.adapters.lightning._loop", lambda trainer: None)
    fit(NoSam(network()), callbacks=registered(), epochs=1)
    with pytest.raises(RuntimeError, match=r"version of Lightning \(2"):
        fit(Net(network()))


def test_other_optimizers_train_as_ever_beside_a_registered_callback():
    modules = NoSam(network()), NoSam(network())
    for module, callbacks in zip(modules, ([], registered()), strict=True):
        fit(module, callbacks=callbacks)
    same(modules[0].net, modules[1].net)


def test_lightning_adds_it_by_itself():
    if not any(
        point.value.startswith("lowland.") for point in entry_points(group="lightning.pytorch.callbacks_factory")
    ):
        pytest.skip("this Lowland was installed without its entry points: pip install it again")
    module, net = Net(network()), network()
    fit(module, callbacks=[], accumulate_grad_batches=2)
    by_hand(net, accumulate=2)
    same(module.net, net)
    fit(module, callbacks=[SharpnessAware()], epochs=1)  # and given twice it does no harm


def test_the_older_name_of_the_package():
    older = pytest.importorskip("pytorch_lightning", "2.6", "pytorch_lightning 2.6 is not installed")

    class Older(older.LightningModule):
        training_step, configure_optimizers = Net.training_step, Net.configure_optimizers
        on_train_batch_end = Net.on_train_batch_end

        def __init__(self, net):
            super().__init__()
            self.net, self.rho, self.scheduled, self.options, self.losses = net, schedule, True, {}, []
            self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)

    module, net = Older(network()), network()
    trainer = older.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=2, callbacks=[SharpnessAware()],
    )  # fmt: skip
    torch.manual_seed(1)
    trainer.fit(module, loader())
    by_hand(net, accumulate=2)
    same(module.net, net)


class Monitor:
    """In the place of `lowland.curvature.Monitor`: every second step."""

    def __init__(self):
        self.records, self.steps = [], 0

    def step(self):
        self.steps += 1
        if self.steps % 2 == 0:
            self.records.append({"step": self.steps, "hessian_norm": float(self.steps), "edge": 2.5, "note": "text"})


def test_an_epoch_that_only_updates_statistics_is_left_alone():
    """Averaging of the weights ends with one: batches without a backward pass.

    Lightning 2.6 ends it with a step along the gradients left over, whatever the optimizer; SAM warns of that.
    """
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    forwards = []

    class Counted(Net):
        def training_step(self, batch, batch_idx):
            forwards.append(self.current_epoch)
            return super().training_step(batch, batch_idx)

    averaging = StochasticWeightAveraging(0.05, swa_epoch_start=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = fit(Counted(network(), scheduled=False), callbacks=[SharpnessAware(), averaging], epochs=3)
    assert [forwards.count(epoch) for epoch in range(4)] == [2 * BATCHES] * 3 + [BATCHES]
    assert trainer.optimizers[0].steps == 3 * BATCHES


def test_the_monitor_looks_after_each_step_and_is_logged(tmp_path):
    bars = []

    class Bar(Callback):
        def on_train_batch_end(self, trainer, *_):
            bars.append(trainer.progress_bar_metrics.get("sharpness/hessian_norm"))

    built = []

    def build(optimizer, module):
        built.append((optimizer, module))
        return Monitor()

    watch = MonitorCallback(build)
    module = Net(network())
    trainer = fit(
        module, accumulate_grad_batches=2, callbacks=[SharpnessAware(), watch, Bar()],
        logger=CSVLogger(tmp_path, version=0), log_every_n_steps=1000,
    )  # fmt: skip
    assert built == [(trainer.optimizers[0], module)]
    assert watch.monitor.steps == trainer.global_step == BATCHES
    rows = Path(tmp_path, "lightning_logs", "version_0", "metrics.csv").read_text(encoding="utf-8").splitlines()
    header, *rows = [row.split(",") for row in rows]
    logged = [dict(zip(header, row, strict=True)) for row in rows]
    values = [(row["step"], row["sharpness/hessian_norm"]) for row in logged if row["sharpness/hessian_norm"]]
    assert [(int(step), float(value)) for step, value in values] == [(2, 2.0), (4, 4.0), (6, 6.0)]
    assert "sharpness/note" not in header
    assert bars[:3] == [None] * 3
    assert bars[5:] == [2.0, 2.0, 4.0, 4.0, 4.0, 4.0, 6.0][: len(bars[5:])]


def test_the_monitor_goes_on_where_training_was_resumed(tmp_path):
    x, y = digits()

    def watch():
        def build(optimizer, module):
            return curvature.Monitor(optimizer, module.net, F.cross_entropy, [(x, y)], every=2, max_overhead=None)

        return MonitorCallback(build)

    options = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    straight, first, resumed = watch(), watch(), watch()
    fit(Net(network()), epochs=2, callbacks=[SharpnessAware(), straight])
    saved = ModelCheckpoint(tmp_path, save_last=True)
    fit(Net(network()), epochs=1, callbacks=[SharpnessAware(), first, saved], **options)
    fit(Net(network()), epochs=2, callbacks=[SharpnessAware(), resumed], ckpt_path=saved.last_model_path, **options)
    steps = [[record["step"] for record in watching.monitor.records] for watching in (straight, resumed)]
    assert steps[0] == steps[1]
    assert len(steps[0]) > len(first.monitor.records)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_compute_what_one_does(tmp_path, accumulate):
    """One process on the joint batches, against DDP with half of each."""
    script = Path(__file__).with_name("lightning_ddp.py")
    ended = end(python(script, tmp_path / "weights.pt", accumulate, environment={"CUDA_VISIBLE_DEVICES": ""}))
    assert ended.code == 0, ended.err
    theirs = torch.load(tmp_path / "weights.pt", weights_only=True)

    from .lightning_ddp import network as plain_network

    net = plain_network()
    optimizer, _ = by_hand(net, accumulate=accumulate, clip=0.5)
    for (name, a), b in zip(net.state_dict().items(), theirs["weights"].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13, msg=name)
    assert theirs["steps"] == optimizer.steps
