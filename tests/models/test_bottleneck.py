"""ResNet-50 against a textbook block, torchvision's names, and the known number of parameters."""

import pytest
import torch
from torch.nn import functional as F

from lowland.models import bottleneck_resnet, freeze_batch_norm
from lowland.models.bottleneck import Bottleneck


def normalized(x, p, at):
    """Batch norm in evaluation mode, from the running statistics."""
    scale = p[f"{at}.weight"] / (p[f"{at}.running_var"] + 1e-5).sqrt()
    return x * scale.view(-1, 1, 1) + (p[f"{at}.bias"] - p[f"{at}.running_mean"] * scale).view(-1, 1, 1)


def pointwise(x, weight, stride=1):
    return torch.einsum("nihw,oi->nohw", x[:, :, ::stride, ::stride], weight[:, :, 0, 0])


def textbook(x, p, stride):
    y = normalized(pointwise(x, p["conv1.weight"]), p, "bn1").relu()
    y = F.pad(y, [1] * 4).unfold(2, 3, stride).unfold(3, 3, stride)  # (n, channels, height, width, 3, 3)
    y = normalized(torch.einsum("nihwrc,oirc->nohw", y, p["conv2.weight"]), p, "bn2").relu()
    y = normalized(pointwise(y, p["conv3.weight"]), p, "bn3")
    if "downsample.0.weight" in p:
        x = normalized(pointwise(x, p["downsample.0.weight"], stride), p, "downsample.1")
    return (x + y).relu()


@pytest.mark.parametrize(("inputs", "inner", "stride"), [(8, 2, 1), (6, 2, 1), (8, 3, 2), (8, 2, 2)])
def test_block(inputs, inner, stride):
    torch.manual_seed(0)
    block = Bottleneck(inputs, inner, stride).double().eval()
    for tensor in (*block.parameters(), *block.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.3 * torch.rand_like(tensor)
    assert ("downsample.0.weight" in block.state_dict()) == (stride > 1 or inputs != 4 * inner)
    x = torch.randn(2, inputs, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), textbook(x, block.state_dict(), stride))


def torchvision_names(blocks):
    """In no order: what torchvision calls its tensors."""
    names = {"conv1.weight", "fc.weight", "fc.bias"}
    norms = {"bn1"}
    for stage, count in enumerate(blocks, 1):
        for i in range(count):
            at = f"layer{stage}.{i}"
            names |= {f"{at}.conv{k}.weight" for k in (1, 2, 3)} | ({f"{at}.downsample.0.weight"} if i == 0 else set())
            norms |= {f"{at}.bn{k}" for k in (1, 2, 3)} | ({f"{at}.downsample.1"} if i == 0 else set())
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return names | {f"{norm}.{part}" for norm in norms for part in parts}


def test_resnet50():
    with torch.device("meta"):
        model, images = bottleneck_resnet(), torch.empty(2, 3, 224, 224)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    state = model.state_dict()
    assert state.keys() == torchvision_names((3, 4, 6, 3))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer3.0.conv1.weight"] == (256, 512, 1, 1)
    assert shapes["layer4.2.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["fc.weight"] == (1000, 2048)
    assert model(images).shape == (2, 1000)
    assert model[:-3](images).shape == (2, 2048, 7, 7)


def test_initialization():
    torch.manual_seed(0)
    model = bottleneck_resnet((1, 1, 1, 1), 16, 7)
    assert model.layer4[0].conv2.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert not model.fc.bias.any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"blocks": (2, 2, 2)}, "four counts"),
        ({"blocks": (2, 0, 2, 2)}, "four counts"),
        ({"width": 0}, "width must be at least 1"),
        ({"classes": 1}, "classes must be at least 2"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(ValueError, match=says):
        bottleneck_resnet(**arguments)


def test_frozen_batch_norm_stays_in_evaluation_and_is_trained():
    model = bottleneck_resnet((1, 1, 1, 1), width=2, classes=3)
    x = torch.randn(4, 3, 32, 32)
    model(x)  # moves the statistics
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model.eval()(x)
    frozen = freeze_batch_norm(model).train()
    assert frozen is model
    assert frozen.training
    output = frozen(x)
    assert torch.equal(output, expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
    output.sum().backward()
    norms = [m for m in frozen.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.weight.grad is not None and not m.training for m in norms)
