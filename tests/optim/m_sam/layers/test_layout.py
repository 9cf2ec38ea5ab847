"""Dropout draws in the order of memory: what layers give of images lies as without the passes, however those lie."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from ..against_the_definition import assert_silent
from ..against_the_loop import assert_exact
from ..networks import rand

LIE = {
    "in order": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "from a product": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "part of the channels": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "one behind the other": lambda x: torch.stack([x, x], -1)[..., 0],
    "all alike": lambda x: x[:, :1].expand_as(x),
}
#: Of so many channels.
LAYERS = {
    "one by one": lambda c: nn.Conv2d(c, 3, 1),
    "one by one, every second": lambda c: nn.Conv2d(c, 3, 1, stride=2),
    "patches": lambda c: nn.Conv2d(c, 2, 2, bias=False),
    "channel by channel": lambda c: nn.Conv2d(c, c, 2, groups=c),
    "transposed": lambda c: nn.ConvTranspose2d(c, 2, 2),
    "weight norm": lambda c: weight_norm(nn.Conv2d(c, 3, 1)),
    "weight norm of columns": lambda c: weight_norm(nn.Conv2d(c, 3, 2), dim=1),
    "group norm": lambda c: nn.GroupNorm(1, c),
    "batch norm": lambda c: nn.BatchNorm2d(c).eval(),
}


class Dropping(nn.Module):
    """Dropout after a layer of images."""

    def __init__(self, layer, lie, weights_last):
        super().__init__()
        self.layer, self.lie = layer.double(), LIE[lie]
        if weights_last:
            self.layer.to(memory_format=torch.channels_last)

    def forward(self, x):
        torch.manual_seed(0)
        y = self.layer(self.lie(x.requires_grad_()))  # without, torch's own group norm crashes with channels last
        return (F.dropout(y, 0.5) + y.sin()).flatten(1).square().sum(1)


@pytest.mark.parametrize("weights_last", [False, True])
@pytest.mark.parametrize("lie", LIE)
@pytest.mark.parametrize("layer", LAYERS)
def test_dropout_after_a_layer(layer, lie, weights_last):
    for examples, channels, pixels, m in ((3, 1, 3, 2), (3, 2, 3, 1), (1, 2, 3, 1)):
        torch.manual_seed(1)
        model, x = Dropping(LAYERS[layer](channels), lie, weights_last), rand(examples, channels, pixels, pixels)
        assert_silent(model, lambda model=model, x=x: model(x), m, audit=False)


class Turned(nn.Module):
    """A layer of sequences between dropouts, whose input lies with the channels last."""

    def __init__(self, layer, channels_last):
        super().__init__()
        self.layer, self.channels_last = layer.double(), channels_last

    def forward(self, x):
        torch.manual_seed(0)
        found = self.layer(F.dropout(x.mT.contiguous().mT if self.channels_last else x, 0.1))
        y = found[0] if isinstance(found, tuple) else found
        return (F.dropout(y, 0.5) + y.sin()).flatten(1).square().sum(1)


SEQUENCES = {
    "one by one": lambda: nn.Conv1d(3, 2, 1),
    "convolution": lambda: nn.Conv1d(3, 2, 2),
    "transposed": lambda: nn.ConvTranspose1d(3, 2, 2),
    "weight norm": lambda: weight_norm(nn.Conv1d(3, 2, 1)),
    "group norm": lambda: nn.GroupNorm(1, 3),
    "batch norm": lambda: nn.BatchNorm1d(3).eval(),
    "gru": lambda: nn.GRU(4, 3, batch_first=True),
    "lstm": lambda: nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True, dropout=0.3),
}


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("layer", SEQUENCES)
def test_dropout_after_a_layer_of_sequences(layer, channels_last, m):
    torch.manual_seed(1)
    model, x = Turned(SEQUENCES[layer](), channels_last), rand(3, 3, 4)
    assert_silent(model, lambda: model(x), m, audit=False)


@pytest.mark.parametrize("options", [{}, {"memory_limit": 100}], ids=str)
@pytest.mark.parametrize("lie", LIE)
def test_dropout_after_batch_norm_in_training(lie, options):
    for channels in (1, 2):
        model, x = Dropping(nn.BatchNorm2d(channels), lie, weights_last=False), rand(4, channels, 3, 3)
        assert_exact(model, lambda model=model, x=x: model(x), 2, audit=False, **options)


@pytest.mark.parametrize("layer", LAYERS)
def test_dropout_in_parts(layer):
    for lie in LIE:
        torch.manual_seed(1)
        model, x = Dropping(LAYERS[layer](2), lie, weights_last=False), rand(4, 2, 3, 3)
        assert_exact(model, lambda model=model, x=x: model(x), 1, audit=False, memory_limit=1)


def test_dropout_after_volumes_with_channels_last():
    """In float32: there torch has such convolutions."""
    torch.manual_seed(1)
    layer = nn.Conv3d(2, 3, 2)
    x = torch.randn(3, 2, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d)

    def losses():
        torch.manual_seed(0)
        return F.dropout(layer(x), 0.5).flatten(1).square().sum(1)

    assert_exact(layer, losses, 1, tolerance=1e-5, audit=False)


@pytest.mark.parametrize("dim", range(-2, 2))
def test_weight_norm_with_dimensions_from_the_end(dim):
    torch.manual_seed(0)
    model, x = nn.Sequential(weight_norm(nn.Linear(3, 4), dim=dim), nn.Tanh()).double(), rand(4, 3)
    assert_silent(model, lambda: model(x).square().sum(1), 1, audit=False)
