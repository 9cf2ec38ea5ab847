"""Shapes of the convolutional networks."""

import pytest
import torch

from lowland.models import group_norm_cnn, norm_cnn, strided_cnn


def test_the_network_for_stacked_images_is_the_papers():
    model = strided_cnn(64, 32, classes=2)
    assert [(m.kernel_size, m.stride, m.padding, m.out_channels) for m in model if isinstance(m, torch.nn.Conv2d)] == [
        ((5, 5), (2, 2), (2, 2), 32), ((3, 3), (2, 2), (1, 1), 64), ((3, 3), (2, 2), (1, 1), 128),
    ]  # fmt: skip
    assert model[-1].weight.shape == (2, 128 * 8 * 4)
    assert model(torch.zeros(3, 3, 64, 32)).shape == (3, 2)


@pytest.mark.parametrize("size", [(7, 5), (8, 8), (1, 1)])
def test_odd_sizes(size):
    assert strided_cnn(*size, classes=4, inputs=1)(torch.zeros(2, 1, *size)).shape == (2, 4)


def test_norm_cnn():
    assert norm_cnn([4, 8], size=10, classes=3)(torch.zeros(2, 3, 10, 10)).shape == (2, 3)


def test_the_benchmarks_network_for_mnist_is_the_benchmarks():
    model = group_norm_cnn(10)
    assert [(m.kernel_size, m.stride, m.padding, m.out_channels) for m in model if isinstance(m, torch.nn.Conv2d)] == [
        ((3, 3), stride, (1, 1), channels) for stride, channels in (((1, 1), 64), ((2, 2), 128), *(((1, 1), 128),) * 2)
    ]
    assert [(m.num_groups, m.num_channels) for m in model if isinstance(m, torch.nn.GroupNorm)] == [
        (8, 64), (8, 128), (8, 128), (8, 128),
    ]  # fmt: skip
    assert [type(m).__name__ for m in model[:3]] == ["Conv2d", "ReLU", "GroupNorm"]
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    x = torch.rand(2, 2, 9, 5)
    small = group_norm_cnn(3, inputs=2, width=8)
    assert torch.allclose(small(x), small[-1](small[:12](x).mean((2, 3))), atol=1e-6)


@pytest.mark.parametrize("width", [0, 12, -8])
def test_a_width_that_the_groups_do_not_divide(width):
    with pytest.raises(ValueError, match="multiple of 8"):
        group_norm_cnn(2, width=width)
