"""The residual networks for images of 32×32 (He et al. 2016), as Andriushchenko & Flammarion 2022 train them.

Names, shapes and order in their ``state_dict`` are those of that paper's code, so that its weights load.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.models.init import he_normal_

Norm = Callable[[int], nn.Module]
Block = Callable[[int, int, int], nn.Module]


def preact_resnet(
    blocks: Sequence[int] = (2, 2, 2, 2), width: int = 64, classes: int = 10, norm: str = "batch"
) -> nn.Sequential:
    """A pre-activation network of basic blocks: ResNet-18 has (2, 2, 2, 2) of them, ResNet-34 (3, 4, 6, 3).

    A 3×3 convolution, four stages of ``blocks``, norm, ReLU, mean over the pixels, and a linear layer. Weights of
    the convolutions are normal with variance 2 / fan_out, those of the linear layer have torch's default; its biases
    are zero. With two classes the linear layer has one output, the logit of the second; the logit of the first is 0.

    Args:
        blocks: number of blocks of each stage. The stages have 1, 2, 4 and 8 times ``width`` channels. All but the
            first halve height and width.
        width: channels of the first stage.
        classes: the logits are ``(n, classes)`` for images ``(n, 3, height, width)``.
        norm: ``"batch"``, or ``"group"`` with ``width`` / 2 groups in every layer.

    Raises:
        ValueError: for another norm, or an odd width with group norm; unless there are four counts of blocks of at
            least 1, a channel and two classes.
    """
    check(blocks, width, classes)
    if norm not in ("batch", "group"):
        raise ValueError(f'norm must be "batch" or "group", not {norm!r}')
    if norm == "group" and width % 2:
        raise ValueError(f"group norm has width / 2 groups: width must be even, not {width}")
    normalized: Norm = nn.BatchNorm2d if norm == "batch" else partial(nn.GroupNorm, width // 2)
    layers = OrderedDict[str, nn.Module](conv1=_convolution(3, width, 3))
    layers |= _stages(partial(PreActivationBlock, norm=normalized), blocks, width)
    layers |= {"bn": normalized(8 * width), "relu": nn.ReLU()} | _head(8 * width, 1 if classes == 2 else classes)
    if classes == 2:
        layers["logits"] = ZeroLogit()
    return he_normal_(nn.Sequential(layers))


def resnet(blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64, classes: int = 100) -> nn.Sequential:
    """The original network of basic blocks, with batch norm; by default ResNet-34.

    It differs from `preact_resnet` in its blocks and in that norm and ReLU follow the first convolution instead of the
    last block. Two classes have two outputs.

    Raises:
        ValueError: unless there are four counts of blocks of at least 1, a channel and two classes.
    """
    check(blocks, width, classes)
    layers = OrderedDict[str, nn.Module](conv1=_convolution(3, width, 3), bn1=nn.BatchNorm2d(width), relu=nn.ReLU())
    layers |= _stages(PostActivationBlock, blocks, width) | _head(8 * width, classes)
    return he_normal_(nn.Sequential(layers))


class PreActivationBlock(nn.Module):
    """Norm, ReLU and 3×3 convolution, twice; a shortcut is added (He et al. 2016, *Identity mappings*).

    If the shape changes, the shortcut is a 1×1 convolution of the input after norm and ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm):
        super().__init__()
        self.bn1, self.conv1 = norm(inputs), _convolution(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = norm(outputs), _convolution(outputs, outputs, 3)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inputs, height, width)`` to ``(n, outputs, height / stride, width / stride)``."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(activated))))


class PostActivationBlock(nn.Module):
    """3×3 convolution and batch norm, twice, a ReLU between; a shortcut is added, then a ReLU.

    From He et al. 2016, *Deep residual learning*. If the shape changes, the shortcut is a 1×1 convolution with batch
    norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _convolution(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.extend([_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inputs, height, width)`` to ``(n, outputs, height / stride, width / stride)``."""
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ZeroLogit(nn.Module):
    """Puts a zero, the logit of the first class, before that of the second: ``(n, 1)`` to ``(n, 2)``."""

    def forward(self, logit: Tensor) -> Tensor:
        """The softmax cross-entropy of the two logits is the logistic loss of the one."""
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _stages(block: Block, blocks: Sequence[int], width: int) -> dict[str, nn.Module]:
    stages: dict[str, nn.Module] = {}
    inputs = width
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        first = block(inputs, outputs, 2 if stage else 1)
        stages[f"layer{stage + 1}"] = nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))
        inputs = outputs
    return stages


def _head(channels: int, outputs: int) -> dict[str, nn.Module]:
    return {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "linear": nn.Linear(channels, outputs)}


def check(blocks: Sequence[int], width: int, classes: int, like: Sequence[int] = (2, 2, 2, 2)) -> None:
    """Raise ValueError unless there are four counts of blocks, ``like`` these, a channel and two classes."""
    if len(blocks) != 4 or min(blocks) < 1:
        raise ValueError(f"blocks must be four counts of at least 1, like {like}, not {tuple(blocks)}")
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}")
    if classes < 2:
        raise ValueError(f"classes must be at least 2, not {classes}")
