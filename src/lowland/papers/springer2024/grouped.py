"""Photographs with two features of two classes each: CelebA and Waterbirds (Springer et al. 2024).

The network is trained on one feature, the target, of which the other says much but not all. Of CelebA the target, hair
colour, is the easy feature and gender the hard one. Of Waterbirds (ours) the bird, the target, counts as the hard
feature and the background as the easy one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.data import GroupedDataset, Split, data_root, load_celeba, load_waterbirds, random_view, scale, seeded
from lowland.errors import DataError, SettingError
from lowland.papers.springer2024.check import FeatureSets
from lowland.papers.springer2024.claims import CLAIMS, GRID_CLAIMS
from lowland.papers.springer2024.experiment import feature_experiment
from lowland.papers.springer2024.figures import feature_figures
from lowland.papers.springer2024.grouped_check import LEAST_IN_GROUP, GroupedCheck
from lowland.papers.springer2024.methods import ARMS, MEASURES, table
from lowland.papers.springer2024.photographs import NETWORKS, SWITCH, check_network, network, normalized, switched
from lowland.papers.springer2024.settings import SHARED_VALUES, FeatureSettings
from lowland.papers.springer2024.task import ShuffledImages, feature_task
from lowland.training import Experiment, Reference, Task, ours, paper, setting
from lowland.training.settings import Value

LRS = (0.0005, 0.001, 0.005, 0.01)
RHOS = (0.0, 0.01, 0.02, 0.05, 0.07)
KINDS = ("sgd", "sam", "lsam")
_MEASURES = {
    **MEASURES,
    "group_balanced_error": "groups balanced",
    "reweighted_worst_group_error": "worst group, reweighted",
}


_AUGMENT = ("on", "off")
# Where the class of the easy feature stands, and that of the hard one.
ROLES = {"celeba": ("targets", "attributes"), "waterbirds": ("attributes", "targets")}


@dataclass(frozen=True, kw_only=True)
class GroupedSettings(FeatureSettings):
    """Those, and which images and which network."""

    examples: int = setting("training images; fewer than there are: drawn at random", low=4, high=10**6)
    held_out_examples: int = setting(
        f"validation images, and test images, at least {LEAST_IN_GROUP} of each group; 0: all of the split", low=0
    )
    size: int = setting("height and width that images are decoded at", low=8, high=1024)
    network: str = setting("resnet-50; small: three strided convolutions; cnn: four with group norm", choices=NETWORKS)
    width: int = setting("channels of the first convolution; small has its own", low=1, high=1024)
    weights: str = setting(
        "of the ResNet-50 at the start, a file in torchvision's naming; imagenet: imagenet/resnet50.pth in the data "
        "root; none"
    )
    augment: str = setting("random crops of 70 to 100 % of the area, resized, half of them mirrored", choices=_AUGMENT)
    amp: str = setting("bfloat16 in training: auto is on for CUDA", choices=SWITCH)

    @property
    def trained_on(self) -> int:
        """How many training images there are."""
        return self.examples

    def __post_init__(self) -> None:
        """As `FeatureSettings`; and refuse a network that there isn't."""
        super().__post_init__()
        check_network(self.network, self.width, self.weights)


def grouped_task(name: str, settings: GroupedSettings, device: torch.device) -> Task:
    """One run on CelebA or Waterbirds; ``name`` says which."""
    sets = grouped_sets(name, settings, device)
    model = network(settings.network, settings.width, 2, sets.train.inputs.shape, settings.weights).to(device)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return feature_task(
        model,
        sets,
        settings,
        check=GroupedCheck(model, sets, settings),
        batch=Views(sets, settings, device) if settings.augment == "on" else ShuffledImages(sets, settings),
        autocast=torch.bfloat16 if switched(settings.amp, device) else None,
    )


class Views(ShuffledImages):
    """Minibatches in random order, of each image a random view: a function of the step alone."""

    def __init__(self, sets: FeatureSets, settings: GroupedSettings, device: torch.device):
        super().__init__(sets, settings)
        self.seed, self.device = settings.seed, device
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The network's inputs, and int64 ``(batch,)``."""
        images, targets = self.shuffled(step)
        generator = seeded(self.seed + 2**31, step)  # apart from the orders' draws
        views = random_view(scale(images.to(self.device), 255), generator=generator, colour=False)
        return normalized(views).contiguous(memory_format=self.layout), targets


def grouped_sets(name: str, settings: GroupedSettings, device: torch.device) -> FeatureSets:
    """The publisher's splits, or parts of them; the probes are fitted on validation images.

    Images stay where they are, memory-mapped; batches of them are brought to ``device``, and normalized there.

    Raises:
        DataError: if the data are missing or damaged, or a group has too few images for the probes.
        SettingError: for more training images than there are.
    """
    root = data_root()
    dataset = _load(root, name, settings.size)
    count = len(dataset.train)
    if settings.examples > count:
        raise SettingError(
            f"examples is {settings.examples}, and {root / name} has {count} training images: choose less"
        )
    train = dataset.train
    if settings.examples < count:
        train = train.take(torch.randperm(count, generator=seeded(0, 2**30))[: settings.examples])
    validation, test = (
        part_of_groups(dataset, split, settings.held_out_examples, f"{root / name}: {which}")
        for split, which in ((dataset.validation, "validation"), (dataset.test, "test"))
    )
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format

    def prepare(images: Tensor) -> Tensor:
        return normalized(scale(images.to(device), 255)).contiguous(memory_format=layout)

    train, validation, test = (_labels_on(split, device) for split in (train, validation, test))
    easy, hard = ROLES[name]
    return FeatureSets(train, validation, test, validation, test, prepare, easy, hard)


def part_of_groups(dataset: GroupedDataset, split: Split, examples: int, where: str) -> Split:
    """So many of ``split``, of each group its share but `LEAST_IN_GROUP` at least; all of them for 0.

    Raises:
        DataError: for a group with fewer.
    """
    groups = dataset.groups(split)
    part = min(1.0, examples / len(split)) if examples else 1.0
    chosen = []
    for number, name in enumerate(dataset.group_names):
        found = (groups == number).nonzero()[:, 0]
        if len(found) < LEAST_IN_GROUP:
            raise DataError(
                f"{where} has {len(found)} images of the group {name}, and probes take {LEAST_IN_GROUP} of each: "
                "place more there"
            )
        order = torch.randperm(len(found), generator=seeded(0, 2**30 + 1 + number))
        chosen.append(found[order[: max(LEAST_IN_GROUP, round(part * len(found)))]])
    return split if part == 1 else split.take(torch.cat(chosen).sort().values)


def _labels_on(split: Split, device: torch.device) -> Split:
    """The labels on ``device``, the images where they are."""
    assert split.targets is not None
    assert split.attributes is not None
    return replace(split, targets=split.targets.to(device), attributes=split.attributes.to(device))


@lru_cache(maxsize=1)
def _load(root: Path, name: str, size: int) -> GroupedDataset:
    return (load_celeba if name == "celeba" else load_waterbirds)(root, size=size)


def grouped_experiment(
    name: str,
    title: str,
    prepare: Callable[[Any, torch.device], Task],
    paper_values: Mapping[str, Value],
    desk: Mapping[str, Value],
    cost: str,
    references: Mapping[str, Reference] | None = None,
) -> Experiment:
    """An experiment on one of them.

    Args:
        name: of the dataset.
        title: one line.
        prepare: of the experiment's module.
        paper_values: how many images there are, and how long training is.
        desk: what differs at desk scale.
        cost: of a run at paper scale.
        references: claim → what the paper has of it, on these data.
    """
    claims = tuple(replace(claim, reference=(references or {}).get(claim.id)) for claim in (*CLAIMS, *GRID_CLAIMS))
    return feature_experiment(
        name,
        title,
        prepare,
        datasets=(name,),
        settings=GroupedSettings,
        scales={
            "paper": {**PAPER_VALUES, **paper_values},
            "desk": {**DESK, **desk},
            "laptop": LAPTOP,
            "smoke": SMOKE,
        },
        lrs=LRS,
        rhos=RHOS,
        cost={
            "paper": cost,
            "desk": "about an hour, 2 cores (from steps and checks on drawn images, on one core)",
            "laptop": "two minutes, 2 cores (drawn images)",
            "smoke": "seconds",
        },
        arms={kind: ARMS[kind] for kind in KINDS},
        claims=claims,
        figures=feature_figures(KINDS),
        table=partial(table, measures=_MEASURES),
    )


PAPER_VALUES: Mapping[str, Value] = {
    **SHARED_VALUES,
    "lr": paper(0.001, "of the grid"),
    "rho": paper(0.05, "of the grid"),
    "batch_size": paper(128),
    "weight_decay": paper(1e-4),
    "held_out_examples": paper(0),
    "size": ours(224),
    "network": paper("resnet-50"),
    "width": paper(64),
    "weights": ours("imagenet", "the literature's choice; the paper: optionally"),
    "augment": ours("on", "the literature's choice; the paper's own is not known"),
    "amp": ours("auto"),
}
# Found by SGD alone, on other photographs, as the data can't be downloaded: 4,795 cats and dogs of CIFAR-10, resized to
# 64. Its training error is 0.064 after 10 epochs of 30, and 0.0004 after 15.
DESK: Mapping[str, Value] = {
    "epochs": ours(30),
    "check_epochs": ours(15),
    "batch_size": ours(32, "more steps of few images: the network starts from nothing"),
    "held_out_examples": ours(1000, "probes take longest"),
    "size": ours(64),
    "network": ours("small", "fits the training images on two cores"),
    "weights": ours("none"),
    "augment": ours("off", "with it so few epochs don't fit the training images"),
    "lr": ours(0.01, "of the grid; the network starts from nothing"),
}
# Chosen without a run on the data, which can't be downloaded: what two cores should get through in two minutes.
LAPTOP: Mapping[str, Value] = {
    "seeds": ours(3, "to see the figures; claims take five"),
    "epochs": ours(6),
    "check_epochs": ours(3),
    "examples": ours(800),
    "batch_size": ours(50, "runs are short"),
    "held_out_examples": ours(600),
    "size": ours(32),
    "network": ours("small", "without weights a ResNet-50 learns nothing in two minutes"),
    "weights": ours("none"),
    "augment": ours("off"),
    "lr": ours(0.01, "of the grid; the network starts from nothing"),
    "phantom_examples": ours(400),
}
SMOKE: Mapping[str, Value] = {
    "seeds": ours(1),
    "epochs": ours(2),
    "check_epochs": ours(1),
    "examples": ours(10),
    "batch_size": ours(5),
    "held_out_examples": ours(20),
    "size": ours(16),
    "network": ours("small"),
    "weights": ours("none"),
    "augment": ours("off"),
    "phantom_examples": ours(10),
}
