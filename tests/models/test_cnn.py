"""Shapes of the convolutional networks."""

import pytest
import torch

from lowland.models import norm_cnn, strided_cnn


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
