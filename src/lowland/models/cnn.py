"""Small convolutional networks: with layer norm, with strides, with group norm."""

from collections.abc import Sequence

from torch import Tensor, nn

from lowland.models.init import glorot_normal_


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel of ``(n, channels, height, width)``; ε is 1e-6, as in Flax."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def norm_cnn(channels: Sequence[int], size: int, classes: int, inputs: int = 3) -> nn.Sequential:
    """Blocks of 3×3 convolution, ReLU, layer norm over channels and 2×2 max pool, then a linear layer.

    The network of Long & Bartlett 2024 for CIFAR-10; truncated Glorot normal weights, zero biases.

    Args:
        channels: output channels of each block.
        size: height and width of the images.
        classes: outputs.
        inputs: channels of the images.
    """
    layers: list[nn.Module] = []
    for outputs in channels:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), ChannelNorm(outputs), nn.MaxPool2d(2)]
        inputs, size = outputs, size // 2
    return glorot_normal_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * size**2, classes)))


def strided_cnn(height: int, width: int, classes: int, inputs: int = 3) -> nn.Sequential:
    """Three strided convolutions, each with a ReLU, then a linear layer.

    The network of Springer et al. 2024 for stacked images: 3→32, 5×5; 32→64, 3×3; 64→128, 3×3, all with stride 2.
    Weights have torch's default initialization.

    Args:
        height: height of the images, ``(n, inputs, height, width)``.
        width: width of the images.
        classes: number of outputs.
        inputs: channels of the images.
    """
    layers: list[nn.Module] = []
    for outputs, kernel in ((32, 5), (64, 3), (128, 3)):
        layers += [nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
        inputs, height, width = outputs, -(-height // 2), -(-width // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * height * width, classes))


def group_norm_cnn(classes: int, inputs: int = 1, width: int = 64) -> nn.Sequential:
    """Four 3×3 convolutions, each with ReLU and group norm, then the mean over pixels and a linear layer.

    The network of Gulrajani & Lopez-Paz 2021, *In search of lost domain generalization*, for MNIST: 64, 128, 128 and
    128 channels, 8 groups, stride 2 in the second convolution. Weights have torch's default initialization.

    Args:
        classes: number of outputs.
        inputs: channels of the images, ``(n, inputs, height, width)`` of any size.
        width: channels of the first convolution; the others have twice as many.

    Raises:
        ValueError: unless ``width`` is a multiple of 8.
    """
    if width < 1 or width % 8:
        raise ValueError(f"width must be a multiple of 8, as there are 8 groups: not {width}")
    layers: list[nn.Module] = []
    for outputs, stride in ((width, 1), (2 * width, 2), (2 * width, 1), (2 * width, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU(), nn.GroupNorm(8, outputs)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
