"""Layers under autocast, against the loop: apart by the rounding of 16 bits, no more."""

import pytest
import torch
from torch import nn

from ..against_the_loop import by_both, relative_error

WIDTH, SYMBOLS = 16, 500


class Reader(nn.Module):
    """Words, a layer, what ``use`` makes of it, and the mean of its squares."""

    def __init__(self, use):
        super().__init__()
        torch.manual_seed(0)
        self.use = use
        self.words, self.first = nn.Embedding(SYMBOLS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.w, self.b = nn.Parameter(torch.randn(WIDTH, WIDTH) / 4), nn.Parameter(torch.randn(WIDTH))
        self.lstm, self.gru = (kind(WIDTH, WIDTH, batch_first=True) for kind in (nn.LSTM, nn.GRU))
        self.wider = nn.ConvTranspose1d(WIDTH, WIDTH, 3, 2)
        self.out = nn.Linear(WIDTH, SYMBOLS, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens):
        y = self.use(self, self.first(self.words(tokens)))
        return y.flatten(1).float().square().mean(1)


USES = {
    "addmm": lambda net, h: torch.addmm(net.b, h.flatten(0, 1), net.w).view(h.shape),
    "matmul": lambda net, h: h @ net.w,
    "lstm": lambda net, h: net.lstm(h)[0],
    "gru": lambda net, h: net.gru(h)[0],
    "transposed convolution": lambda net, h: net.wider(h.mT),
    "words, tied": lambda net, h: net.out(h),
    "sequence first": lambda net, h: net.first(h.transpose(0, 1)).transpose(0, 1),
}


@pytest.mark.parametrize("use", USES)
def test_rounding_alone(use):
    model, tokens = Reader(USES[use]), torch.randint(SYMBOLS, (8, 6), generator=torch.Generator().manual_seed(0))

    def losses():
        with torch.autocast("cpu", torch.bfloat16):
            return model(tokens)

    (ours, _), (theirs, _), optimizer = by_both(model, losses, 2)
    assert optimizer._own.engine.reason is None
    assert relative_error(ours, theirs) < 0.02
