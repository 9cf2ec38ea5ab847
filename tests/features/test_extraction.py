"""Features against activations computed by hand, and the state of the model before and after."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.features import extract
from lowland.models import mlp, preact_resnet, strided_cnn


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=3, max_size=5),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from(["x", "pair", "list", "triple"]),
)
def test_hidden_layers_of_a_perceptron(widths, sizes, kind):
    torch.manual_seed(0)
    model = mlp(widths).double()
    parts = [inputs(n, widths[0], seed=n).double() for n in sizes]
    form = {"x": lambda x: x, "pair": lambda x: (x, None), "list": lambda x: [x, 0], "triple": lambda x: (x, 0, 1)}
    hidden = torch.cat(parts)
    linear = [module for module in model if isinstance(module, nn.Linear)]
    for layer in linear[:-1]:
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    found = extract(model, [form[kind](x) for x in parts])
    assert found.shape == (sum(sizes), widths[-2])
    assert not found.requires_grad
    torch.testing.assert_close(found, hidden)


def test_every_layer_of_a_convolutional_network():
    model, x = strided_cnn(16, 8, 2), inputs(5, 3, 16, 8)
    x_at = x
    for name, module in model.named_children():
        x_at = module(x_at)
        found = extract(model, x.split(2), name)
        torch.testing.assert_close(found, x_at.flatten(1))
    torch.testing.assert_close(extract(model, x.split(2)), extract(model, [x], "6"))


def test_before_the_last_linear_layer_whatever_follows_it():
    model, x = preact_resnet((1, 1, 1, 1), width=2, classes=2), inputs(3, 3, 32, 32)
    assert extract(model, [x]).shape == (3, 16)
    torch.testing.assert_close(extract(model, [x]), extract(model, [x], "flatten"))


def test_one_number_for_each_example_is_one_feature():
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0), nn.Identity())
    x = inputs(3, 4)
    torch.testing.assert_close(extract(model, [x], "2"), model[0](x))


def test_the_next_layer_may_work_in_place():
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)), inputs(6, 4)
    torch.testing.assert_close(extract(model, [x], "0"), model[0](x))


def test_linear_called_by_keyword():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(input=self.first(x))

    model, x = Named(), inputs(6, 4)
    torch.testing.assert_close(extract(model, [x]), model.first(x))


def noisy():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.ReLU(), nn.Linear(5, 2))


def test_evaluation_mode_and_no_trace():
    model, x = noisy(), inputs(7, 4)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    loader = torch.utils.data.DataLoader(list(x), batch_size=2)
    random = torch.get_rng_state()
    found = extract(model, loader)
    assert torch.equal(random, torch.get_rng_state())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    normalized = (model[0](x) - model[1].running_mean) / (model[1].running_var + model[1].eps).sqrt()
    torch.testing.assert_close(found, F.relu(normalized).detach())


def test_no_trace_after_an_error():
    model = noisy()
    with pytest.raises(RuntimeError):
        extract(model, [inputs(2, 4), inputs(2, 3)])
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.slow
def test_compiled_and_wrapped_models_are_looked_into():
    model, x = mlp([4, 3, 2]), inputs(5, 4)
    expected = extract(model, [x])
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        torch.testing.assert_close(extract(wrapped, [x]), expected)
        torch.testing.assert_close(extract(wrapped, [x], "2"), expected)
    compiled_in_place = mlp([4, 3, 2])
    compiled_in_place.load_state_dict(model.state_dict())
    compiled_in_place.compile()
    torch.testing.assert_close(extract(compiled_in_place, [x]), expected)


class Twice(nn.Module):
    """One activation between all layers, and layers that nobody calls or that give no tensor."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([4, 3, 3, 2]))
        self.activation, self.unused = nn.ReLU(), nn.ReLU()
        self.recurrent, self.sum = nn.GRU(4, 2), nn.Module()
        self.sum.forward = lambda x: x.sum()
        self.turned = nn.Module()
        self.turned.forward = lambda x: x.T

    def forward(self, x):
        self.recurrent(x)
        self.sum(x)
        self.turned(x)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("layers.11", "no layer 'layers.11'. Did you mean layers.1?"),
        ("activation", "'activation' runs 2 times"),
        ("unused", "'unused' runs 0 times"),
        ("recurrent", "'recurrent' gives a tuple"),
        ("sum", r"'sum' gives \(\) for 5 examples"),
        ("turned", r"'turned' gives \(4, 5\) for 5 examples"),
    ],
)
def test_refused_layers(layer, says):
    with pytest.raises(ValueError, match=says) as error:
        extract(Twice(), [inputs(5, 4)], layer)
    assert "\n" not in str(error.value)


def test_refusals():
    model, x = mlp([4, 3, 2]), inputs(5, 4)
    with pytest.raises(TypeError, match="not a generator"):
        extract(model, (part for part in [x]))
    with pytest.raises(TypeError, match="not a tensor"):
        extract(model, x)
    with pytest.raises(TypeError, match="with a tensor x, not dict"):
        extract(model, [{"x": x}])
    with pytest.raises(ValueError, match="no examples"):
        extract(model, [])
    with pytest.raises(ValueError, match="no linear layer"):
        extract(nn.Sequential(nn.Conv2d(3, 2, 1)), [inputs(5, 3, 2, 2)])
