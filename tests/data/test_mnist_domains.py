"""RotatedMNIST and ColoredMNIST, on digits that Pillow turns too."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from lowland.data import Dataset, Split, colored_mnist, rotated_mnist
from lowland.data.mnist_domains import rotate

SIDE = 28


def digits(n, seed=0):
    """Smooth blobs in the middle, whose last pixel's neighbourhood stays black."""
    small = torch.rand(n, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    blobs = torch.nn.functional.interpolate(small, size=20, mode="bicubic").clamp(0, 1) * 255
    return torch.nn.functional.pad(blobs, [4] * 4).to(torch.uint8)


def mnist(train=600, test=120):
    images, targets = digits(train + test), torch.arange(train + test) % 10
    return Dataset(
        "mnist", Split(images[:train], targets[:train]), Split(images[train:], targets[train:]), tuple("0123456789")
    )


def test_rotation_is_pillows():
    images = digits(5)
    for angle in (0, 15, 45, 75, -30, 200):
        turned = rotate(images, angle)
        for image, result in zip(images, turned, strict=True):
            wanted = np.asarray(Image.fromarray(image[0].numpy()).rotate(angle, Image.Resampling.BILINEAR)).astype(int)
            assert np.abs(result[0].numpy() - wanted).max() <= 1
    assert rotate(images, 0).equal(images)
    assert rotate(images, 90).equal(images.rot90(1, (2, 3)))


def test_rotated():
    data, whole = rotated_mnist(mnist(), seed=1), digits(720)
    assert list(data.splits) == ["0", "15", "30", "45", "60", "75"]
    assert data.classes == tuple("0123456789")
    upright = data.splits["0"].inputs
    matches = (upright.flatten(1)[:, None] == whole.flatten(1)).all(-1)
    assert (matches.sum(1) == 1).all()
    assert data.splits["0"].targets.equal(matches.long().argmax(1) % 10)
    for angle, split in data.splits.items():
        assert split.inputs.shape == (120, 1, SIDE, SIDE)
        back = rotate(split.inputs, -int(angle)).float().flatten(1)
        nearest = torch.cdist(back, whole.float().flatten(1)).argmin(1)
        assert split.targets.equal(nearest % 10)
        assert len(set(nearest.tolist())) == 120
    again, other = rotated_mnist(mnist(), seed=1), rotated_mnist(mnist(), seed=2)
    assert again.splits["75"].inputs.equal(data.splits["75"].inputs)
    assert not other.splits["75"].inputs.equal(data.splits["75"].inputs)


def test_colored():
    base = mnist(9000, 900)
    images = torch.cat([base.train.inputs, base.test.inputs])
    images[:, 0, 0, 0], images[:, 0, 0, 1] = (torch.arange(9900) // m % 128 + 128 for m in (128, 1))
    base = dataclasses.replace(
        base, train=dataclasses.replace(base.train, inputs=images[:9000]),
        test=dataclasses.replace(base.test, inputs=images[9000:]),
    )  # fmt: skip
    data = colored_mnist(base)
    assert list(data.splits) == ["+90%", "+80%", "-90%"]
    seen = []
    for split, wrong in zip(data.splits.values(), (0.1, 0.2, 0.9), strict=True):
        assert split.inputs.shape == (3300, 2, SIDE, SIDE)
        assert split.inputs.dtype == torch.uint8
        assert split.targets.dtype == split.attributes.dtype == torch.int64
        at = torch.arange(3300)
        coloured, other = split.inputs[at, split.attributes], split.inputs[at, 1 - split.attributes]
        assert not other.any()
        number = (coloured[:, 0, 0].long() - 128) * 128 + coloured[:, 0, 1].long() - 128
        seen += number.tolist()
        assert coloured.equal(images[number, 0])
        for measured, expected in (
            ((split.targets != (number % 10 < 5)), 0.25),
            ((split.targets != split.attributes), wrong),
        ):
            error = 5 * (expected * (1 - expected) / 3300) ** 0.5
            assert measured.double().mean().item() == pytest.approx(expected, abs=error)
        # The colour follows the noisy label, not the digit.
        agrees = (split.attributes == split.targets).double()
        noisy = split.targets != (number % 10 < 5)
        assert agrees[noisy].mean().item() == pytest.approx(1 - wrong, abs=0.06)
    assert sorted(seen) == list(range(9900))
    assert colored_mnist(base).splits["-90%"].inputs.equal(data.splits["-90%"].inputs)


def test_without_labels_or_test_images():
    whole = mnist()
    assert len(rotated_mnist(dataclasses.replace(whole, test=None)).splits["0"]) == 100
    with pytest.raises(ValueError, match="without labels"):
        colored_mnist(dataclasses.replace(whole, train=Split(whole.train.inputs)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", [rotated_mnist, colored_mnist])
def test_the_same_on_a_gpu(make):
    wanted, data = make(mnist()), make(mnist().to("cuda"))
    for name, split in data.splits.items():
        assert split.inputs.is_cuda
        here, there = wanted.splits[name], split.to("cpu")
        assert there.targets.equal(here.targets)
        assert (there.inputs.int() - here.inputs.int()).abs().max() <= (make is rotated_mnist)  # rounding
