"""What holds for the first batch need not hold for the next: the gradient is right all the same, or refused."""

import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lowland.optim import SAM
from lowland.optim.m_sam import registry, row_wise

from .against_the_definition import by_definition, check, optimizer_of
from .against_the_loop import relative_error
from .networks import Centring, Reversed, rand

Y = torch.arange(8) % 3


def encoder():
    """Torch's default layout: (time, batch, width)."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


@pytest.mark.parametrize("time", [8, 16])
def test_parameters_that_are_unfrozen_later(time):
    torch.manual_seed(0)
    body, head = encoder(), nn.Linear(16, 3)
    model = nn.ModuleList([body, head]).double()
    x = rand(time, 8, 16)

    def losses():
        return F.cross_entropy(head(body(x).mean(0)), Y, reduction="none")

    optimizer = optimizer_of(model)
    body.requires_grad_(False)
    optimizer.backward(losses)
    assert optimizer._own.engine.reason is None
    body.requires_grad_(True)
    assert not check(model, optimizer, losses)


def test_parameters_of_a_group_that_is_added_later():
    torch.manual_seed(0)
    body, head = encoder(), nn.Linear(16, 3)
    model, x = nn.ModuleList([body, head]).double(), rand(16, 8, 16)

    def losses():
        return F.cross_entropy(head(body(x).mean(0)), Y, reduction="none")

    optimizer = SAM(torch.optim.SGD(head.parameters(), lr=1.0), rho=0.1, model=model, m=1)
    optimizer.backward(losses)
    assert optimizer._own.engine.reason is None
    optimizer.add_param_group({"params": list(body.parameters())})
    assert not check(model, optimizer, losses)


def test_two_tasks_in_turn():
    torch.manual_seed(0)
    first, second, head = nn.Linear(16, 16), encoder(), nn.Linear(16, 3)
    model, x = nn.ModuleList([first, second, head]).double(), rand(8, 16)
    sequences = rand(16, 8, 16)
    optimizer = optimizer_of(model)
    check(model, optimizer, lambda: F.cross_entropy(head(first(x)), Y, reduction="none"))
    check(model, optimizer, lambda: F.cross_entropy(head(second(sequences).mean(0)), Y, reduction="none"))


class Sorting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, lengths):
        order = lengths.argsort(descending=True, stable=True)
        return self.b(torch.tanh(self.a(x))[order])[order.argsort()]


def test_rows_that_data_put_in_another_order():
    model, x = Sorting().double(), rand(8, 4)
    for lengths in (torch.full((8,), 5), torch.arange(8)):
        check(model, optimizer_of(model), lambda n=lengths: F.cross_entropy(model(x, n), Y, reduction="none"))
    optimizer = optimizer_of(model, audit=False)
    for lengths in (torch.full((8,), 5), torch.arange(8), torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])):
        assert not check(model, optimizer, lambda n=lengths: F.cross_entropy(model(x, n), Y, reduction="none"))


class Unpadded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, lengths):
        index = (torch.arange(8) < lengths[:, None]).flatten().nonzero(as_tuple=True)[0]
        rows = torch.tanh(self.a(x.flatten(0, 1)[index]))
        return self.b(x.new_zeros(48, 8).index_copy(0, index, rows).view(6, 8, 8).sum(1))


def test_tokens_without_padding():
    model, x = Unpadded().double(), rand(6, 8, 4)
    optimizer, lengths = optimizer_of(model), torch.full((6,), 8)
    for lengths in (lengths, torch.tensor([3, 5, 8, 2, 8, 4])):  # noqa: B020
        check(model, optimizer, lambda n=lengths: F.cross_entropy(model(x, n), Y[:6], reduction="none"))
        check(model, optimizer_of(model), lambda n=lengths: F.cross_entropy(model(x, n), Y[:6], reduction="none"))


@pytest.mark.parametrize("m", [1, 3])
def test_a_coupling_that_begins_later(m):
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double(), rand(8, 4)
    optimizer = optimizer_of(model, m)

    def losses(weight):
        z = model(x)
        each = F.cross_entropy(z, Y, reduction="none")
        return each - weight * (z @ z.T).log_softmax(1).diagonal() if weight else each

    check(model, optimizer, lambda: losses(0.0), m)
    with pytest.raises(ValueError, match="depends on other examples"):
        optimizer.backward(lambda: losses(1.0))
    check(model, optimizer, lambda: losses(0.0), m)  # and it goes on


def test_a_part_that_begins_later_goes_by_its_own_way():
    torch.manual_seed(0)
    model, x = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 3)]).double(), rand(8, 4)
    optimizer, switched = optimizer_of(model, 2), [False]

    def losses():
        h = model[0](x).tanh()
        h = h - h.mean(0) if switched[0] else h
        return F.cross_entropy(model[1](h), Y, reduction="none")

    assert not check(model, optimizer, losses, 2)
    switched[0] = True
    assert "mean (test_later_batches.py:" in check(model, optimizer, losses, 2)[0]


class Positions(nn.Module):
    """Coordinates that no data are in, as many as two for each example."""

    def __init__(self, coordinates):
        super().__init__()
        self.position, self.out, self.coordinates = nn.Linear(2, 4), nn.Linear(4, 3), coordinates

    def forward(self, x):
        return self.out(torch.tanh(x + self.position(self.coordinates())).mean(1))


def meshgrid():
    v, u = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    return torch.stack([v, u], -1).view(16, 2).double()


def test_constants_that_have_as_many_rows_as_examples():
    fixed = [meshgrid()]
    x = rand(8, 16, 4)
    for coordinates in (meshgrid, lambda: fixed[0]):
        model = Positions(coordinates).double()
        losses = lambda: F.cross_entropy(model(x), Y, reduction="none")  # noqa: B023, E731
        assert not check(model, optimizer_of(model), losses)


class Bias(nn.Module):
    """An activation in place, of what parameters alone give."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.linspace(-1, 1, 5)[:, None])
        self.net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(x + self.net(self.table)).mean(1))


@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_an_activation_in_place_of_what_parameters_give(m):
    model, x = Bias().double(), rand(8, 5, 4)
    assert not check(model, optimizer_of(model, m), lambda: F.cross_entropy(model(x), Y, reduction="none"), m)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_random_rows_made_in_forward(m):
    model, x = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]).double(), rand(8, 5, 4)

    def losses():
        torch.manual_seed(1)
        slots = model[0](torch.randn(8, 3, 4).double())
        attended = F.scaled_dot_product_attention(slots, model[1](x), x)
        return (attended - x[:, :3]).square().mean((1, 2))

    assert not check(model, optimizer_of(model, m), losses, m)


def test_frozen_parameters_are_constants():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.randn(1, 6, 4), requires_grad=False)
            self.token, self.out = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 3)

        def forward(self, x):
            token = (self.token + self.position[:, :1]).expand(len(x), -1, -1)
            return self.out(torch.tanh(torch.cat([token, x + self.position[:, 1:]], 1)).mean(1))

    model, x = Frozen().double(), rand(8, 5, 4)
    assert not check(model, optimizer_of(model), lambda: F.cross_entropy(model(x), Y, reduction="none"))


def test_an_exception_in_the_passes_alone_means_the_loop():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            if type(self.linear.weight) is not nn.Parameter:
                raise TypeError("not a parameter")
            return self.linear(x)

    model, x = Strict().double(), rand(8, 4)
    said = check(model, optimizer_of(model), lambda: F.cross_entropy(model(x), Y, reduction="none"))
    assert "TypeError at test_later_batches.py:" in said[0]


def test_a_value_that_python_reads_means_the_loop():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double(), rand(8, 4)

    def losses():
        z = model(x)
        return F.cross_entropy(z / float(z.detach().norm()), Y, reduction="none")

    said = check(model, optimizer_of(model), losses)
    assert "reads a value that depends on the parameters" in said[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_any_precision(dtype):
    """Whether rows are examples is a question of zero or not, where the definition itself is off by percents."""
    torch.manual_seed(0)
    body, head = encoder(), nn.Linear(16, 3)
    model, x = nn.ModuleList([body, head]).to(dtype), torch.randn(16, 8, 16, dtype=dtype)
    optimizer = optimizer_of(model)
    with pytest.warns(UserWarning, match=r"group by group.* flip .*, which mixes the examples"):
        optimizer.backward(lambda: F.cross_entropy(head(body(x).mean(0).flip(0)).flip(0), Y, reduction="none"))


def test_the_audit_comes_again(monkeypatch):
    model, x = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)]).double(), rand(8, 4)
    optimizer, calls, part = optimizer_of(model), [], [0]

    def losses():
        calls.append(0)
        return F.cross_entropy(model[part[0]](x), Y, reduction="none")

    counts = []
    for batch in range(1, 12):
        part[0] = int(batch >= 4)
        calls.clear()
        optimizer.backward(losses)
        counts.append(len(calls))
    assert [i + 1 for i, n in enumerate(counts) if n > 3] == [1, 4, 10]
    assert counts[1] == 2


@pytest.mark.parametrize("audit", [True, False])
def test_gradients_that_are_changed_on_the_way_go_by_the_loop(audit):
    def net():
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    def hooked(model, x):
        h = model[:2](x)
        h.register_hook(lambda d: d / d.norm())
        return model[2](h)

    x = rand(8, 4)
    for function in (Reversed, Centring):
        model = net()
        forward = lambda: model[2](function.apply(model[:2](x)))  # noqa: B023, E731
        losses = lambda: F.cross_entropy(forward(), Y, reduction="none")  # noqa: B023, E731
        assert function.__name__ in check(model, optimizer_of(model, audit=audit), losses)[0]
    model = net()
    said = check(
        model, optimizer_of(model, audit=audit), lambda: F.cross_entropy(hooked(model, x), Y, reduction="none")
    )
    assert "a gradient hook is set (test_later_batches.py:" in said[0]
    model = net()
    model[0].register_full_backward_hook(lambda module, inputs, outputs: None)
    assert "backward hook" in check(model, optimizer_of(model), lambda: model(x).square().sum(1))[0]
    model = net()
    model[0].weight.register_hook(lambda d: d.clamp(-0.01, 0.01))
    optimizer = optimizer_of(model)
    with pytest.warns(UserWarning, match="has a gradient hook"):
        optimizer.backward(lambda: model(x).square().sum(1))


def test_a_function_of_autograds_own_that_is_vouched_for():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double(), rand(8, 4)
    row_wise(Reversed)
    try:
        assert not check(model, optimizer_of(model), lambda: model[2](Reversed.apply(model[:2](x))).square().sum(1))
    finally:
        registry.ROW_WISE.remove(Reversed)


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_random_numbers_of_other_kinds(draw):
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double(), rand(8, 4)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    factor = draw()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    optimizer = optimizer_of(model)
    optimizer.backward(lambda: F.cross_entropy(model(x) * draw(), Y, reduction="none"))
    ours = [p.grad.clone() for p in model.parameters()]
    expected = by_definition(model, lambda: F.cross_entropy(model(x) * factor, Y, reduction="none"), 1)
    assert relative_error(ours, expected) < 1e-9
    assert optimizer._own.engine.reason is None


def test_a_generator_of_its_own_is_refused():
    model, x = nn.Linear(4, 3).double(), rand(8, 4)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=r"rand \(test_later_batches.py:\d+\) draws from a torch.Generator of its own"):
        optimizer_of(model).backward(lambda: (model(x) * torch.rand(8, 1, generator=generator)).square().sum(1))


def test_a_generator_made_in_the_closure_is_as_good_as_none():
    model, x = nn.Linear(4, 3).double(), rand(8, 4)

    def losses():
        noise = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        return (model(x) * noise).square().sum(1)

    assert not check(model, optimizer_of(model), losses)


class Normalized(nn.BatchNorm2d):
    """With a layer of its own inside."""

    def __init__(self):
        super().__init__(2)
        self.after = nn.Tanh()

    def forward(self, x):
        return self.after(super().forward(x)).flatten(1)


@pytest.mark.parametrize("middle", [nn.Tanh(), nn.Sequential(nn.Unflatten(1, (2, 2, 2)), Normalized())])
def test_torch_may_count_operations(middle):
    model, x = nn.Sequential(nn.Linear(4, 8), middle, nn.Linear(8, 3)).double(), rand(8, 4)
    with FlopCounterMode(display=False) as counted:
        optimizer = optimizer_of(model)
        optimizer.backward(lambda: model(x).square().sum(1))
    assert optimizer.last is not None
    assert counted.get_total_flops() > 0


def test_what_is_pickled_is_read():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double(), rand(8, 4)

    def losses():
        h = model[:2](x)
        return model[2](h * pickle.loads(pickle.dumps(h.detach()))).square().sum(1)

    assert "reads a value" in check(model, optimizer_of(model, audit=False), losses)[0]


@pytest.mark.parametrize("kind", ["buffer", "tuple", "dictionary of lists", "outside"])
def test_a_table_with_as_many_rows_as_the_batch(kind):
    table = rand(8, 4)
    model, x = nn.Linear(4, 8).double(), rand(8, 8)
    if kind != "outside":
        if kind == "buffer":
            model.register_buffer("table", table)
        model.kept = (1, table) if kind == "tuple" else {"tables": [table]}
        assert not check(model, optimizer_of(model), lambda: F.cross_entropy(x @ model(table), Y, reduction="none"))
    else:
        with pytest.raises(ValueError, match="make it a buffer"):
            check(model, optimizer_of(model), lambda: F.cross_entropy(x @ model(table), Y, reduction="none"))


def test_data_that_autograd_doesnt_see():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double(), rand(8, 4)

    def losses():
        h = model[:2](x)
        z = model[2](h * h)
        h.data.copy_(h.data.mean(0).expand_as(h))
        return z.square().sum(1)

    said = check(model, optimizer_of(model, audit=False), losses)
    assert "data of a tensor is taken (test_later_batches.py:" in said[0]
