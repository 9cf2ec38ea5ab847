"""Every single-process training setup against the textbook, in float64, over several steps with momentum."""

import copy
import math
from functools import partial

import pytest
import schedulefree
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint

from lowland.optim import SAM

from . import textbook
from .training import (
    STEPS,
    assert_equal,
    batch,
    by_closure,
    climb_and_descend,
    finish,
    loss_on,
    losses,
    network,
    sgd,
    train,
)  # fmt: skip


class Lion(torch.optim.Optimizer):
    """An optimizer of somebody else's (Chen et al. 2023), with names and state of its own."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    average = self.state[p].setdefault("average", torch.zeros_like(p))
                    p.sub_((0.9 * average + 0.1 * p.grad).sign(), alpha=group["lr"])
                    average.lerp_(p.grad, 0.01)


BASES = {
    "SGD": lambda params: sgd(params),
    "SGD, foreach": lambda params: sgd(params, foreach=True, nesterov=True),
    "SGD, fused": lambda params: sgd(params, fused=True),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.02),
    "AdamW, foreach": lambda params: torch.optim.AdamW(params, lr=0.02, foreach=True),
    "AdamW, fused": lambda params: torch.optim.AdamW(params, lr=0.02, fused=True),
    "AdamW, capturable": lambda params: torch.optim.AdamW(params, lr=torch.tensor(0.02)),
    "Adafactor": lambda params: torch.optim.Adafactor(params, lr=0.02),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.5),
    "NAdam": lambda params: torch.optim.NAdam(params, lr=0.02),
    "Rprop": lambda params: torch.optim.Rprop(params),
    "a third party's": lambda params: Lion(params, lr=0.02),
}


@pytest.mark.parametrize("name", BASES)
def test_any_base_optimizer(name):
    ours, expected = network(), network()
    train(ours, SAM(BASES[name](ours.parameters()), rho=0.3, model=ours), losses(ours))
    textbook.train(expected, BASES[name](list(expected.parameters())), losses(expected), 0.3)
    assert_equal(ours, expected)


def test_an_optimizer_that_wants_to_be_told_of_training_and_evaluation():
    ours, expected = network(), network()
    optimizer = SAM(schedulefree.SGDScheduleFree(ours.parameters(), lr=0.3), rho=0.3)
    base = schedulefree.SGDScheduleFree(expected.parameters(), lr=0.3)
    optimizer.train()
    base.train()
    train(ours, optimizer, losses(ours))
    textbook.train(expected, base, losses(expected), 0.3)
    optimizer.eval()
    base.eval()
    assert_equal(ours, expected)


@pytest.mark.parametrize("where", ["on SAM", "on the base"])
def test_schedules_of_learning_rate_and_rho(where):
    def rho(step):
        return 0.1 * (1 + step)

    ours, expected = network(), network()
    optimizer, base = SAM(sgd(ours), rho=rho), sgd(expected)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=20)
        for o in (optimizer if where == "on SAM" else optimizer.base, base)
    ]
    train(ours, optimizer, losses(ours), after=schedules[0].step)
    textbook.train(expected, base, losses(expected), rho, after=schedules[1].step)
    assert_equal(ours, expected)


def test_clipping():
    ours, expected = network(), network()
    optimizer = SAM(sgd(ours), rho=0.3)
    for loss_fn in losses(ours):
        climb_and_descend(optimizer, loss_fn)
        assert nn.utils.clip_grad_norm_(ours.parameters(), 0.05) > 0.05
        finish(optimizer)
    textbook.train(expected, sgd(expected), losses(expected), 0.3, clip=0.05)
    assert_equal(ours, expected)


def micro_batches(model, parts=3):
    return [
        [partial(loss_on, model, *batch(10 * step + part), parts) for part in range(parts)] for step in range(STEPS)
    ]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_accumulation_where_each_micro_batch_climbs_for_itself(set_to_none):
    ours, expected = network(), network()
    optimizer = SAM(sgd(ours), rho=0.3)
    for parts in micro_batches(ours):
        for loss_fn in parts:
            climb_and_descend(optimizer, loss_fn)
        finish(optimizer, set_to_none=set_to_none)
    textbook.train(expected, sgd(expected), micro_batches(expected), 0.3)
    assert_equal(ours, expected)


def test_accumulation_where_all_micro_batches_climb_together():
    ours, expected = network(), network()
    optimizer = SAM(sgd(ours), rho=0.3)
    for parts in micro_batches(ours):
        for evaluation in optimizer.passes():
            with evaluation:
                for loss_fn in parts:
                    loss_fn().backward()
        optimizer.step()
        optimizer.zero_grad()
    together = [lambda parts=parts: sum(loss_fn() for loss_fn in parts) for parts in micro_batches(expected)]
    textbook.train(expected, sgd(expected), together, 0.3)
    assert_equal(ours, expected)


def test_groups_frozen_and_unused_parameters():
    def groups(model, **rho):
        model[0].bias.requires_grad_(False)
        return [
            {"params": model[0].parameters(), "lr": 0.05, **rho},
            {"params": [*model[2].parameters(), model.unused]},
        ]

    ours, expected = network(), network()
    for model in (ours, expected):
        model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    train(ours, SAM(sgd(groups(ours, rho=0.7)), rho=0.1), losses(ours))
    textbook.train(expected, sgd(groups(expected)), losses(expected), [0.7, 0.1, 0.1, 0.1])
    assert_equal(ours, expected)
    assert ours.unused.tolist() == [1.0, 1.0]


def test_parameters_that_get_a_gradient_in_one_pass_only():
    w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    v, u = nn.Parameter(w.detach() + 1), nn.Parameter(w.detach() + 2)
    optimizer = SAM(torch.optim.SGD([w, v, u], lr=0.1), rho=0.5)
    with optimizer.ascent():
        (w.square().sum() + v.sum()).backward()
    with optimizer.perturbed():
        assert v.tolist() != [2.0, 3.0]
        (w.square().sum() + u.sum()).backward()
    optimizer.step()
    assert v.tolist() == [2.0, 3.0]
    torch.testing.assert_close(u.detach(), torch.tensor([2.9, 3.9], dtype=torch.float64))


def test_a_parameter_shared_by_two_layers():
    def tied():
        model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()
        model[2].weight = model[0].weight
        return model

    torch.manual_seed(0)
    ours = tied()
    expected = copy.deepcopy(ours)
    train(ours, SAM(sgd(ours), rho=0.3), losses(ours))
    textbook.train(expected, sgd(expected), losses(expected), 0.3)
    assert_equal(ours, expected)


def test_sparse_gradients():
    class Words(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            torch.manual_seed(0)
            self.words, self.out = nn.Embedding(9, 4, sparse=sparse), nn.Linear(4, 3)
            self.double()

        def forward(self, x):
            return self.out(torch.tanh(self.words(x).sum(1)))

    generator = torch.Generator().manual_seed(1)  # few words, so that many occur more than once
    tokens = torch.randint(9, (STEPS, 7, 5), generator=generator)

    def of(model):
        return [lambda x=x: F.cross_entropy(model(x), torch.arange(7) % 3) for x in tokens]

    ours, expected = Words(sparse=True), Words(sparse=False)
    train(ours, SAM(sgd(ours, momentum=0, weight_decay=0), rho=0.3), of(ours))
    textbook.train(expected, sgd(expected, momentum=0, weight_decay=0), of(expected), 0.3)
    assert_equal(ours, expected)
    optimizer = SAM(torch.optim.SparseAdam(ours.words.parameters(), lr=0.1), rho=0.3)
    before = ours.words.weight.detach().clone()
    for evaluation in optimizer.passes():
        with evaluation:
            (of(ours)[0]() * math.inf).backward()
            assert torch.equal(ours.words.weight, before)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_sparse_gradients_accumulate(set_to_none):
    def embedding(sparse):
        return nn.Embedding(9, 4, sparse=sparse, _weight=torch.ones(9, 4, dtype=torch.float64).cumsum(0))

    ours, expected = embedding(True), embedding(False)
    for model in (ours, expected):
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3)
        for _ in range(3):
            for words in ([1, 2, 2], [0, 2, 8]):
                climb_and_descend(optimizer, lambda m=model, w=words: m(torch.tensor(w)).square().sum())
            finish(optimizer, set_to_none=set_to_none)
    assert_equal(ours, expected)


def test_complex_parameters():
    def loss_fn(w):
        return (w**3).sum().abs().square() + w.abs().square().sum()

    start = torch.tensor([1 + 2j, -0.5j, 0.3], dtype=torch.complex128)
    w = nn.Parameter(start.clone())
    optimizer = SAM(torch.optim.SGD([w], lr=0.01), rho=0.3)
    (g,) = torch.autograd.grad(loss_fn(w), w)
    moved = start + 0.3 * g / torch.linalg.vector_norm(torch.view_as_real(g))
    (g,) = torch.autograd.grad(loss_fn(moved.requires_grad_()), moved)
    train(None, optimizer, [lambda: loss_fn(w)])
    torch.testing.assert_close(w.detach(), start - 0.01 * g)


def test_double_precision_beside_half():
    """Each weight climbs in its own precision: the norm, that of the gradients 3, 4 and 12, is exact in each."""
    fine, coarse = nn.Parameter(torch.tensor([0.1, 0.7], dtype=torch.float64)), nn.Parameter(torch.ones(1).bfloat16())
    optimizer, seen = SAM(torch.optim.SGD([fine, coarse], lr=0.0), rho=0.3, eps=0.0), []

    def closure():
        seen.append(fine.detach().clone())
        (fine @ torch.tensor([3.0, 4.0], dtype=torch.float64) + 12 * coarse.double().sum()).backward()

    optimizer.step(closure)
    expected = torch.tensor([0.1 + 0.3 * 3 / 13, 0.7 + 0.3 * 4 / 13], dtype=torch.float64)
    torch.testing.assert_close(seen[1], expected, rtol=1e-15, atol=0)


def test_dropout_with_the_same_masks_and_with_its_own():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.masks = network(), []

        def forward(self, x):
            hidden = torch.tanh(self.net[0](x))
            mask = F.dropout(torch.ones_like(hidden), 0.5, self.training)
            self.masks.append(mask)
            return self.net[2](hidden * mask)

    ours = Dropping()
    torch.manual_seed(7)
    train(ours, SAM(sgd(ours.net), rho=0.3, same_masks=True), losses(ours))
    masks = ours.masks
    assert all(torch.equal(a, b) for a, b in zip(masks[::2], masks[1::2], strict=True))
    assert not torch.equal(masks[0], masks[2])
    plain = Dropping()
    torch.manual_seed(7)  # as many random numbers are drawn as by plain training
    for loss_fn in losses(plain):
        loss_fn()
    assert all(torch.equal(a, b) for a, b in zip(masks[::2], plain.masks, strict=True))

    class Given(Dropping):
        def forward(self, x):
            return self.net[2](torch.tanh(self.net[0](x)) * self.masks.pop(0))

    expected = Given()
    expected.masks = list(masks)
    textbook.train(expected, sgd(expected.net), losses(expected), 0.3)
    assert_equal(ours, expected)

    ours = Dropping()
    train(ours, SAM(sgd(ours.net), rho=0.3), losses(ours))
    assert not torch.equal(ours.masks[0], ours.masks[1])


def test_batch_norm_sees_each_batch_once():
    ours, expected, saw, stepped = (network(norm=nn.BatchNorm1d) for _ in range(4))
    train(ours, SAM(sgd(ours), rho=0.3, model=ours), losses(ours))
    textbook.train(expected, sgd(expected), losses(expected), 0.3)
    assert_equal(ours, expected)
    assert ours[1].num_batches_tracked == STEPS
    train(stepped, SAM(sgd(stepped), rho=0.3, model=stepped), losses(stepped, 1))
    losses(saw, 1)[0]()
    for a, b in zip(stepped.buffers(), saw.buffers(), strict=True):
        assert torch.equal(a, b)


def test_layers_exchanged_after_the_optimizer_was_made():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    optimizer = SAM(sgd(model), rho=0.3, model=model)
    fresh = nn.BatchNorm1d(6).double()
    fresh.load_state_dict(model[1].state_dict())
    fresh.weight, fresh.bias = model[1].weight, model[1].bias
    model[1] = fresh
    train(model, optimizer, losses(model, 1))
    assert fresh.num_batches_tracked == 1


def test_activation_checkpointing():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=False)

    ours, expected = Checkpointed(), Checkpointed()
    train(ours, SAM(sgd(ours), rho=0.3), losses(ours))
    textbook.train(expected.net, sgd(expected.net), losses(expected.net), 0.3)
    assert_equal(ours, expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_models(backend, request):
    if backend == "inductor":
        request.getfixturevalue("cpp_compiler")
    ours, expected = network(), network()
    compiled = torch.compile(ours, backend=backend)
    train(ours, SAM(sgd(ours), rho=0.3, model=compiled), losses(compiled))
    textbook.train(expected, sgd(expected), losses(expected), 0.3)
    assert_equal(ours, expected)


def test_averages_of_weights_see_w_only():
    def averages(model):
        return [AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))]

    ours, expected = network(), network()
    ours_averages, expected_averages = averages(ours), averages(expected)
    train(ours, SAM(sgd(ours), rho=0.3), losses(ours), lambda: [a.update_parameters(ours) for a in ours_averages])
    textbook.train(
        expected, sgd(expected), losses(expected), 0.3,
        after=lambda: [a.update_parameters(expected) for a in expected_averages],
    )  # fmt: skip
    for a, b in zip(ours_averages, expected_averages, strict=True):
        assert_equal(a, b)
    update_bn([batch(0)[0]], ours_averages[0])


def test_step_with_a_closure_under_no_grad_and_its_loss():
    ours = network()
    (loss_fn,) = losses(ours, 1)
    expected = loss_fn().item()
    with torch.no_grad():
        assert by_closure(SAM(sgd(ours), rho=0.3), loss_fn).item() == expected


def test_a_plain_step_by_mistake_is_not_silent():
    model = network()
    optimizer = SAM(sgd(model), rho=0.3)
    optimizer.step()  # nothing to step along: schedulers are tried out like that
    losses(model)[0]().backward()
    with pytest.warns(UserWarning, match="without passes"):
        optimizer.step()
    assert optimizer.steps == 0
