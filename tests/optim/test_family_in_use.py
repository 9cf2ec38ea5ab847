"""The family where training isn't textbook: checkpoints, dropped steps, missing gradients, copies, other bases."""

import copy
import math
import pickle
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lowland.optim import SAM, ascent, descent, presets, schedule

from . import textbook_family as family
from . import training
from .test_presets import CASES, losses, network, run
from .textbook import descend
from .training import assert_equal, by_passes, same_bits, sgd

BASES = {
    "SGD": sgd,
    "plain SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.2),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.02),
}


def made(name, base=sgd):
    build, settings, _, _ = CASES[name]
    model = network()
    return model, build(base(model), model=model, **settings)


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("name", ["FriendlySAM", "LookSAM", "PreviousSAM"])
def test_distributed_checkpoints(name, base, flatten, tmp_path):
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    straight, resumed = made(name, base), made(name, base)
    for step in range(4):
        run(*straight, step)
    weights, state = get_state_dict(*straight, options=options)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path)
    weights, state = get_state_dict(*resumed, options=options)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=tmp_path)
    set_state_dict(*resumed, model_state_dict=weights, optim_state_dict=state, options=options)
    for step in range(4, 7):
        run(*straight, step)
        run(*resumed, step)
    assert same_bits(straight[0], resumed[0])


def test_a_checkpoint_of_a_preset_in_the_bare_base_and_back():
    model = nn.ModuleDict({"used": nn.Linear(5, 3), "late": nn.Linear(5, 3)}).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    optimizer = presets.FriendlySAM(torch.optim.AdamW(model.parameters(), lr=0.01), model=model)
    by_passes(optimizer, lambda: model["used"](x).square().mean())
    bare = torch.optim.AdamW(model.parameters(), lr=0.01)
    bare.load_state_dict(optimizer.state_dict())
    (model["used"](x) + model["late"](x)).square().mean().backward()
    bare.step()
    optimizer.load_state_dict(bare.state_dict())


def test_what_is_remembered_of_a_parameter_that_is_frozen_when_saved():
    straight, resumed = made("FriendlySAM"), made("FriendlySAM")
    run(*straight, 0)
    straight[0][0].weight.requires_grad_(False)
    run(*straight, 1)
    resumed[0].load_state_dict(straight[0].state_dict())
    resumed[1].load_state_dict(copy.deepcopy(straight[1].state_dict()))
    straight[0][0].weight.requires_grad_(True)
    for part in (straight, resumed):
        run(*part, 2)
        run(*part, 3)
    assert same_bits(straight[0], resumed[0])


def test_a_checkpoint_in_which_a_schedule_left_rho_at_zero():
    model, optimizer = made("LateSAM")
    run(model, optimizer, 0)
    fresh = presets.SAM(sgd(model), rho=0.3)
    with pytest.warns(UserWarning, match="rho is 0 in this checkpoint"):
        fresh.load_state_dict(optimizer.state_dict())
    again = presets.LateSAM(sgd(model), rho=0.3, start=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("set_to_none", [False, True])
@pytest.mark.parametrize("what", ["overflow", "dropped batch", "then a step without climbing"])
def test_a_penalty_goes_with_its_gradient(what, set_to_none):
    (model, optimizer), (expected, reference) = made("WSAM"), made("WSAM")
    run(model, optimizer, 0)
    run(expected, reference, 0)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for index, evaluation in enumerate(optimizer.passes(scaler=scaler)):
        with evaluation:
            loss = losses(model, 1).mean() * (math.inf if what == "overflow" and index else 1)
            scaler.scale(loss).backward()
    if what == "overflow":
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 32.0
    model.zero_grad(set_to_none=set_to_none)
    if what == "then a step without climbing":
        for o in (optimizer, reference):
            o.param_groups[0]["rho"] = 0.0
    run(model, optimizer, 2)
    run(expected, reference, 2)
    assert_equal(model, expected)


def test_a_penalty_that_is_not_finite_shows_in_the_gradient():
    model, optimizer = made("WSAM")
    for index, evaluation in enumerate(optimizer.passes()):
        with evaluation:
            (losses(model, 0).mean() * (math.inf if index else 1)).backward()
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)


def test_a_penalty_beside_a_fused_base_that_skips_by_itself():
    model, expected = network(), network()
    optimizer = presets.WSAM(sgd(model, fused=True), rho=0.3, gamma=0.7)
    base, params = sgd(expected), list(expected.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step, bad in enumerate([(), (1,), (), (0,), ()]):
        run(model, optimizer, step, scaler, bad)
        if bad:
            continue
        g, beside = family.weighted_decoupled(lambda s=step: losses(expected, s).mean(), params, 0.3, 0.7)
        descend(base, params, g)
        for p, b in zip(params, beside, strict=True):
            p.data -= 0.2 * b
    assert_equal(model, expected, tol=1e-6)  # float32 scales in fused kernels


def test_several_steps_keep_what_an_earlier_one_found():
    a, b = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizer = SAM(torch.optim.SGD([a, b], lr=0.1), 0.3, ascent=ascent.MultiStep(2, 0.5))
    moved = []
    for index, evaluation in enumerate(optimizer.passes()):
        with evaluation:
            moved.append((a - 1).norm().item())
            ((a.square().sum() if index != 1 else 0) + b.square().sum()).backward()
    assert moved[0] == 0
    assert moved[1] > 0.1
    assert moved[2] > 0.1


def test_lesam_in_groups_keeps_to_its_longest():
    model = network()
    groups = [{"params": model[0].parameters(), "rho": 0.0}, {"params": [*model[1:].parameters()]}]
    optimizer = presets.LESAM(torch.optim.SGD(groups, lr=0.1), rho=5.0, longest=0.2)
    climbed, _ = run(model, optimizer, 0)
    assert 0 < family.norm(climbed) <= 0.2 + 1e-12


def test_the_adaptive_ascent_of_small_weights_in_half_precision():
    """T² g is 1e-9 here, which is 0 in float16; of equal entries e is ρ T/√n long in each."""
    w = nn.Parameter(torch.full((16,), 2.0**-6, dtype=torch.float16))
    rule = ascent.Adaptive(eta=2.0**-6, biases=True)
    optimizer, seen = SAM(torch.optim.SGD([w], lr=0.0), rho=0.5, ascent=rule, eps=0.0), []

    def closure():
        seen.append(w.detach().double())
        (w * 2.0**-20).sum().backward()

    optimizer.step(closure)
    torch.testing.assert_close(seen[1] - seen[0], torch.full((16,), 0.5 * 2.0**-5 / 4).double(), rtol=1e-3, atol=0)


def test_random_and_momentum_ascents_with_a_descent_rule_under_a_scaler():
    for rule in (ascent.Random(), ascent.Momentum()):
        model = network()
        optimizer = SAM(sgd(model), 0.3, ascent=rule, descent=descent.SurrogateGap(), eps=1e-3)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        for step in range(2):
            climbed, _ = run(model, optimizer, step, scaler)
        assert family.norm(climbed) == pytest.approx(0.3, rel=0.01)


def test_a_sparse_momentum_counts_each_row_once():
    table = nn.Embedding(5, 3, sparse=True).double()
    optimizer = presets.MomentumSAM(torch.optim.SGD(table.parameters(), lr=0.1, momentum=0.9), rho=0.3)
    before, tokens = None, torch.tensor([0, 2, 2, 4])
    for _ in range(3):
        before = table.weight.detach().clone()
        for evaluation in optimizer.passes():
            with evaluation:
                length = (table.weight - before).norm().item()
                table(tokens).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert length == pytest.approx(0.3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_normalization_layers_climb_under_activation_checkpointing(reentrant):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inputs = nn.Linear(5, 6)
            self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.Tanh()) for _ in range(2))
            self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.inputs(x)
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=reentrant)
            return self.head(self.norm(x))

    model = Net().double()
    climbed, _ = run(model, presets.SAMON(sgd(model), rho=0.5, model=model), 0)
    moved = {name for (name, _), e in zip(model.named_parameters(), climbed, strict=True) if e.any()}
    assert moved == {name for name, p in model.named_parameters() if "norm" in name or name.split(".")[-2] == "0"}


def test_a_scope_of_parameters_given_one_by_one():
    model = network()
    optimizer = SAM(sgd(model[3]), 0.3, scope=model[3].parameters())
    optimizer.add_param_group({"params": model[0].parameters()})
    model, optimizer = copy.deepcopy((model, optimizer))
    climbed, _ = run(model, optimizer, 0)
    assert [bool(e.any()) for e in climbed] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("name", ["PeriodicSAM", "LateSAM", "EarlySAM"])
def test_schedules_can_be_pickled(name):
    model, optimizer = made(name)
    run(model, optimizer, 0)
    other, copied = pickle.loads(pickle.dumps((model, optimizer)))
    for step in range(1, 6):
        run(model, optimizer, step)
        run(other, copied, step)
    assert same_bits(model, other)


def test_a_copy_follows_its_own_learning_rate():
    model = network()
    base = sgd(model, lr=0.5)
    optimizer = SAM(base, schedule.along_lr(base, 0.6, 0.2, lr=0.5, lowest_lr=0.1))
    model, copied = copy.deepcopy((model, optimizer))
    base.param_groups[0]["lr"] = 0.1
    climbed, _ = run(model, copied, 0)
    assert family.norm(climbed) == pytest.approx(0.6)


def test_a_step_without_climbing_after_an_ascent_that_was_left():
    model, optimizer = made("SAM")
    for evaluation in optimizer.passes():
        with evaluation:
            losses(model, 0).mean().backward()
        break
    optimizer.param_groups[0]["rho"] = 0.0
    run(model, optimizer, 1)


def test_esam_takes_the_share_it_says():
    model = network()
    optimizer = presets.ESAM(sgd(model), rho=0.3, gamma=0.29)
    chosen = []
    x, y = torch.randn(100, 5, dtype=torch.float64), torch.arange(100) % 3

    def closure():
        value = nn.functional.cross_entropy(model(x), y, reduction="none")
        value.register_hook(lambda g: chosen.append(int((g != 0).sum())))
        return value

    optimizer.step(closure)
    assert chosen == [100, 29]


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda m: presets.GSAM(torch.optim.SparseAdam([nn.Parameter(torch.ones(2))])), ValueError, "SparseAdam"),
        (lambda m: presets.GSAM(sgd(m)).ascent(sync=False).__enter__(), ValueError, "sync=False can't be"),
        (lambda m: SAM(sgd(m), scope=5), TypeError, "scope= is"),
        (lambda m: SAM(sgd(m), scope=presets.last_layer), ValueError, "give model="),
        (lambda m: run(m, presets.ASAM(sgd(m), model=m[0]), 0), ValueError, "is not the model's"),
    ],
)
def test_refused(use, error, says):
    with pytest.raises(error, match=says):
        use(network())


def test_a_pass_that_reuses_needs_a_gradient_too():
    model, optimizer = made("LookSAM")
    run(model, optimizer, 0)
    evaluation = next(optimizer.passes())
    with pytest.raises(RuntimeError, match="was backward"), evaluation:
        pass


@pytest.mark.parametrize("name", ["SAM", "MomentumSAM", "LookSAM", "PeriodicSAM", "MultiStepSAM"])
def test_an_evaluation_that_is_not_entered(name):
    model, optimizer = made(name)
    for step in range(2):
        with pytest.raises(RuntimeError, match="with evaluation"):
            list(optimizer.passes())
        losses(model, step).mean().backward()
        optimizer.zero_grad()
        run(model, optimizer, step)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda b: presets.GSAM(b, alpha=math.nan), "alpha must be a number"),
        (lambda b: presets.LookSAM(b, alpha=math.inf), "alpha must be a number, at least 0"),
        (lambda b: presets.FriendlySAM(b, decay=2), "decay must be a number, at least 0 and at most 1"),
        (lambda b: presets.ASAM(b, eta=-1, biases=True), "eta"),
        (lambda b: presets.LESAM(b, longest=-1), "longest"),
        (lambda b: presets.MultiStepSAM(b, stride="a"), "stride"),
        (lambda b: presets.RandomSAM(b, seed="a"), "seed"),
    ],
)
def test_settings_out_of_range(build, says):
    with pytest.raises(ValueError, match=says):
        build(sgd(network()))


def test_a_rule_of_ones_own_that_needs_the_scale_gets_the_gradient_proper():
    class Whole(ascent.Ascent):
        needs_scale = True

        def climb(self, slope):
            return list(slope.gradients), ascent.Climb(1.0, False)

    lengths = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        model = network()
        climbed, _ = run(model, SAM(sgd(model), 0.1, ascent=Whole()), 0, scaler)
        lengths.append(family.norm(climbed))
    assert lengths[0] == pytest.approx(lengths[1])


def test_a_rule_of_ones_own_that_gives_too_little():
    class Few(ascent.Ascent):
        def direction(self, slope):
            return slope.gradients[:1]

    class Single(descent.Descent):
        def combine(self, pair):
            return pair.at_w[0]

    for rules, says in (({"ascent": Few()}, "1 directions for 6"), ({"descent": Single()}, "must give a list of 6")):
        model = network()
        with pytest.raises(ValueError, match=says):
            run(model, SAM(sgd(model), 0.1, **rules), 0)


def test_what_it_is_called():
    model = network()
    assert repr(SAM(sgd(model), 0.3)).startswith("SAM(rho=[0.3], base=SGD")
    model, optimizer = made("GSAM")
    assert "Ascent with SurrogateGap" in repr(optimizer)
    optimizer = SAM(sgd(model), lambda step: 0.3, model=model, m=2, audit=False, eps=1e-5)
    assert repr(optimizer).startswith("SAM(rho=[0.3], scheduled, m=2, eps=1e-05, audit=False, base=SGD")
    scoped = repr(SAM(sgd(model), 0.3, model=model, scope=list(model.parameters())[:1]))
    assert ", scope, base=SGD" in scoped
    assert "tensor" not in scoped
    with pytest.raises(TypeError, match="model=model"):
        presets.GSAM(sgd(model), model)


ONE_PASS = {"RandomSAM": {"seed": 3}, "PreviousSAM": {}, "MomentumSAM": {}}


@pytest.mark.parametrize("name", ["SAM", "MultiStepSAM", "GSAM", "FriendlySAM", *ONE_PASS])
def test_loss_and_statistics_are_those_of_the_first_evaluation(name):
    """At w; at w + e with a rule that evaluates nowhere else, and then at the cost of one evaluation."""
    model = training.network(norm=nn.BatchNorm1d)
    optimizer = getattr(presets, name)(sgd(model), rho=0.5, model=model, **ONE_PASS.get(name, {}))
    calls, elsewhere = [], False
    for index in range(3):
        x, y = training.batch(index)
        before = copy.deepcopy(model)

        def closure(x=x, y=y):
            loss = F.cross_entropy(model(x), y)
            calls.append(training.weights(model))
            loss.backward()
            return loss

        calls.clear()
        returned = optimizer.step(closure)
        at_w, there = before, copy.deepcopy(before)
        with torch.no_grad():
            for p, first in zip(there.parameters(), calls[0], strict=True):
                p.copy_(first)
        moved = not same_bits(at_w, there)
        elsewhere |= moved
        assert len(calls) == 1 if name in ONE_PASS else len(calls) >= 2 and not moved
        torch.testing.assert_close(returned, F.cross_entropy(there(x), y), rtol=1e-12, atol=0)
        for b, expected in zip(model.buffers(), there.buffers(), strict=True):
            torch.testing.assert_close(b, expected, rtol=1e-12, atol=1e-14)
        if moved:
            assert abs(returned - F.cross_entropy(at_w(x), y)) > 1e-6
    assert elsewhere == (name in ONE_PASS)
