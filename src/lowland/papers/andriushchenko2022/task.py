"""The paper's training on images: data, networks, optimizer, schedule."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lowland.data import Shuffled, Split, random_crop_flip, scale, seeded, split_validation
from lowland.models import preact_resnet, resnet
from lowland.optim import SAM
from lowland.optim.ascent import Random
from lowland.papers.andriushchenko2022.ascents import AscentOverTraining, GroupAfterGroup
from lowland.papers.andriushchenko2022.check import ImageCheck, ImageSets
from lowland.papers.andriushchenko2022.settings import HELD_OUT, ImageSettings
from lowland.papers.images import load_once, switched
from lowland.training import Task
from lowland.training.task import Optimizer

Rho = float | Callable[[int], float]
SHOW = {"loss": "train_loss", "error": "test_error"}


class ImageBatches:
    """Minibatches in random order, cropped and mirrored at random: a function of the step alone.

    Args:
        split: the images, uint8 ``(n, 3, height, width)``, and their classes.
        settings: which say how.
        channels_last: the layout of the batches.
    """

    def __init__(self, split: Split, settings: ImageSettings, channels_last: bool):
        assert split.targets is not None
        self.shuffled = Shuffled(split.inputs, split.targets, settings.batch_size, settings.seed, drop_last=True)
        self.settings, self.layout = settings, torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Float32 ``(batch, 3, height, width)`` in [0, 1], and int64 ``(batch,)``."""
        images, targets = self.shuffled(step)
        # The orders of the epochs are drawn with the seed itself; these draws must not repeat them.
        return self.prepared(images, seeded(self.settings.seed + 2**31, step)), targets

    def prepared(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images as the network sees them in training; ``generator`` draws crops and mirrors, if there are any."""
        if self.settings.augment:
            images = random_crop_flip(images, generator=generator)
        return scale(images, 255).contiguous(memory_format=self.layout)


def network(dataset: str, settings: ImageSettings) -> nn.Module:
    """For CIFAR-10 a pre-activation ResNet-18; for CIFAR-100 a ResNet-34, with group norm a pre-activation one.

    That is as in the authors' code.
    """
    if dataset == "cifar-10":
        return preact_resnet((2, 2, 2, 2), settings.width, 10, settings.norm)
    blocks, classes = (3, 4, 6, 3), 100
    if settings.norm == "batch":
        return resnet(blocks, settings.width, classes)
    return preact_resnet(blocks, settings.width, classes, settings.norm)


def image_task(
    dataset: str,
    settings: ImageSettings,
    device: torch.device,
    prepare_targets: Callable[[Split], Split] = lambda split: split,
    rho: Rho | None = None,
) -> Task:
    """SAM around SGD with momentum, on the first images of ``dataset``.

    Args:
        dataset: in `lowland.data`; its `network` is made with the global generator.
        settings: all there is to say.
        device: on which the data lie, too.
        prepare_targets: is given the training images before some are held out: noise in the labels, say.
        rho: in place of that of the settings: another radius, or one for each step.

    Raises:
        SettingError: in several processes for n-SAM, and for groups whose statistics move in both passes.
    """
    on = {name: switched(getattr(settings, name), device) for name in ("amp", "channels_last", "compile")}
    sets = image_sets(dataset, settings, device, prepare_targets)
    model = network(dataset, settings).to(device)
    if on["channels_last"]:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = ImageBatches(sets.train, settings, on["channels_last"])
    autocast = torch.bfloat16 if on["amp"] else None
    base = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum)
    sam = SAM(
        base,
        rho=settings.rho if rho is None else rho,
        # Without the model its running statistics move in every pass.
        model=model if settings.statistics == "w" else None,
        m=settings.m if settings.per_example and not settings.group_after_group else None,
        l2=settings.l2,
        ascent=Random(settings.seed) if settings.ascent == "random" else None,
    )
    optimizer: Optimizer = sam
    if settings.climbs_over_training:
        drawn = ascent_batches(batches, sets.train, settings)
        optimizer = AscentOverTraining(sam, drawn, settings.ascent_examples, model, autocast)
    if settings.group_after_group:
        optimizer = GroupAfterGroup(sam, settings.m, batches, model, autocast)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
    return Task(
        model,
        F.cross_entropy,
        optimizer,
        batches,
        ImageCheck(model, average, sets, settings),
        SHOW,
        schedule=_schedule(settings),
        losses_fn=_losses,
        average=average,
        autocast=autocast,
        compiled=on["compile"],
    )


def ascent_batches(
    batches: ImageBatches, train: Split, settings: ImageSettings
) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """Step → the images of n-SAM's ascent, without one twice, ``ascent_batch`` at a time; a function of the step."""
    assert train.targets is not None
    targets = train.targets

    def drawn(step: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = seeded(settings.seed + 2**30, step)  # neither the orders' draws nor the crops'
        chosen = torch.randperm(len(train), generator=generator)[: settings.ascent_examples].to(train.inputs.device)
        for part in chosen.split(settings.ascent_batch):
            yield batches.prepared(train.inputs[part], generator), targets[part]

    return drawn


def image_sets(
    dataset: str, settings: ImageSettings, device: torch.device, prepare_targets: Callable[[Split], Split]
) -> ImageSets:
    """The first images of ``dataset`` on ``device``: training, validation and test."""
    whole = load_once(dataset)
    assert whole.test is not None
    first = prepare_targets(whole.train.take(torch.arange(settings.examples)))
    train, validation = split_validation(first, HELD_OUT, settings.seed)
    test = whole.test.take(torch.arange(settings.test_examples))
    return ImageSets(train.to(device), validation.to(device), test.to(device))


def _losses(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="none")


def _schedule(settings: ImageSettings) -> Callable[[int], float]:
    """What η is multiplied by at a step."""

    def factor(step: int) -> float:
        part = step / max(settings.steps, 1)
        if settings.schedule == "cosine":
            return (1 + math.cos(math.pi * part)) / 2
        if settings.schedule == "piecewise":
            return 1.0 if part < 0.5 else 0.1 if part < 0.75 else 0.01
        return 1.0

    return factor
