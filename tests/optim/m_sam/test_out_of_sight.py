"""Closures that do what no operation shows: each gradient is that of the definition, without the audit."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.dlpack import to_dlpack

from lowland.optim.m_sam import row_wise

from .against_the_definition import check, optimizer_of
from .networks import Centring, Clipped, on_the_way_back, rand

B = 4
X = rand(B, 6, 8)
TABLE = rand(6, 8)
SHARED = np.zeros(8)


class Parts(nn.Module):
    """What the closures take."""

    def __init__(self):
        super().__init__()
        self.lin, self.out = nn.Linear(8, 8), nn.Linear(8, 3)
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.q, self.scale = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.rand(8, 8) + 0.5)
        self.register_buffer("shared", torch.from_numpy(SHARED))

    def losses(self, h):
        return F.cross_entropy(self.out(h.mean(1)), torch.arange(B) % 3, reduction="none")


class Round(torch.autograd.Function):
    """To eighths, straight through."""

    @staticmethod
    def forward(ctx, w):
        return (w * 8).round() / 8

    @staticmethod
    def backward(ctx, d):
        return d


class Halved(torch.autograd.Function):
    """A product whose gradients are halved."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx, d):
        x, w = ctx.saved_tensors
        return d @ w / 2, d.flatten(0, -2).T @ x.flatten(0, -2) / 2


class Split(torch.autograd.Function):
    """Two results, the second without a gradient, and an argument that is no tensor."""

    @staticmethod
    def forward(ctx, w, levels):
        found = (w * levels).round()
        ctx.mark_non_differentiable(found)
        return found / levels, found

    @staticmethod
    def backward(ctx, d, _):
        return d.clamp(-1, 1), None


class Tied(torch.autograd.Function):
    """Takes its parameter from elsewhere."""

    @staticmethod
    def forward(ctx, x, w):
        return w * 2

    @staticmethod
    def backward(ctx, d):
        return d, None


class Doubled(torch.autograd.Function):
    """In place."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, d):
        return 3 * d


Scaled = row_wise(on_the_way_back("Scaled", lambda d: d / 2))  # which keeps the rows apart
rounded, centred, scaled = Round.apply, Centring.apply, Scaled.apply


def reentrant(function, *args):
    return checkpoint(function, *args, use_reentrant=True)


def by_hook(h):
    if h.requires_grad:
        h.register_hook(lambda d: d - d.mean(0))
    return h.tanh()


def by_hook_of_the_graph(h):
    h = h.tanh()
    if h.requires_grad:
        h.grad_fn.register_prehook(lambda d: (d[0] - d[0].mean(0),))
    return h


def where_gradients_are(h):
    return h.tanh() - h.mean(0) if torch.is_grad_enabled() else h.tanh()


def saved(m, unpack, pack=lambda t: t):
    h = m.lin(X)
    with saved_tensors_hooks(pack, unpack):
        return h * h


def of_all(t):
    return t.mean(0, keepdim=True).expand_as(t).contiguous() if t.shape == X.shape else t


def on_the_cpu(m):
    with save_on_cpu():
        return m.lin(X).square() * m.q


def in_a_thread(m, hand_over):
    h = m.lin(X).tanh()
    return h - hand_over(lambda: h.detach().mean(0))


def started(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def submitted(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def mapped(work):
    with ThreadPool(1) as pool:
        return pool.map(lambda _: work(), [None])[0]


WAITING = ThreadPoolExecutor(1)
POOL = ThreadPool(1)


def jagged(m):
    h = m.lin(X).tanh()
    with torch.no_grad():
        nested = torch.nested.nested_tensor_from_jagged(h.detach().reshape(B * 6, 8), torch.tensor([0, 10, 24]))
        centre = (nested * 2).values().mean(0) / 2
    return h - centre


class Wrapped(torch.Tensor):
    """Holds another tensor, which no operation says."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*[a.inner if isinstance(a, Wrapped) else a for a in args], **(kwargs or {}))


class Slotted(Wrapped):
    """Holds it where nobody looks."""

    def __init__(self, inner):
        self.held = lambda: inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*[a.held() if isinstance(a, Slotted) else a for a in args], **(kwargs or {}))


def wrapped(m, kind):
    h = m.lin(X).tanh()
    return h - kind(h.detach()).mean(0)


def from_text(text):
    words = "".join(c if c in "0123456789.-e" else " " for c in text).split()
    return sum(float(w) for w in words if any(c.isdigit() for c in w))


def split(m):
    h = m.lin(X).tanh()
    index = (h.detach().sum() * 3).long().abs().remainder(4).view(1) + 1
    return h * torch.tensor_split(X, index, 2)[0].shape[2]


def through_numpy(m):
    h = m.lin(X).tanh()
    with torch.no_grad():
        m.shared.copy_(h.mean((0, 1)))
    return h * torch.tensor(SHARED.tolist())


def kernel(m):
    """Stands for an extension that fills memory of its own."""
    h = m.lin(X).tanh()
    out = torch.empty(8, dtype=h.dtype)
    out.untyped_storage().copy_(copied(h.detach().mean((0, 1))))
    return h * out


def copied(t):
    with torch._C.DisableTorchFunction():
        return t.untyped_storage()


def deep(m):
    h = m.lin(X).tanh()
    return h - copy.deepcopy(h.detach()).mean(0)


def of_class(m):
    return m.lin(X) * (m.q if type(m.q) in (nn.Parameter, nn.Buffer) else m.q.detach())


def by_class(m):
    ways = {nn.Parameter: 2.0, torch.Tensor: 3.0}
    return m.lin(X) * ways[type(m.q)] + m.q.exp() * ways[m.q.exp().__class__] * ways[m.q.__class__]


def by_name(m):
    return m.lin(X) * len(type(m.q).__name__) + m.q.exp() * len(repr(type(m.q.exp())))


def quantized(m):
    weight = rounded(m.scale.tanh())
    return F.linear(X, rounded(m.lin.weight) * weight, Split.apply(m.lin.bias, 16.0)[0])


# Hidden states of each; and whether the one pass may be taken.
def with_number(m, use):
    """Hidden values beside what ``use`` makes of a number that depends on parameters."""
    h = m.lin(X)
    return h + use(h.detach().mean())


def sparse(n):
    return torch.sparse_coo_tensor([[0]], [n]).to_dense()


def written_at(n):
    table = TABLE.clone()
    table[[(n.abs() * 1e3).long() % 6]] = 3
    return table


class Rounded(TorchDispatchMode):
    """Rounds what linear layers take, by the largest entry of the batch."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.addmm.default:
            scale = args[1].abs().max() / 7
            args = (args[0], (args[1] / scale).round() * scale, args[2])
        return func(*args, **(kwargs or {}))


def under_a_mode(m):
    with Rounded():
        return m.lin(m.lin(X).tanh().flatten(0, 1)).view_as(X)


class Numbers:
    """A sequence that gives one number twice."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return 2

    def __getitem__(self, i):
        if i > 1:
            raise IndexError
        return self.number


def contracted(dim):
    return torch.tensordot(TABLE[:, :6], TABLE[:, :6].T.roll(1, 0), dims=torch.stack([dim[None], dim[None]]))[0, 0]


def packed(length):
    return len(pack_padded_sequence(TABLE[:, :1], length[None]).data)


CLOSURES = {
    "quantized weights": (quantized, True),
    "a function of autograd's own with rows": (lambda m: Halved.apply(X, m.scale * 2), False),
    "with rows that depend on parameters": (lambda m: Halved.apply(m.lin(X), m.scale * 2), False),
    "with a parameter from elsewhere": (lambda m: m.lin(X) * Tied.apply(m.q.tanh().detach(), m.q), True),
    "a parameter in a list": (lambda m: m.lin(X) + Listed.apply(m.q.new_ones(()).requires_grad_(), [m.q]), False),
    "in place on what parameters give": (lambda m: m.lin(X) + Doubled.apply(m.q * 1), None),
    "quantized, of all examples": (lambda m: m.lin(X) + Halved.apply(m.lin(X).mean(0), m.scale), False),
    "mapped by vmap": (lambda m: torch.vmap(Own.apply)(m.lin(X)), False),
    "reentrant, takes what parameters give": (
        lambda m: reentrant(lambda h, q: m.mlp(h + q), m.lin(X), m.q * 0.5),
        False,
    ),
    "reentrant, takes a parameter": (lambda m: reentrant(lambda h, q: m.mlp(h + q), m.lin(X), m.q), False),
    "reentrant, takes it in a list": (lambda m: reentrant(lambda h, q: m.mlp(h + q[0]), m.lin(X), [m.q * 0.5]), False),
    "reentrant, closes over it": (lambda m: over(m), True),
    "reentrant, gives what parameters give": (
        lambda m: m.lin(X) + reentrant(lambda t: m.mlp(t).tanh(), TABLE.clone().requires_grad_()),
        False,
    ),
    "reentrant, of a parameter": (lambda m: m.lin(X) + reentrant(lambda q: m.lin(q).tanh(), m.q), False),
    "reentrant, of no gradients": (lambda m: m.lin(X) + reentrant(m.mlp, X), None),
    "reentrant, detached": (lambda m: m.lin(X) + reentrant(m.mlp, m.lin(X).detach()), None),
    "reentrant, with a hook": (lambda m: reentrant(by_hook, m.lin(X)), False),
    "reentrant, with a hook of the graph": (lambda m: reentrant(by_hook_of_the_graph, m.lin(X)), False),
    "reentrant, with a function of its own": (lambda m: reentrant(centred, m.lin(X)), False),
    "reentrant, with one that is vouched for": (lambda m: reentrant(lambda h: m.mlp(scaled(h)), m.lin(X)), True),
    "reentrant, other where gradients are": (lambda m: reentrant(where_gradients_are, m.lin(X)), False),
    "reentrant twice": (lambda m: reentrant(lambda h: reentrant(centred, m.mlp(h)), m.lin(X)), False),
    "reentrant twice, right": (lambda m: reentrant(lambda h: reentrant(m.mlp, h.tanh()), m.lin(X)), True),
    "hooks of what is saved": (lambda m: saved(m, of_all), False),
    "hooks of what is saved, going in": (lambda m: saved(m, lambda t: t, of_all), False),
    "what is saved is moved": (on_the_cpu, True),
    "a thread": (lambda m: in_a_thread(m, started), False),
    "a pool of threads": (lambda m: in_a_thread(m, submitted), False),
    "a pool of multiprocessing's": (lambda m: in_a_thread(m, mapped), False),
    "a pool that waits": (lambda m: in_a_thread(m, lambda work: WAITING.submit(work).result()), False),
    "a pool that maps": (lambda m: in_a_thread(m, lambda work: next(iter(WAITING.map(lambda _: work(), [0])))), False),
    "another pool that waits": (lambda m: in_a_thread(m, lambda work: POOL.apply(work)), False),
    "parameters in another thread": (lambda m: WAITING.submit(lambda: m.lin(X).tanh()).result(), False),
    "jagged": (jagged, False),
    "a wrapper": (lambda m: wrapped(m, Wrapped), False),
    "a wrapper that nobody sees into": (lambda m: wrapped(m, Slotted), False),
    "text": (lambda m: m.lin(X) * from_text(repr(m.lin(X).detach().mean().view(1))), False),
    "text, in parts": (lambda m: m.lin(X) * from_text(f"{m.lin(X).detach().mean(0)}"), False),
    "text of a parameter": (lambda m: m.lin(X) * from_text(str(m.q)), False),
    "DLPack": (lambda m: m.lin(X) - torch.from_dlpack(to_dlpack(m.lin(X).detach())).mean(0), False),
    "DLPack of a view": (
        lambda m: m.lin(X) - torch.from_dlpack(to_dlpack(m.lin(X).detach()[:, 1:])).mean(0)[:1],
        False,
    ),
    "a split": (split, False),
    "memory that NumPy shares": (through_numpy, False),
    "a kernel of one's own": (kernel, False),
    "a deep copy": (deep, False),
    "clips the gradient of what parameters give": (lambda m: m.lin(X) * Clipped.apply(m.q.exp()), True),
    "clips the gradient of rows": (lambda m: Clipped.apply(m.lin(X)), False),
    "the class of a parameter": (of_class, True),
    "ways by class": (by_class, True),
    "the class by name": (by_name, True),
    "numbers in a list": (lambda m: with_number(m, lambda n: torch.tensor([[n]])), False),
    "numbers in a tuple of a new tensor": (lambda m: with_number(m, lambda n: X.new_tensor((n, n))[0]), False),
    "numbers of a sparse tensor": (
        lambda m: with_number(m, lambda n: torch.sparse_coo_tensor([[0]], [n]).to_dense()),
        False,
    ),
    "a list as an index": (lambda m: with_number(m, lambda n: TABLE[:, [(n.abs() * 1e3).long() % 8, 0]].sum()), False),
    "a list as an index to write to": (
        lambda m: with_number(m, written_at),
        False,
    ),
    "numbers of a constructor of one type": (
        lambda m: with_number(m, lambda n: torch.DoubleTensor([n, 1.0])[0]),
        False,
    ),
    "integers of a constructor of one type": (
        lambda m: with_number(m, lambda n: torch.LongTensor([(n.abs() * 1e3).long() % 4])),
        False,
    ),
    "numbers of a storage": (lambda m: with_number(m, lambda n: torch.DoubleStorage([n])[0]), False),
    "numbers of a nested tensor": (
        lambda m: with_number(m, lambda n: torch.nested.nested_tensor([[n, n], [n]]).to_padded_tensor(0.0).sum()),
        False,
    ),
    "numbers in a sequence of one's own": (
        lambda m: with_number(m, lambda n: torch.as_tensor(Numbers(n)).sum()),
        False,
    ),
    "a truth": (lambda m: with_number(m, lambda n: 1.0 if n > 0.01 else 2.0), False),
    "a complex number": (lambda m: with_number(m, lambda n: abs(complex(n))), False),
    "a dispatch mode in the closure": (under_a_mode, False),
    "traced": (lambda m: m.lin(X).tanh() * torch.jit.trace(m.mlp, X, check_trace=False)(X), False),
    "mapped by Python": (lambda m: with_number(m, lambda n: n.new_ones(()).map_(n, lambda one, other: other)), False),
    "dims of a product": (lambda m: with_number(m, lambda n: contracted((n.abs() * 1e3).long() % 2)), False),
    "lengths that are packed": (lambda m: with_number(m, lambda n: packed((n.abs() * 1e3).long() % 6 + 1)), False),
}


class Listed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, one, values):
        return values[0] * one

    @staticmethod
    def backward(ctx, d):
        return d.sum(), None


class Own(torch.autograd.Function):
    """Mixes what vmap puts side by side."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, d):
        return d

    @staticmethod
    def vmap(info, in_dims, x):
        return Centring.apply(x), 0


def over(m):
    q = m.q * 0.5
    return reentrant(lambda h: m.mlp(h + q), m.lin(X))


@pytest.fixture(scope="module", autouse=True)
def ended():
    """Threads that waited for work end with the tests."""
    yield
    WAITING.shutdown()
    POOL.terminate()
    POOL.join()


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("name", CLOSURES)
def test_is_right_without_the_audit(name, m):
    torch.manual_seed(0)
    hidden, exact = CLOSURES[name]
    model = Parts().double()

    def losses():
        return model.losses(hidden(model))

    said = check(model, optimizer_of(model, m, audit=False), losses, m)
    if exact is not None:
        assert any("group by group" in line for line in said) is not exact, said
