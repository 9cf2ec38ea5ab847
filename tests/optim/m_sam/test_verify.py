"""Every registered rule against autograd, and rules of one's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.optim import m_sam, verify_rule
from lowland.optim.m_sam import expert_linear
from lowland.optim.m_sam.layers import products, recurrent

from .against_the_loop import assert_exact


class Times(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x @ self.weight


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 2))

    def forward(self, x, experts):
        return expert_linear(x, experts, self.weight)


EXAMPLES = {
    F.linear: [(nn.Linear(4, 3), torch.randn(5, 4)), (nn.Linear(4, 3, bias=False), torch.randn(5, 6, 4))],
    F.conv1d: [(nn.Conv1d(2, 3, 3), torch.randn(5, 2, 8))],
    F.conv2d: [(nn.Conv2d(2, 4, 3, stride=2, groups=2), torch.randn(5, 2, 8, 8))],
    F.conv3d: [(nn.Conv3d(2, 3, 2), torch.randn(5, 2, 3, 3, 3))],
    F.conv_transpose1d: [(nn.ConvTranspose1d(2, 3, 3, 2, 1, 1), torch.randn(5, 2, 4))],
    F.conv_transpose2d: [
        (nn.ConvTranspose2d(2, 4, 3, stride=2, groups=2, dilation=2), torch.randn(5, 2, 3, 4)),
        (nn.ConvTranspose2d(3, 2, 1, bias=False), torch.randn(4, 3, 3, 3)),
    ],
    F.conv_transpose3d: [(nn.ConvTranspose3d(2, 3, 2), torch.randn(5, 2, 2, 3, 2))],
    F.layer_norm: [(nn.LayerNorm(4), torch.randn(5, 2, 4))],
    F.rms_norm: [(nn.RMSNorm(4), torch.randn(5, 2, 4))],
    F.group_norm: [(nn.GroupNorm(2, 4), torch.randn(5, 4, 3))],
    F.batch_norm: [(nn.BatchNorm1d(4).eval(), torch.randn(5, 4)), (nn.BatchNorm2d(3), torch.randn(5, 3, 2, 2))],
    F.embedding: [(nn.Embedding(7, 3), torch.randint(7, (5, 4))), (nn.Embedding(90, 3), torch.randint(90, (5, 2)))],
    products.product: [(Times(), torch.randn(5, 4)), (Times(), torch.randn(5, 2, 4))],
    products.outer_product: [(nn.Bilinear(4, 2, 3), (torch.randn(5, 4), torch.randn(5, 2)))],
    expert_linear: [
        (Expert(), (torch.randn(5, 2), torch.tensor([0, 2, 2, 3, 0]))),
        (Expert(), (torch.randn(5, 3, 2), torch.randint(3, (5, 3)))),
    ],
    recurrent.recurrence: [(nn.GRUCell(4, 3), torch.randn(5, 4)), (nn.RNNCell(4, 3, bias=False), torch.randn(5, 4))],
}


def test_every_rule_has_an_example():
    assert set(EXAMPLES) == {function for function in m_sam.RULES if not isinstance(function, type)}


@pytest.mark.parametrize("function", EXAMPLES, ids=lambda f: f.__name__)
def test_rules_agree_with_autograd(function):
    for layer, example in EXAMPLES[function]:
        assert verify_rule(layer, example) < 1e-12


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(3))

    def forward(self, x):
        return Multiply.apply(x, self.gain)


@m_sam.row_wise
class Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain):
        ctx.save_for_backward(x, gain)
        return x * gain

    @staticmethod
    def backward(ctx, d):
        x, gain = ctx.saved_tensors
        return d * gain, (d * x).sum(0)


class OfRows(m_sam.Rule):
    arguments = ("x", "gain")

    def first(self, use, watch):
        return use.x * watch.rows(use.gain, len(use.x))

    perturbed = first


class FromDerivatives(m_sam.Rule):
    arguments = ("x", "gain")

    def pieces(self, use, activations, output_gradients, groups):
        return {"gain": m_sam.Built(groups.sums(activations * output_gradients))}

    def perturbed(self, use, watch):
        return use.x * watch.rows(use.gain, len(use.x))


class Wrong(FromDerivatives):
    def pieces(self, use, activations, output_gradients, groups):
        return {"gain": m_sam.Built(2 * groups.sums(output_gradients))}


@pytest.fixture(autouse=True)
def _registry():
    before = dict(m_sam.RULES)
    yield
    m_sam.RULES.clear()
    m_sam.RULES.update(before)


@pytest.mark.parametrize("kind", [OfRows, FromDerivatives])
def test_a_rule_of_ones_own(kind):
    layer, x = Gain(), torch.randn(5, 3)
    with pytest.raises(ValueError, match="no rule covers Gain"):
        verify_rule(layer, x)
    assert m_sam.rule(Gain)(kind) is kind
    assert verify_rule(layer, x) < 1e-12
    model = nn.Sequential(nn.Linear(3, 3), Gain(), nn.Tanh(), Gain()).double()
    assert_exact(model, lambda: model(x.double()).square().sum(1), 2)
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_a_wrong_rule_of_ones_own():
    m_sam.rule(Gain)(Wrong)
    with pytest.raises(ValueError, match="its own rule for Gain and autograd differ"):
        verify_rule(Gain(), torch.randn(5, 3))
