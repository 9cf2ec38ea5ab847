"""The dial (ours) on digits and MNIST as one batch, and what minibatches and batch norm do to it."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from lowland.data import Shuffled
from lowland.data.transforms import center, scale
from lowland.models import preact_resnet
from lowland.papers.images import load_once
from lowland.papers.long2024 import PAPER, digits, mnist, shakespeare
from lowland.papers.long2024 import settings as common
from lowland.papers.long2024.check import HeldOut
from lowland.papers.long2024.dial import DECADE, FIGURES, Settings, arms, claims, dialled
from lowland.papers.long2024.task import task
from lowland.training import Experiment, Selection, Task, ours, setting

# The biases of the output alone give the Hessian an eigenvalue of 0.1, a tenth of 2/η: no weights have a smaller norm.
_ABOVE_BIASES = DECADE[1:]
_GRID = {"share": (*DECADE, 1.0), "seed": (0, 1, 2, 3, 4)}
_SELECTION = Selection(metric="loss", on="training")
_VALUES = {"tol": ours(1e-3), "eps": ours(0.0), "eigenvalues": ours(1), "seed": ours(0), "share": ours(1.0)}
_AT_EDGE = "by gradient descent alone: it gets to 2/η"
_TURN = "a third of training"

DIGITS = Experiment(
    name="long2024/dial",
    title="A Hessian norm chosen beforehand (ours): the dial on handwritten digits",
    paper=PAPER,
    datasets=(),
    settings=Settings,
    scales={
        "paper": {
            **_VALUES,
            "lr": ours(2.0, _AT_EDGE),
            "steps": ours(3000),
            "turn": ours(1000, _TURN),
            "check_every": ours(50),
        },
        "desk": {},
        "laptop": {},
        "smoke": {"steps": ours(20), "turn": ours(6), "check_every": ours(5)},
    },
    arms=arms(_ABOVE_BIASES),
    grid={**_GRID, "share": (*_ABOVE_BIASES, 1.0)},
    claims=claims(_ABOVE_BIASES),
    figures=FIGURES,
    cost=dict.fromkeys(("paper", "desk", "laptop"), "6 minutes, 1 core (measured)") | {"smoke": "seconds"},
    prepare=dialled(digits.prepare),
    selection=_SELECTION,
    outcomes=common.OUTCOMES[:2],
)


@dataclass(frozen=True, kw_only=True)
class MnistSettings(Settings, mnist.Settings):
    """The dial's, and those of MNIST."""


MNIST = Experiment(
    name="long2024/dial-mnist",
    title="A Hessian norm chosen beforehand (ours): the dial on MNIST as one batch",
    paper=PAPER,
    datasets=("mnist",),
    settings=MnistSettings,
    scales={
        "paper": {
            **_VALUES,
            "lr": ours(0.75, _AT_EDGE),
            "steps": ours(3000),
            "turn": ours(1000, _TURN),
            "check_every": ours(50),
            "examples": ours(1000),
            "width": ours(200),
        },
        "desk": {},
        "laptop": {"steps": ours(900), "turn": ours(300)},
        "smoke": {
            "steps": ours(4),
            "turn": ours(2),
            "check_every": ours(2),
            "examples": ours(50),
            "width": ours(20),
        },
    },
    arms=arms(DECADE),
    grid=_GRID,
    claims=claims(DECADE),
    figures=FIGURES,
    cost=dict.fromkeys(("paper", "desk"), "26 minutes, 1 core (measured)")
    | {"laptop": "8 minutes, 1 core (its share of the steps)", "smoke": "seconds"},
    prepare=dialled(mnist.prepare),
    selection=common.SELECTION,
    outcomes=common.OUTCOMES,
)


@dataclass(frozen=True, kw_only=True)
class TextSettings(Settings, shakespeare.Settings):
    """The dial's, and those of Shakespeare."""


TEXT = Experiment(
    name="long2024/dial-shakespeare",
    title="What minibatches do to the dial (ours): characters of Shakespeare, Transformer",
    paper=PAPER,
    datasets=("tinyshakespeare",),
    settings=TextSettings,
    scales={
        "paper": {
            **_VALUES,
            "lr": ours(0.5, "as long2024/shakespeare"),
            "steps": ours(2000),
            "turn": ours(667, _TURN),
            "check_every": ours(50),
            "batch_size": ours(16),
            "length": ours(64),
            "layers": ours(2),
            "width": ours(64),
            "heads": ours(4),
            "key_size": ours(32),
        },
        "desk": {},
        "laptop": {"steps": ours(300), "turn": ours(100)},
        "smoke": {**shakespeare.EXPERIMENT.scales["smoke"], "turn": ours(2)},
    },
    arms=arms(DECADE),
    grid=_GRID,
    claims=claims(DECADE, held=False),
    figures=FIGURES,
    cost=dict.fromkeys(("paper", "desk"), "22 minutes, 1 core (measured)")
    | {"laptop": "3 minutes, 1 core (its share of the steps)", "smoke": "seconds"},
    prepare=dialled(shakespeare.prepare),
    selection=common.SELECTION,
    outcomes=common.OUTCOMES,
)


@dataclass(frozen=True, kw_only=True)
class ResNetSettings(Settings):
    """The dial's, and the sizes of data and network."""

    examples: int = setting("training images, and as many to test on, the first ones", low=10, high=10_000)
    batch_size: int = setting("images in a minibatch", low=2)
    width: int = setting("channels of the first stage", low=2)


def prepare_resnet(settings: ResNetSettings, device: torch.device) -> Task:
    """Minibatches of the first ``examples`` images of CIFAR-10; a pre-activation ResNet-10 with batch norm."""
    images = load_once("cifar-10")
    assert images.test is not None
    train, test = (split.take(torch.arange(settings.examples)).to(device) for split in (images.train, images.test))
    assert train.targets is not None
    assert test.targets is not None
    x, tested = center(scale(train.inputs, 256), scale(test.inputs, 256))
    batch = Shuffled(x, train.targets, settings.batch_size, settings.seed, drop_last=True)
    model = preact_resnet((1, 1, 1, 1), settings.width).to(device)
    return task(model, F.cross_entropy, batch, settings, HeldOut(tested, test.targets, test.targets))


RESNET = Experiment(
    name="long2024/dial-resnet",
    title="What minibatches and batch norm do to the dial (ours): CIFAR-10, a small ResNet",
    paper=PAPER,
    datasets=("cifar-10",),
    settings=ResNetSettings,
    scales={
        "paper": {
            **_VALUES,
            "lr": ours(0.1),
            "steps": ours(1500),
            "turn": ours(500, _TURN),
            "check_every": ours(50),
            "examples": ours(2000),
            "batch_size": ours(100),
            "width": ours(8),
        },
        "desk": {},
        "laptop": {"steps": ours(150), "turn": ours(50)},
        "smoke": {
            "steps": ours(4),
            "turn": ours(2),
            "check_every": ours(2),
            "examples": ours(60),
            "batch_size": ours(20),
            "width": ours(2),
        },
    },
    arms=arms(DECADE),
    grid=_GRID,
    claims=claims(DECADE, held=False),
    figures=FIGURES,
    cost=dict.fromkeys(("paper", "desk"), "46 minutes, 1 core (measured)")
    | {"laptop": "5 minutes, 1 core (its share of the steps)", "smoke": "seconds"},
    prepare=dialled(prepare_resnet),
    selection=common.SELECTION,
    outcomes=common.OUTCOMES,
)
