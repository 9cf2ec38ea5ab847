"""Closures that somebody found who only wanted a wrong gradient: each is right without the audit."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .against_the_definition import check, optimizer_of
from .networks import rand

B = 4
X = rand(B, B, B)


class Subclass(torch.Tensor):
    pass


class Parts(nn.Module):
    """What the closures take: parameters of shapes that a batch may have."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(B, B), nn.Linear(B, B), nn.Linear(B, 3)
        self.conv, self.prelu = nn.Conv1d(B, B, 1), nn.PReLU()
        self.mha = nn.MultiheadAttention(B, 2)
        self.p, self.q = nn.Parameter(torch.randn(B)), nn.Parameter(torch.randn(B, B))
        self.memory = nn.Parameter(torch.zeros(B, B), requires_grad=False)
        self.register_buffer("static", torch.zeros(B, B))

    def losses(self, h):
        return F.cross_entropy(self.out(h if h.ndim == 2 else h.mean(1)), torch.arange(B) % 3, reduction="none")


def itself(h):
    return F.conv1d(h, h).squeeze(2)


def shifted():
    index = torch.arange(B)
    index[1:] -= 1
    return index


def remembered(m):
    h = m.a(X[0]).tanh()
    m.memory.data.copy_(h.detach().mean(0).expand(B, B))
    return h + m.memory * m.q


def filled_twice(m):
    with torch.no_grad():
        m.static.copy_(X[1])
        target = m.b(m.a(m.static))
        m.static.copy_(X[0])
    return m.b(m.a(m.static)) - target


def in_inference_mode(m):
    with torch.inference_mode():
        factor = m.a(X).transpose(0, 1).flatten(1).sum(1)
    return m.a(X[0]) * factor.clone()[:, None]


def detr(m):
    queries = m.q.unsqueeze(1).repeat(1, B, 1)
    return m.mha(queries, X, X)[0].transpose(0, 1)


def hooked(m):
    h = m.a(X[0]).tanh()
    h.grad_fn.register_prehook(lambda d: (d[0] - d[0].mean(0),))
    return h


def activated(view):
    def losses(m):
        h = m.a(m.p)
        kept = view(h)
        F.relu(h, inplace=True)
        return X[0] * kept

    return losses


# Hidden states of each; and whether the one pass may be taken.
CLOSURES = {
    "a number of all examples": (lambda m: m.a(X[0]) + m.p * m.a(X[0]).mean(), False),
    "counting, written to": (lambda m: m.a(X[0]) + m.a(X[0])[shifted()], False),
    "counting, as another type": (lambda m: m.a(X[0])[torch.arange(B // 2).view(torch.int32)], False),
    "a frozen parameter as a memory": (remembered, False),
    "a tensor of another class": (lambda m: m.a(X[0]) + m.p * m.a(X[0]).mean(0).as_subclass(Subclass), False),
    "a parameter converted": (lambda m: m.a(X[0]) * torch.tanh(m.p).type(torch.float64), True),
    "a mask that depends on parameters": (lambda m: m.a(X[0]) * m.a(X[0])[m.a(X[0]).detach() > 0].numel(), False),
    "inference mode": (in_inference_mode, False),
    "values by apply_": (lambda m: m.a(X[0]) * m.a(X[0]).detach().apply_(lambda v: v + 1), False),
    "a hook of the graph": (hooked, False),
    "a buffer filled twice": (filled_twice, False),
    "in place, seen through ravel": (activated(torch.ravel), False),
    "in place, seen through dropout": (activated(lambda h: F.dropout(h, 0.5, False)), False),
    "channels shuffled in five dimensions": (
        lambda m: F.channel_shuffle(m.a(X).transpose(0, 1)[:, :, :, None, None], 2).flatten(2).transpose(0, 1),
        False,
    ),
    "queries that parameters give": (detr, False),
    "a mask that parameters give": (lambda m: m.mha(X, X, X, attn_mask=m.q * 2)[0], False),
    "random leaks": (lambda m: F.rrelu(m.a(X), training=True), False),
    "dropout of what lies transposed": (
        lambda m: F.dropout(torch.tanh(m.q.T.unsqueeze(0) + X.permute(2, 1, 0)), 0.5).mean(2),
        None,
    ),
    "a kernel of examples": (lambda m: itself(m.a(X)), False),
    "the class of losses": (lambda m: (m.a(X[0]) - m.a(X[0]).mean(0)).as_subclass(Subclass), False),
    "requires_grad changed": (lambda m: switched(m), False),
    "evaluation mode for a while": (lambda m: for_a_while(m), False),
    "batch norm as a function": (lambda m: F.batch_norm(m.a(X[0]), None, None, m.p, None, True), False),
}


def for_a_while(m):
    m.eval()
    scale = float(m.a(X[0]).detach().norm())
    h = m.b(X[0]) / scale
    m.train()
    return F.dropout(h, 0.5, m.training)


def switched(m):
    m.a.weight.requires_grad_(False)
    h = m.a(X[0])
    m.a.weight.requires_grad_(True)
    return m.b(h)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("name", CLOSURES)
def test_is_right_without_the_audit(name, m):
    torch.manual_seed(0)
    hidden, exact = CLOSURES[name]
    model = Parts().double()
    state = {n: b.clone() for n, b in model.state_dict().items()}

    def losses():
        torch.manual_seed(1)
        with torch.no_grad():
            for n in ("memory", "static"):
                getattr(model, n).copy_(state[n])
        return model.losses(hidden(model))

    said = check(model, optimizer_of(model, m, audit=False), losses, m)
    if exact is not None:
        assert any("group by group" in line for line in said) is not exact


def test_parameters_in_the_same_memory_go_by_the_loop():
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]).double()
    model[1].weight.data = model[0].weight.data
    optimizer = optimizer_of(model, audit=False)
    with pytest.warns(UserWarning, match="lie in the same memory"):
        optimizer.backward(lambda: model[1](model[0](X[0])).square().sum(1))


def test_batch_norm_used_twice_in_parts():
    def statistics(limit):
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(4)
        model = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 4), norm).double()
        optimizer = optimizer_of(model, 2, memory_limit=limit)
        optimizer.backward(lambda: model(rand(8, 4) + torch.arange(4)).square().sum(1))
        return dict(norm.named_buffers())

    torch.testing.assert_close(statistics(600), statistics(None))
