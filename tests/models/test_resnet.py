"""The residual networks against a textbook forward, their layout, and what they run under."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lowland.models import preact_resnet, resnet


def layout(prefix, inputs, outputs, kernel):
    return {f"{prefix}.weight": (outputs, inputs, kernel, kernel)}


def norm_layout(prefix, channels, norm):
    entries = {"weight": (channels,), "bias": (channels,)}
    if norm == "batch":
        entries |= {"running_mean": (channels,), "running_var": (channels,), "num_batches_tracked": ()}
    return {f"{prefix}.{name}": shape for name, shape in entries.items()}


def expected(blocks, width, outputs, norm, preact):
    """Names and shapes, in order."""
    names = layout("conv1", 3, width, 3) | ({} if preact else norm_layout("bn1", width, norm))
    inputs = width
    for stage, count in enumerate(blocks):
        channels = width * 2**stage
        for i in range(count):
            at = f"layer{stage + 1}.{i}"
            convolutions = [(f"{at}.conv1", inputs, channels), (f"{at}.conv2", channels, channels)]
            for number, (name, before, after) in enumerate(convolutions, 1):
                norms = norm_layout(f"{at}.bn{number}", before if preact else after, norm)
                names |= norms | layout(name, before, after, 3) if preact else layout(name, before, after, 3) | norms
            if inputs != channels:
                names |= layout(f"{at}.shortcut.0", inputs, channels, 1)
                names |= {} if preact else norm_layout(f"{at}.shortcut.1", channels, norm)
            inputs = channels
    names |= norm_layout("bn", inputs, norm) if preact else {}
    return list((names | {"linear.weight": (outputs, inputs), "linear.bias": (outputs,)}).items())


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (preact_resnet(width=4), expected((2, 2, 2, 2), 4, 10, "batch", preact=True)),
        (preact_resnet((3, 4, 6, 3), 2, 100, "group"), expected((3, 4, 6, 3), 2, 100, "group", preact=True)),
        (preact_resnet((1, 1, 1, 1), 2, 2), expected((1, 1, 1, 1), 2, 1, "batch", preact=True)),
        (resnet(width=3), expected((3, 4, 6, 3), 3, 100, "batch", preact=False)),
        (resnet((1, 2, 1, 1), 3, 2), expected((1, 2, 1, 1), 3, 2, "batch", preact=False)),
    ],
)
def test_names_and_shapes(model, wanted):
    assert [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()] == wanted


def convolved(x, weight, stride):
    """A sum over the kernel's pixels, zeros around the image."""
    size, kernel = x.shape[-1], weight.shape[-1]
    x = F.pad(x, [kernel // 2] * 4)
    return sum(
        torch.einsum("nihw,oi->nohw", x[:, :, r : r + size : stride, c : c + size : stride], weight[:, :, r, c])
        for r in range(kernel)
        for c in range(kernel)
    )


def normalized(x, p, at, groups):
    """In training mode."""
    if groups is None:
        over, parts = (0, 2, 3), x
    else:
        over, parts = (2, 3, 4), x.unflatten(1, (groups, -1))
    variance = parts.var(over, correction=0, keepdim=True)
    parts = (parts - parts.mean(over, keepdim=True)) / (variance + 1e-5).sqrt()
    return parts.view_as(x) * p[f"{at}.weight"].view(-1, 1, 1) + p[f"{at}.bias"].view(-1, 1, 1)


def preact_block(x, p, at, stride, groups):
    a = normalized(x, p, f"{at}.bn1", groups).relu()
    shortcut = convolved(a, p[f"{at}.shortcut.0.weight"], stride) if f"{at}.shortcut.0.weight" in p else x
    b = normalized(convolved(a, p[f"{at}.conv1.weight"], stride), p, f"{at}.bn2", groups).relu()
    return shortcut + convolved(b, p[f"{at}.conv2.weight"], 1)


def postact_block(x, p, at, stride, groups):
    a = normalized(convolved(x, p[f"{at}.conv1.weight"], stride), p, f"{at}.bn1", groups).relu()
    b = normalized(convolved(a, p[f"{at}.conv2.weight"], 1), p, f"{at}.bn2", groups)
    if f"{at}.shortcut.0.weight" in p:
        x = normalized(convolved(x, p[f"{at}.shortcut.0.weight"], stride), p, f"{at}.shortcut.1", groups)
    return (x + b).relu()


def textbook(x, p, blocks, groups, preact):
    x = convolved(x, p["conv1.weight"], 1)
    x = x if preact else normalized(x, p, "bn1", groups).relu()
    block = preact_block if preact else postact_block
    for stage, count in enumerate(blocks):
        for i in range(count):
            x = block(x, p, f"layer{stage + 1}.{i}", 2 if stage and not i else 1, groups)
    x = normalized(x, p, "bn", groups).relu() if preact else x
    logits = x.mean((2, 3)) @ p["linear.weight"].T + p["linear.bias"]
    return torch.cat([torch.zeros(len(x), 1), logits], dim=1) if logits.shape[1] == 1 else logits


def scattered(model):
    """In float64, with nothing left at 0 or 1 that would hide a mistake."""
    torch.manual_seed(0)
    for p in model.double().parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model


@pytest.mark.parametrize(
    ("model", "blocks", "groups", "preact"),
    [
        (preact_resnet((2, 1, 1, 2), 4, 3), (2, 1, 1, 2), None, True),
        (preact_resnet((1, 2, 1, 1), 4, 3, "group"), (1, 2, 1, 1), 2, True),
        (preact_resnet((1, 1, 1, 1), 4, 2), (1, 1, 1, 1), None, True),
        (resnet((2, 1, 1, 2), 3, 3), (2, 1, 1, 2), None, False),
    ],
)
def test_textbook(model, blocks, groups, preact):
    model, x = scattered(model), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(x), textbook(x, dict(model.named_parameters()), blocks, groups, preact))


def test_resnet18_is_of_the_size_that_the_paper_trains():
    model = preact_resnet()
    # A stage of c channels: 3 x 3 convolutions c/2 -> c and three times c -> c, a shortcut c/2 -> c, four norms.
    parameters = 3 * 64 * 9 + 4 * 64 * 64 * 9 + 4 * 2 * 64 + 2 * 512 + 512 * 10 + 10
    products = 32**2 * (3 * 64 * 9 + 4 * 64 * 64 * 9) + 512 * 10
    for c, side in ((128, 16), (256, 8), (512, 4)):
        convolutions = 9 * (c * c // 2 + 3 * c * c) + c * c // 2
        parameters += convolutions + 2 * (c // 2 + 3 * c)
        products += side**2 * convolutions
    assert sum(p.numel() for p in model.parameters()) == parameters == 11_172_170
    with torch.device("meta"):
        model, x = preact_resnet(), torch.empty(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() == 2 * 2 * products == 2 * 2 * 555_422_720  # a product and a sum, two images


def test_initialization():
    torch.manual_seed(0)
    model = preact_resnet((1, 1, 1, 1), 32)
    weight = model.layer4[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    assert model.layer4[0].shortcut[0].weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert weight.abs().max() > 4 * weight.std()  # normal, not uniform
    assert model.linear.weight.abs().max() <= 256**-0.5
    assert not model.linear.bias.any()
    assert (model.bn.weight == 1).all()
    assert not model.bn.bias.any()


@given(
    side=st.sampled_from([8, 16, 24]),
    wide=st.sampled_from([8, 16, 40]),
    width=st.integers(1, 3),
    classes=st.integers(2, 5),
    make=st.sampled_from([preact_resnet, resnet]),
)
@settings(max_examples=15, deadline=None)
def test_any_size(side, wide, width, classes, make):
    assert make((1, 2, 1, 1), width, classes)(torch.randn(2, 3, side, wide)).shape == (2, classes)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: preact_resnet((1, 1, 1, 1), 4, norm="group"), lambda: resnet((1,) * 4, 4)])
def test_channels_last_autocast_and_compiled(make):
    model, x = make(), torch.randn(4, 3, 16, 16)
    wanted = model(x)
    torch.testing.assert_close(
        copy.deepcopy(model).to(memory_format=torch.channels_last)(x), wanted, rtol=1e-3, atol=1e-4
    )
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), wanted, rtol=1e-3, atol=1e-4)
    compiled(x).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), wanted, rtol=0.1, atol=0.1)


def test_a_stack_of_networks():
    models = [preact_resnet((1, 1, 1, 1), 4, 2, "group") for _ in range(3)]
    x, y = torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
    params, _ = torch.func.stack_module_state(models)

    def loss(params):
        return F.cross_entropy(torch.func.functional_call(models[0], params, (x,)), y)

    gradients = torch.func.vmap(torch.func.grad(loss))(params)
    for i, model in enumerate(models):
        F.cross_entropy(model(x), y).backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(gradients[name][i], p.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"width": 5, "norm": "group"}, "width must be even"),
        ({"norm": "layer"}, '"batch" or "group"'),
        ({"blocks": (2, 2, 2)}, "four counts"),
        ({"blocks": (2, 0, 2, 2)}, "four counts"),
        ({"width": 0}, "width must be at least 1"),
        ({"classes": 1}, "classes must be at least 2"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(ValueError, match=says):
        preact_resnet(**arguments)
    if "norm" not in arguments:
        with pytest.raises(ValueError, match=says):
            resnet(**arguments)
