"""Scopes by what a module is and does."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import lowland
from lowland.optim import presets
from lowland.optim.scope import last_layer, normalization_layers

FAMILIES = {
    "plain": lambda layer: layer,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight norm, old": nn.utils.weight_norm,
    "bias, too": lambda layer: parametrize_by_doubling(layer, "weight", "bias"),
}


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def parametrize_by_doubling(layer, *names):
    for name in names:
        parametrize.register_parametrization(layer, name, Doubled())
    return layer


class LlamaRMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class ConvNextV2GRN(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.bias = nn.Parameter(torch.zeros(1, 1, 1, width))


class NormedLinear(nn.Linear):
    pass


class NormHead(nn.Linear):
    pass


class PreNormBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))
        self.inner = nn.Linear(4, 4)


class EnormousNormalHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


class FusedBatchNormAct(nn.BatchNorm2d):
    pass


class Adapter(nn.Module):
    """As peft wraps a layer."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(6, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 3, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def names(model, chosen):
    known = {p: name for name, p in model.named_parameters()}
    return sorted(known[p] for p in chosen)


@pytest.mark.parametrize("way", FAMILIES)
def test_the_last_layer_is_whole_however_it_is_parametrized(way):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), FAMILIES[way](nn.Linear(6, 6)))
    assert set(last_layer(model)) == set(model[2].parameters())


@pytest.mark.parametrize("way", [way for way in FAMILIES if way not in ("plain", "weight norm, old")])
def test_lsam_on_a_parametrized_last_layer_is_sam_on_that_layer(way):
    steps = []
    for build in (presets.LSAM, lambda base, model: lowland.SAM(base, 0.05, model=model, scope=model[2])):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), FAMILIES[way](nn.Linear(6, 6))).double()
        optimizer = build(torch.optim.SGD(model.parameters(), lr=0.1), model=model)
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).double()
        for evaluation in optimizer.passes():
            with evaluation:
                F.cross_entropy(model(x), torch.arange(8) % 6).backward()
        steps.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(steps[0], steps[1], rtol=0, atol=1e-15)


def test_the_last_layer_of_an_adapter_is_all_that_trains_in_it():
    model = nn.Sequential(nn.Linear(4, 6), Adapter(nn.Linear(6, 3)), nn.LayerNorm(3), ConvNextV2GRN(3))
    trained = [p for p in last_layer(model) if p.requires_grad]
    assert names(model, trained) == ["1.lora_A.default.weight", "1.lora_B.default.weight"]


def test_normalization_layers_are_those_that_normalize():
    model = nn.ModuleDict(
        {
            "layer": parametrizations.weight_norm(nn.LayerNorm(4)),
            "batch": nn.BatchNorm1d(4),
            "group": nn.GroupNorm(2, 4),
            "instance": nn.InstanceNorm1d(4, affine=True),
            "rms": nn.RMSNorm(4),
            "llama": LlamaRMSNorm(4),
            "grn": ConvNextV2GRN(4),
            "fused": FusedBatchNormAct(4),
            "script": torch.jit.script(nn.Sequential(nn.LayerNorm(4))),
            # And none:
            "parametrized": parametrizations.weight_norm(nn.Linear(4, 4)),
            "spectral": parametrizations.spectral_norm(nn.Linear(4, 4)),
            "normed": NormedLinear(4, 1),
            "head": NormHead(4, 4, bias=False),
            "block": PreNormBlock(),
            "enormous": EnormousNormalHead(),
        }
    )
    chosen = {name.partition(".")[0] for name in names(model, normalization_layers(model))}
    assert chosen == {"layer", "batch", "group", "instance", "rms", "llama", "grn", "fused", "script"}
    found = names(model, normalization_layers(model))
    assert [name for name in found if name.startswith("layer.")] == [
        "layer.bias",
        "layer.parametrizations.weight.original0",
        "layer.parametrizations.weight.original1",
    ]
    assert len(found) == 17


class UnusedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("freeze", [True, False])
def test_an_unused_head_that_is_registered_last_is_named(freeze):
    model, x, y = UnusedHead(), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    optimizer = presets.LSAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model, freeze=freeze)
    with pytest.raises(RuntimeError, match=r"last_layer chose unused\.bias, unused\.weight\. Hand scope="):
        optimizer.step(lambda: F.cross_entropy(model(x), y).backward())
    assert all(p.requires_grad for p in model.parameters())
    grouped = presets.LSAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model, freeze=freeze, m=2)
    with pytest.raises(RuntimeError, match=r"last_layer chose unused\.bias, unused\.weight"):
        grouped.step(lambda: F.cross_entropy(model(x), y, reduction="none"))
    with pytest.raises(ValueError, match=r"the logits depend on none of the parameters in scope, unused\.weight"):
        lowland.features.importance_weights(model, [(x, y)], 0.1, scope=last_layer)


def test_a_scope_without_the_optimizers_parameters_says_what_it_chose():
    model = UnusedHead()
    base = torch.optim.SGD(model.used.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"last_layer chose unused\.bias, unused\.weight: none of the optimizer's"):
        presets.LSAM(base, model=model)
    with pytest.raises(ValueError, match="normalization_layers chose no parameters: none of the optimizer's"):
        presets.SAMON(base, model=model)


@pytest.mark.parametrize("way", ["weight norm", "spectral norm"])
def test_phantom_weights_of_a_parametrized_last_layer(way):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), FAMILIES[way](nn.Linear(6, 3))).double()
    batch = torch.randn(8, 4).double(), torch.arange(8) % 3
    found = [lowland.features.importance_weights(model, [batch], 0.5, scope=scope) for scope in (last_layer, model[2])]
    assert torch.equal(found[0].phantom, found[1].phantom)
    assert not torch.equal(found[0].phantom, found[0].real)
