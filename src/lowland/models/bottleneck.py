"""Residual networks of bottleneck blocks, such as ResNet-50 (He et al. 2016, *Deep residual learning*).

Names and shapes in their ``state_dict`` are torchvision's, so that its ImageNet weights load.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Self, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from lowland.models.init import he_normal_
from lowland.models.resnet import check

M = TypeVar("M", bound=nn.Module)
EXPANSION = 4  # a block's output channels over its inner ones


def bottleneck_resnet(blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> nn.Sequential:
    """Residual network of bottleneck blocks, with batch norm; by default ResNet-50.

    A 7×7 convolution and a 3×3 max pool, both with stride 2, four stages of ``blocks``, mean over the pixels, and a
    linear layer. Weights of the convolutions are normal with variance 2 / fan_out, those of the linear layer have
    torch's default; its biases are zero. ImageNet weights expect images in [0, 1] that are normalized channel by
    channel: minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225).

    Args:
        blocks: number of blocks of each stage.
        width: channels inside the blocks of the first stage. The stages end in 4, 8, 16 and 32 times as many. All but
            the first halve height and width.
        classes: the logits are ``(n, classes)`` for images ``(n, 3, height, width)``.

    Raises:
        ValueError: unless there are four counts of blocks of at least 1, a channel and two classes.
    """
    check(blocks, width, classes, like=(3, 4, 6, 3))
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(3, width, 7, 2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, 2, padding=1),
    )
    inputs = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        outputs = EXPANSION * inner
        first = Bottleneck(inputs, inner, 2 if stage else 1)
        layers[f"layer{stage + 1}"] = nn.Sequential(first, *(Bottleneck(outputs, inner, 1) for _ in range(count - 1)))
        inputs = outputs
    layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(inputs, classes)}
    return he_normal_(nn.Sequential(layers))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolution, each with batch norm, ReLUs between; a shortcut is added, then a ReLU.

    The 3×3 convolution has the stride, as in torchvision; in the paper it is the first. If the shape changes, the
    shortcut is a 1×1 convolution with batch norm.
    """

    def __init__(self, inputs: int, inner: int, stride: int):
        super().__init__()
        outputs = EXPANSION * inner
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample.extend([nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inputs, height, width)`` to ``(n, 4 inner, height / stride, width / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.downsample(x) + self.bn3(self.conv3(y)))


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics in training, too; its scale and shift are trained."""

    def train(self, mode: bool = True) -> Self:
        """Leave the statistics frozen: the layer stays in evaluation mode."""
        return super().train(False)


def freeze_batch_norm(model: M) -> M:
    """Replace every ``BatchNorm2d`` in ``model`` by a `FrozenBatchNorm`, in place; names and values stay."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = FrozenBatchNorm
            module.eval()
    return model
