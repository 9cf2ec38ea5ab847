"""Transforms and batches against what they are said to do, one example at a time."""

import pytest
import torch
from torch.nn.functional import pad

from lowland.data import center, one_hot, random_crop_flip, scale, shuffled_batches


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_scale():
    scaled = scale(torch.tensor([0, 64, 255], dtype=torch.uint8), 256)
    assert scaled.dtype == torch.float32
    assert scaled.tolist() == [0, 0.25, 255 / 256]
    assert scale(torch.tensor([16], dtype=torch.uint8), 16, torch.float64).dtype == torch.float64


def test_center():
    train, test = torch.rand(2, 30, 1, 4, 5, generator=seeded(), dtype=torch.float64)
    centred, moved = center(train, test)
    torch.testing.assert_close(centred.mean(0), torch.zeros(1, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(test - moved, (train - centred)[:30])
    assert len(center(train)) == 1


def test_one_hot():
    targets = torch.tensor([2, 0])
    assert one_hot(targets, 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(targets, 4, torch.float64).dtype == torch.float64
    with pytest.raises(RuntimeError):
        one_hot(targets, 2)


def placements(image, padding):
    """Every crop of the padded image, and its mirror image, by (rows down, columns right, mirrored)."""
    _, height, width = image.shape
    padded = pad(image, [padding] * 4)
    steps = range(2 * padding + 1)
    crops = {(i, j): padded[:, i : i + height, j : j + width] for i in steps for j in steps}
    return {(*at, flip): crop.flip(-1) if flip else crop for at, crop in crops.items() for flip in (False, True)}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_and_flip(dtype):
    padding = 2
    image = torch.arange(1, 3 * 6 * 5 + 1, dtype=dtype).view(3, 6, 5)
    out = random_crop_flip(image.expand(3000, 3, 6, 5), padding, generator=seeded())
    assert out.shape == (3000, 3, 6, 5)
    assert out.dtype == dtype
    counts = torch.stack([(out == crop).flatten(1).all(1).sum() for crop in placements(image, padding).values()])
    assert counts.sum() == 3000  # each result is one of the placements,
    assert (counts - 60).abs().max() < 5 * 60**0.5  # and all 50 are equally likely


def test_crop_and_flip_draws_for_each_image_from_its_generator_alone():
    images = torch.randint(256, (8, 3, 32, 32), generator=seeded(1), dtype=torch.uint8)
    state = torch.get_rng_state()
    first, again = (random_crop_flip(images, generator=seeded(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_crop_flip(images, generator=seeded(6)))
    assert torch.equal(torch.get_rng_state(), state)
    same = random_crop_flip(images[:1].expand(8, 3, 32, 32), generator=seeded(5))
    assert len({tuple(image.flatten().tolist()) for image in same}) > 1
    unpadded = random_crop_flip(images, 0, generator=seeded())
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(unpadded, images, strict=True))


def test_shuffled_batches():
    batches = shuffled_batches(10, 4, seeded())
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(torch.cat(batches).tolist()) == list(range(10))
    generator = seeded()
    first, second = (torch.cat(shuffled_batches(10, 10, generator)) for _ in range(2))
    assert torch.equal(first, torch.cat(batches))
    assert not torch.equal(first, second)
