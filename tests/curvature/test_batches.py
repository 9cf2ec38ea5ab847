"""Batches that are dictionaries and losses that models compute themselves, against pairs and a loss function."""

from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import (
    GaussNewton,
    Hessian,
    Monitor,
    along_line,
    average_sharpness,
    m_sharpness,
    sharpness,
    stability,
)
from tests.curvature.test_hessian import data, small

Output = namedtuple("Output", ["loss", "logits"])


class Named(nn.Module):
    """A model as Hugging Face's are: arguments by name, the loss from labels."""

    def __init__(self, kind=dict):
        super().__init__()
        self.net, self.kind = small(), kind

    def forward(self, pixels, labels=None, scale=None):
        logits = self.net(pixels if scale is None else pixels * scale)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if self.kind is dict else Output(loss, logits)


def named(x, y):
    return UserDict(pixels=x, labels=y)


PAIRS = [(x, y) for x, y in zip(*(part.split([4, 3]) for part in data()), strict=True)]
NAMED = [named(x, y) for x, y in PAIRS]


@pytest.mark.parametrize("kind", [dict, Output])
def test_products_and_eigenpairs(kind):
    theirs, (x, y) = Hessian(small(), F.cross_entropy, PAIRS), data()
    v = torch.randn(26, 2, dtype=torch.float64)
    own = Hessian(Named(kind), None, NAMED)
    assert torch.equal(own @ v, theirs @ v)
    assert torch.equal(own.eigenpairs(2).values, theirs.eigenpairs(2).values)
    logits = (lambda out: out["logits"]) if kind is dict else (lambda out: out.logits)
    given = Hessian(Named(kind), lambda out, batch: F.cross_entropy(logits(out), batch["labels"]), NAMED)
    assert torch.equal(given @ v, theirs @ v)
    matrix = GaussNewton(Named(kind), lambda out, batch: F.cross_entropy(logits(out), batch["labels"]), NAMED)
    assert torch.allclose(matrix @ v, GaussNewton(small(), F.cross_entropy, PAIRS) @ v, atol=1e-12)
    scaled = Hessian(Named(kind), None, [{**named(x, y), "scale": torch.tensor(2.0)}])
    assert torch.allclose(scaled @ v, Hessian(small(), F.cross_entropy, [(2 * x, y)]) @ v)


def test_every_instrument_takes_them():
    ours, theirs = Named(), small()
    assert (
        stability(ours, None, NAMED, lr=0.1, rho=0.1).loss
        == stability(theirs, F.cross_entropy, PAIRS, lr=0.1, rho=0.1).loss
    )
    for measure in (sharpness, m_sharpness, average_sharpness):
        found, expected = measure(ours, None, NAMED, 0.1), measure(theirs, F.cross_entropy, PAIRS, 0.1)
        assert float(found) == float(expected)
    line = along_line(ours, ours, None, NAMED, points=[0, 1])
    assert line.loss == along_line(theirs, theirs, F.cross_entropy, PAIRS, points=[0, 1]).loss
    record = Monitor(torch.optim.SGD(ours.parameters(), lr=0.1), ours, None, NAMED).check()
    assert record["converged"]
    with pytest.raises(TypeError, match="two tensors"):
        sharpness(ours, None, NAMED, 0.1, 2)


def test_what_a_batch_counts():
    x, y = data()
    masked = [named(x[:4], torch.tensor([0, -100, 1, -100])), named(x[4:], y[4:])]
    with pytest.raises(ValueError, match="some labels are ignored"):
        Hessian(Named(), None, masked) @ torch.ones(26)
    with pytest.raises(ValueError, match=r'batch\["labels"\]\[:, 1:\] where the model shifts them'):
        Hessian(Named(), None, masked).eigenpairs()
    counted = Hessian(Named(), None, masked, weight=lambda batch, _: (batch["labels"] != -100).sum())
    kept = [0, 2, 4, 5, 6]
    whole = Hessian(small(), F.cross_entropy, [(x[kept], torch.tensor([0, 1, *y[4:].tolist()]))])
    v = torch.randn(26, dtype=torch.float64)
    assert torch.allclose(counted @ v, whole @ v)
    with pytest.raises(TypeError, match=r"lengths \[2, 7\]"):
        Hessian(Named(), None, [{"pixels": x, "labels": y, "scale": torch.ones(2)}]) @ v


def test_refusals():
    x, _ = data()
    v = torch.ones(26)
    with pytest.raises(ValueError, match="the model gave no loss but a dict"):
        Hessian(Named(), None, [{"pixels": x}]) @ v
    with pytest.raises(ValueError, match="gave no loss but a Tensor"):
        Hessian(small(), None, PAIRS) @ v
    with pytest.raises(TypeError, match="or of dictionaries"):
        Hessian(Named(), None, [x]) @ v
    with pytest.raises(TypeError, match="needs the loss as a function"):
        GaussNewton(Named(), None, NAMED)
    with pytest.raises(ValueError, match="a loss that the model has computed"):
        GaussNewton(Named(), lambda out, batch: out["loss"], NAMED) @ v


def test_a_model_of_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    configuration = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    model = transformers.BertForSequenceClassification(configuration).double().eval()
    batch = transformers.BatchEncoding(
        {"input_ids": torch.randint(20, (5, 6)), "attention_mask": torch.ones(5, 6), "labels": torch.arange(5) % 3}
    )
    H = Hessian(model, None, [batch])
    pairs = H.eigenpairs(tol=1e-6)
    assert pairs.converged, pairs.reason
    given = Hessian(model, lambda out, batch: F.cross_entropy(out.logits, batch["labels"]), [batch])
    v = torch.randn(H.shape[0], dtype=torch.float64)
    assert torch.allclose(H @ v, given @ v)


def test_pairs_with_ignored_labels_say_what_they_count():
    """Cross-entropy is a mean over the others, and would be weighted by all."""
    model, loss = nn.Linear(3, 2).double(), nn.functional.cross_entropy
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, -100, -100, -100])
    parts = [(x[:4], y[:4]), (x[4:], y[4:])]
    with pytest.raises(ValueError, match=r"weight=, lambda x, y: \(y != -100\)\.sum\(\)"):
        Hessian(model, loss, parts).eigenpairs()
    counted, whole = (
        Hessian(model, loss, batches, weight=lambda x, y: (y != -100).sum()) for batches in (parts, [(x, y)])
    )
    v = torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(counted @ v, whole @ v)
