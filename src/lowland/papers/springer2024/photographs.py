"""What the experiments on image files share: examples that stay on disk, their batches, the networks, errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.data import Shuffled, Split, data_root, random_view, scale, seeded
from lowland.errors import DataError, SettingError
from lowland.models import bottleneck_resnet, group_norm_cnn, strided_cnn
from lowland.training.weights import load_pretrained

NETWORKS = ("small", "cnn", "resnet-50")
SWITCH = ("auto", "on", "off")
# Of ImageNet's pixels in [0, 1], by channel; what its weights expect.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AT_ONCE = 256  # images evaluated at a time
_APART = 2**26  # between the seeds of several orders


@dataclass(frozen=True, eq=False)
class Portion:
    """Some examples of a split, whose images stay where they are: memory-mapped, or on the device.

    ``indices``: int64 ``(n,)`` on the CPU.
    """

    split: Split
    indices: Tensor

    def __len__(self) -> int:
        """How many."""
        return len(self.indices)

    @property
    def targets(self) -> Tensor:
        """int64 ``(n,)``, where the split has them."""
        assert self.split.targets is not None
        return self.split.targets[self.indices.to(self.split.targets.device)]

    def images(self, indices: Tensor, device: torch.device) -> Tensor:
        """Those of the split at ``indices``, float32 ``(k, channels, height, width)`` in [0, 1] on ``device``."""
        return scale(self.split.inputs[indices.to(self.split.inputs.device)].to(device), 255)

    def batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """All in order, as a network takes them, with their targets."""
        for indices, targets in zip(self.indices.split(_AT_ONCE), self.targets.split(_AT_ONCE), strict=True):
            yield normalized(self.images(indices, device)), targets.to(device)


class Batches:
    """Minibatches, so many of each portion, in random order: a function of the step alone.

    Args:
        portions: of which none has fewer examples than a batch takes.
        batch_size: of each portion; what an epoch of it has left over is dropped.
        seed: of the orders.
        device: of the batches.
        augment: whether each image is a random view.
        channels_last: the layout of the batches.

    Raises:
        SettingError: for a portion that is smaller.
    """

    def __init__(
        self,
        portions: Sequence[Portion],
        batch_size: int,
        seed: int,
        device: torch.device,
        *,
        augment: bool = False,
        channels_last: bool = False,
    ):
        smallest = min(map(len, portions))
        if batch_size > smallest:
            raise SettingError(f"batch_size is {batch_size}, and there are {smallest} images to train on: choose less")
        self.portions, self.device, self.augment = portions, device, augment
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.seed = seed
        self.shuffled = [
            Shuffled(portion.indices, portion.targets.cpu(), batch_size, seed + number * _APART, drop_last=True)
            for number, portion in enumerate(portions)
        ]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Float32 ``(portions · batch, channels, height, width)``, and int64 ``(portions · batch,)``."""
        images, targets = [], []
        for portion, shuffled in zip(self.portions, self.shuffled, strict=True):
            indices, chosen = shuffled(step)
            images.append(portion.images(indices, self.device))
            targets.append(chosen)
        x = torch.cat(images)
        if self.augment:
            x = random_view(x, generator=seeded(self.seed + 2**31, step))  # apart from the orders' draws
        return normalized(x).contiguous(memory_format=self.layout), torch.cat(targets).to(self.device)


def normalized(images: Tensor) -> Tensor:
    """Photographs, ``(n, 3, height, width)`` in [0, 1], with ImageNet's mean and deviation; others as they are."""
    if images.shape[1] != len(MEAN):
        return images
    return (images - images.new_tensor(MEAN).view(3, 1, 1)) / images.new_tensor(DEVIATION).view(3, 1, 1)


def network(name: str, width: int, classes: int, shape: torch.Size, weights: str = "none") -> nn.Module:
    """One of `NETWORKS`: that of the stacked images, that of the domain benchmark for MNIST, or a ResNet-50.

    Args:
        name: which.
        width: channels of the first convolution; small has its own.
        classes: outputs.
        shape: of the images, ``(..., channels, height, width)``.
        weights: a file in torchvision's naming for the ResNet-50, imagenet for that in the data root, or none.

    Raises:
        RunError: if the weights can't be read, or are another network's.
        DataError: for imagenet, if they are missing.
    """
    if name == "small":
        return strided_cnn(shape[-2], shape[-1], classes, shape[-3])
    if name == "cnn":
        return group_norm_cnn(classes, shape[-3], width)
    model = bottleneck_resnet(width=width, classes=classes)
    if weights != "none":
        load_pretrained(model, weights_file(weights))
    return model


def weights_file(weights: str) -> str:
    """The file that the setting ``weights`` names; for ``imagenet`` the one in the data root.

    Raises:
        DataError: if that one is not there.
    """
    if weights != "imagenet":
        return weights
    file = data_root() / "imagenet" / "resnet50.pth"
    if not file.is_file():
        raise DataError(
            f"{file} is missing: place a ResNet-50's ImageNet weights there, in torchvision's naming, or set "
            "weights to a file, or weights=none to start from nothing"
        )
    return str(file)


def check_network(name: str, width: int, weights: str) -> None:
    """Raise a SettingError for settings of a network that don't go together."""
    if name == "cnn" and width % 8:
        raise SettingError(f"network=cnn has 8 groups in its group norm: width must be a multiple of 8, not {width}")
    if name != "resnet-50" and weights != "none":
        raise SettingError("weights are a ResNet-50's: set network=resnet-50, or weights=none")


def error_and_loss(model: nn.Module, portion: Portion, device: torch.device) -> tuple[float, float]:
    """The share of ``portion`` that ``model``, in the mode it is in, gets wrong, and its mean cross-entropy."""
    wrong = loss = 0.0
    with torch.no_grad():
        for x, y in portion.batches(device):
            output = model(x).float()
            wrong += (output.argmax(1) != y).sum().item()
            loss += F.cross_entropy(output, y, reduction="sum").item()
    return wrong / len(portion), loss / len(portion)


def switched(value: str, device: torch.device) -> bool:
    """A setting of `SWITCH`: auto is on for CUDA."""
    return device.type == "cuda" if value == "auto" else value == "on"
