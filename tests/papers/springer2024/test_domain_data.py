"""Batches of images that stay where they are, networks, errors."""

import pytest
import torch
from torch.nn import functional as F

from lowland.data import Split, random_view, scale, seeded
from lowland.errors import SettingError
from lowland.models import bottleneck_resnet
from lowland.papers.images import error_and_loss
from lowland.papers.springer2024 import domain_data
from lowland.papers.springer2024.data import normalized
from lowland.papers.springer2024.domain_data import DomainBatches, Portion
from lowland.papers.springer2024.settings import NETWORKS, check_network
from lowland.papers.springer2024.task import network

CPU = torch.device("cpu")


def portion(n=10, seed=0, channels=3, side=8, first=3):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(256, (n + first, channels, side, side), generator=generator, dtype=torch.uint8)
    targets = torch.randint(5, (n + first,), generator=generator)
    return Portion(Split(inputs, targets), torch.arange(first, n + first))


def test_photographs_get_imagenets_mean_and_deviation_and_digits_none():
    images = torch.rand(2, 3, 4, 4)
    for channel, (mean, deviation) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        found = normalized(images)[:, channel]
        assert torch.allclose(found, (images[:, channel] - mean) / deviation, atol=1e-6)
    digits = torch.rand(2, 2, 4, 4)
    assert torch.equal(normalized(digits), digits)


def test_batches_have_as_many_of_each_portion_and_are_functions_of_the_step(monkeypatch):
    portions = [portion(7, 1), portion(5, 2)]
    batches = DomainBatches(portions, 2, seed=3, device=CPU)
    drawn = [batches(step) for step in range(4)]
    again = DomainBatches(portions, 2, seed=3, device=CPU)
    monkeypatch.setattr(domain_data, "layout", lambda device: torch.channels_last)
    for step in (2, 0, 3, 1):
        x, y = again(step)
        assert torch.equal(x, drawn[step][0])
        assert torch.equal(y, drawn[step][1])
        assert x.is_contiguous(memory_format=torch.channels_last)
    for number, part in enumerate(portions):
        images = normalized(part.images(part.indices, CPU))
        chosen = [[(images == x).flatten(1).all(1).nonzero().item() for x in batch.split(2)[number]]
                  for batch, _ in drawn]  # fmt: skip
        assert [part.targets[c].tolist() for c in chosen] == [y.split(2)[number].tolist() for _, y in drawn]
        epoch = chosen[0] + chosen[1]  # of two batches, in each of which no image comes twice
        assert len(set(epoch)) == 4
    assert not torch.equal(drawn[0][0], DomainBatches(portions, 2, seed=4, device=CPU)(0)[0])


def test_equal_portions_are_shuffled_apart():
    same = portion(50)
    x, _ = DomainBatches([same, same], 25, seed=0, device=CPU)(0)
    assert not torch.equal(x[:25], x[25:])


def test_random_views_are_drawn_anew_at_every_step():
    part = portion(4)
    plain, views = (DomainBatches([part], 4, 0, CPU, augment=augment) for augment in (False, True))
    indices = part.indices[plain.shuffled[0].order(0)]
    expected = random_view(part.images(indices, CPU), generator=seeded(2**31, 0))
    assert torch.equal(views(0)[0], normalized(expected))
    assert torch.equal(views(0)[1], plain(0)[1])
    assert not torch.equal(views(1)[0], views(0)[0])


def test_a_portion_smaller_than_its_batch():
    with pytest.raises(SettingError, match="batch_size is 6, and there are 5 images"):
        DomainBatches([portion(7), portion(5)], 6, 0, CPU)


def test_errors_and_losses_are_those_of_all_images(monkeypatch):
    monkeypatch.setattr(domain_data, "_AT_ONCE", 3)
    part = portion(10)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
    error, loss = error_and_loss(model, part.batches(CPU))
    output = model(normalized(scale(part.split.inputs[3:], 255)))
    assert loss == pytest.approx(F.cross_entropy(output, part.targets).item(), rel=1e-5)
    assert error == pytest.approx((output.argmax(1) != part.targets).float().mean().item())


def test_networks(tmp_path):
    images = torch.rand(2, 3, 32, 32)
    for name in NETWORKS:
        assert network(name, 8, 7, images.shape)(images).shape == (2, 7)
    saved = bottleneck_resnet(width=2)  # with ImageNet's thousand classes
    torch.save(saved.state_dict(), tmp_path / "weights.pth")
    loaded = network("resnet-50", 2, 7, images.shape, str(tmp_path / "weights.pth"))
    for tensor, other in zip(list(loaded.parameters())[:-2], list(saved.parameters())[:-2], strict=True):
        assert torch.equal(tensor, other)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("cnn", 12, "none"), "multiple of 8"), (("small", 64, "w.pth"), "resnet-50"), (("cnn", 8, "w.pth"), "resnet-50")],
)
def test_settings_of_networks_that_do_not_go_together(arguments, says):
    with pytest.raises(SettingError, match=says):
        check_network(*arguments)
