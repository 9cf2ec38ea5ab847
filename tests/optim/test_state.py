"""What is saved is complete and resumes to the same bits; what is held in memory is one copy."""

import copy
import pickle
import weakref

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.nn import functional as F

from lowland.optim import SAM, layout
from lowland.optim.m_sam.guesses import GUESSES

from . import textbook
from .training import assert_equal, by_passes, losses, network, same_bits, sgd, train


def started(base=sgd, dtype=torch.float32):
    model = network(dtype)
    optimizer = SAM(base(model), rho=lambda step: 0.3 / (1 + step), model=model)
    return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)


def go_on(model, optimizer, scheduler, steps):
    for step in steps:
        train(model, optimizer, losses(model, step + 1, dtype=torch.float32)[step:], scheduler.step)


BASES = {
    "SGD": sgd,
    "plain SGD": lambda m: torch.optim.SGD(m.parameters(), lr=0.2),
    "AdamW, fused": lambda m: torch.optim.AdamW(m.parameters(), lr=0.02, fused=True),
    "Adafactor": lambda m: torch.optim.Adafactor(m.parameters(), lr=0.02),
}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_a_round_trip_is_exact(base, tmp_path):
    straight, before, after = started(base), started(base), started(base)
    go_on(*straight, range(6))
    go_on(*before, range(2))
    torch.save([part.state_dict() for part in before], tmp_path / "state.pt")
    for part, state in zip(after, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert after[1].state_dict()["param_groups"] == before[1].state_dict()["param_groups"]
    assert after[1].steps == 2
    go_on(*after, range(2, 6))
    assert same_bits(straight[0], after[0])


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_distributed_checkpoints(base, flatten, tmp_path):
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    straight, before, after = started(base), started(base), started(base)
    go_on(*straight, range(6))
    go_on(*before, range(2))
    weights, state = get_state_dict(*before[:2], options=options)
    dcp.save({"model": weights, "optimizer": state, "scheduler": before[2].state_dict()}, checkpoint_id=tmp_path)
    assert before[1].steps == 2
    weights, state = get_state_dict(*after[:2], options=options)
    scheduler = after[2].state_dict()
    dcp.load({"model": weights, "optimizer": state, "scheduler": scheduler}, checkpoint_id=tmp_path)
    set_state_dict(*after[:2], model_state_dict=weights, optim_state_dict=state, options=options)
    after[2].load_state_dict(scheduler)
    assert after[1].steps == 2
    go_on(*after, range(2, 6))
    assert same_bits(straight[0], after[0])


def test_switching_to_sam_in_mid_training():
    ours, expected = network(), network()
    plain, base = sgd(ours), sgd(expected)
    for model, optimizer in ((ours, plain), (expected, base)):
        textbook.train(model, optimizer, losses(model), 0.0)
    plain.zero_grad()
    optimizer = SAM(sgd(ours, lr=99.0), rho=0.3)
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.2
    assert optimizer.param_groups[0]["rho"] == 0.3
    train(ours, optimizer, losses(ours))
    textbook.train(expected, base, losses(expected), 0.3)
    assert_equal(ours, expected)
    back = sgd(ours)
    back.load_state_dict(optimizer.state_dict())  # and away from it again


def test_copies_go_on_alike_and_take_no_pass_with_them():
    model, optimizer, scheduler = started(dtype=torch.float64)
    train(model, optimizer, losses(model))
    optimizer.ascent().__enter__()
    copies = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, SAM(optimizer.base, rho=0.3))))]
    for other_model, other in copies:
        train(other_model, other, losses(other_model))
    assert scheduler.optimizer is optimizer


def test_hooks():
    model = network()
    optimizer = SAM(sgd(model), rho=0.3)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before the step"))
    optimizer.register_step_post_hook(lambda *_: called.append("after it"))
    optimizer.register_state_dict_pre_hook(lambda _: called.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"more": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: {k: v for k, v in state.items() if k != "more"})
    optimizer.register_load_state_dict_post_hook(lambda _: called.append("after loading"))
    train(model, optimizer, losses(model, 1))
    state = optimizer.state_dict()
    assert state["more"] == 1
    optimizer.load_state_dict(state)
    assert called == ["before the step", "after it", "before saving", "after loading"]


def test_a_group_added_to_the_base_follows_the_schedule():
    w, v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=lambda step: 0.1 + step)
    optimizer.base.add_param_group({"params": [v]})
    for _ in range(3):
        train(None, optimizer, [lambda: w.square().sum() + v.square().sum()])
    assert [group["rho"] for group in optimizer.param_groups] == [2.1, 2.1]
    assert optimizer.steps == 3


@pytest.mark.parametrize("keep_on", ["device", "cpu"])
def test_weights_come_back_wherever_they_are_kept_and_in_their_own_memory(keep_on):
    model = network(torch.float32)
    optimizer = SAM(sgd(model), rho=50.0, keep_on=keep_on)
    before = [(p.detach().clone(), p.data_ptr()) for p in model.parameters()]
    with optimizer.ascent():
        losses(model, 1, dtype=torch.float32)[0]().backward()
    with optimizer.perturbed():
        assert not any(torch.equal(p, b) for p, (b, _) in zip(model.parameters(), before, strict=True))
    for p, (b, pointer) in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, b)
        assert p.data_ptr() == pointer
    with pytest.raises(ValueError, match="keep_on"):
        SAM(sgd(model), keep_on="disk")


def test_nothing_is_kept_of_parameters_that_do_not_move():
    model = network()
    groups = [{"params": model[0].parameters(), "rho": 0.0}, {"params": model[2].parameters()}]
    optimizer = SAM(torch.optim.SGD(groups, lr=0.1), rho=0.3)
    train(model, optimizer, losses(model))
    assert [kept.shape for kept in optimizer._own.displacement._copies] == [p.shape for p in model[2].parameters()]


def test_model_moved_to_another_type_between_steps():
    model = network(torch.float32)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3)
    train(model, optimizer, losses(model, 2, dtype=torch.float32))
    model.double()
    train(model, optimizer, losses(model, 2))
    assert optimizer._own.displacement._copies[0].dtype == torch.float64


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """Bytes of tensors that operators made and that still live, at their most."""

    def __init__(self):
        super().__init__()
        self.live, self.now, self.most = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.live:
                    self.live[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.gone, key)
        self.most = max(self.most, self.now)
        return out

    def gone(self, key):
        self.now -= self.live.pop(key)


def test_memory_beyond_the_base_is_one_copy_of_the_parameters():
    def peak(make):
        model = nn.Sequential(*(nn.Linear(300, 300, bias=False) for _ in range(6)))
        x = torch.randn(1, 300)
        step = make(model, lambda: model(x).square().mean())
        step()
        with Peak() as counted:
            step()
        return counted.most, sum(p.nbytes for p in model.parameters())

    def plain(model, loss_fn):
        base = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)

        def step():
            loss_fn().backward()
            base.step()
            base.zero_grad()

        return step

    def sam(model, loss_fn):
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, foreach=False), rho=0.1)

        return lambda: by_passes(optimizer, loss_fn)

    (base, size), (ours, _) = peak(plain), peak(sam)
    copy_of_w = size  # it was made in the first step, before the counting
    assert ours + copy_of_w - base <= 1.05 * size


def taught(kind):
    """m-SAM's model, a function that makes a SAM of it, and the losses of batches of several sizes, by their number.

    What the first batches teach changes bits of the later ones: a memory limit parts them, or they go by the loop.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    data = [torch.randn(n, 6) for n in (16, 6, 7, 12)]

    def losses(model, index):
        out = model(data[index])
        if kind == "loop" and index == 0:
            out = out * float(out.detach()[0, 0] * 0 + 1)  # leaves torch, which nobody can follow
        return F.cross_entropy(out, torch.arange(len(out)) % 3, reduction="none")

    def make(model):
        limit = 500 if kind == "memory limit" else None
        return SAM(sgd(model), rho=0.3, model=model, m=1, memory_limit=limit)

    return model, make, losses


@pytest.mark.filterwarnings("ignore:m-SAM goes group by group")
@pytest.mark.parametrize("how", ["file", "packed", "pickle", "copy"])
@pytest.mark.parametrize("kind", ["memory limit", "loop", "nothing"])
def test_what_batches_have_taught_goes_along(kind, how, tmp_path, monkeypatch):
    model, make, losses = taught(kind)
    if how == "packed":
        monkeypatch.setattr(layout, "is_torchs", lambda *_: False)
    optimizer = make(model)
    optimizer.step(lambda: losses(model, 0))
    if how in ("file", "packed"):
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
        saved = torch.load(tmp_path / "state.pt", weights_only=True)
        other = taught(kind)[0]
        other.load_state_dict(saved["model"])
        resumed = make(other)
        resumed.load_state_dict(saved["optimizer"])
        assert sorted(resumed.param_groups[0]) == sorted(make(other).param_groups[0])
    else:
        both = (model, optimizer)
        other, resumed = pickle.loads(pickle.dumps(both)) if how == "pickle" else copy.deepcopy(both)
    for index in (1, 2, 3, 0):
        optimizer.step(lambda i=index: losses(model, i))
        resumed.step(lambda i=index: losses(other, i))
        assert same_bits(other, list(model.parameters()))
        assert (optimizer.last is None) == (resumed.last is None) == (kind == "loop")


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.filterwarnings("ignore:m-SAM goes group by group")
def test_distributed_checkpoints_with_what_batches_have_taught(flatten, tmp_path):
    """They read what a new optimizer's state has: without that, whichever of the two has learnt something."""
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    for of_saved, of_loaded in (("loop", "nothing"), ("nothing", "loop")):
        model, make, losses = taught(of_saved)
        optimizer = make(model)
        optimizer.step(lambda model=model, losses=losses: losses(model, 0))
        _, state = get_state_dict(model, optimizer, options=options)
        folder = tmp_path / of_saved
        dcp.save({"optimizer": state}, checkpoint_id=folder, no_dist=True)
        other, make, losses = taught(of_loaded)
        resumed = make(other)
        _, state = get_state_dict(other, resumed, options=options)
        dcp.load({"optimizer": state}, checkpoint_id=folder, no_dist=True)
        set_state_dict(other, resumed, model_state_dict=model.state_dict(), optim_state_dict=state, options=options)
        optimizer.step(lambda model=model, losses=losses: losses(model, 1))
        resumed.step(lambda model=other, losses=losses: losses(model, 1))
        assert_equal(model, other, tol=1e-6)


def test_the_guess_that_held_goes_along():
    model, make, losses = taught("nothing")
    optimizer, resumed = make(model), make(model)
    optimizer.step(lambda: losses(model, 0))
    optimizer._own.engine.learnt.guess = GUESSES[2]
    optimizer.step(lambda: losses(model, 1))
    resumed.load_state_dict(optimizer.state_dict())
    resumed.step(lambda: losses(model, 1))
    assert resumed._own.engine.learnt.guess == optimizer._own.engine.learnt.guess == GUESSES[2]
    state = optimizer.state_dict()
    state["param_groups"][0]["sam_guess"] = 99  # a later version's
    resumed.load_state_dict(state)
    resumed.step(lambda: losses(model, 1))
    assert resumed._own.engine.learnt.guess == GUESSES[0]


def test_a_state_without_what_batches_have_taught_and_what_takes_it_back():
    """Of an earlier version, or of other settings: learnt anew."""
    model, make, losses = taught("loop")
    optimizer = make(model)
    with pytest.warns(UserWarning, match="m-SAM goes group by group"):
        optimizer.step(lambda: losses(model, 0))
    saved, old = optimizer.state_dict(), optimizer.state_dict()
    for group in old["param_groups"]:
        del group["sam_loop"]
    resumed = make(model)
    resumed.load_state_dict(old)
    resumed.step(lambda: losses(model, 1))
    assert resumed.last is not None
    resumed.load_state_dict(saved)
    with pytest.warns(UserWarning, match="it did when the state was saved .* tries the two passes again"):
        resumed.step(lambda: losses(model, 1))
    assert resumed.last is None
    resumed.m = resumed.m
    resumed.step(lambda: losses(model, 1))
    assert resumed.last is not None
    assert "sam_loop" not in resumed.state_dict()["param_groups"][0]
    base = sgd(model)
    base.load_state_dict(saved)  # the other way round
    base.step()
