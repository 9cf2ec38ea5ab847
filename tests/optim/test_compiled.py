"""The compiled step against `SAM.step`, in float64, from the same start."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland import SAM, compat
from lowland.optim import ascent, descent
from lowland.optim.compiled import compiled_step

pytestmark = pytest.mark.slow  # each compiles


@pytest.fixture(autouse=True)
def _double():
    """For Adam's count of steps too, which has the default dtype and from which its compiled update computes."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# "aot_eager" makes the graph that inductor would get, without its minutes; "eager" only traces, in half the time.


def network():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def normalized():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(self.b(self.a(x).tanh()).tanh())


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.used(x)


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), lr=0.1, **settings)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def grouped(model):
    groups = [
        {"params": model[0].parameters(), "lr": 0.05, "weight_decay": 0.1},
        {"params": [model[2].weight], "rho": 0.5},
        {"params": [model[2].bias], "rho": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def batches(number, size=8):
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(number)
    ]


class Pair:
    """Two copies of a model, one for each kind of step."""

    def __init__(
        self, make_model=network, make_base=sgd, backend="eager", own_model=False, loss_fn=F.cross_entropy, **sam
    ):
        torch.manual_seed(0)
        self.eager_model = make_model()
        self.model = copy.deepcopy(self.eager_model)
        self.loss_fn, self.sam, self.own_model, self.make_base = loss_fn, sam, own_model, make_base
        self.eager, self.optimizer = self.around(self.eager_model), self.around(self.model)
        self.step = compiled_step(self.optimizer, self.model, loss_fn, backend=backend)

    def around(self, model):
        return SAM(self.make_base(model), **{"rho": 0.1, **self.sam}, model=model if self.own_model else None)

    def eager_step(self, x, y, optimizer=None, model=None):
        optimizer, model = optimizer or self.eager, model or self.eager_model

        def closure():
            loss = self.loss_fn(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(closure)

    def both(self, x, y):
        torch.testing.assert_close(self.step(x, y), self.eager_step(x, y).detach())

    def check(self):
        # The bias before a batch norm has a gradient of zero but for rounding, which Adam blows up.
        torch.testing.assert_close(self.model.state_dict(), self.eager_model.state_dict(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(self.optimizer.base.state_dict(), self.eager.base.state_dict(), rtol=1e-9, atol=1e-9)
        for ours, theirs in zip(self.model.parameters(), self.eager_model.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
        assert self.optimizer.steps == self.eager.steps


@pytest.fixture
def compilations():
    """A function that says how many graphs were compiled since the test began."""
    counters = torch._dynamo.utils.counters
    counters.clear()
    return lambda: counters["stats"]["unique_graphs"]


CASES = {
    "sgd": {},
    "nesterov": {"make_base": lambda m: sgd(m, momentum=0.9, weight_decay=1e-2, nesterov=True)},
    "fused": {"make_base": lambda m: sgd(m, momentum=0.9, fused=True)},
    "adam": {"make_base": lambda m: torch.optim.Adam(m.parameters(), lr=0.01, amsgrad=True, foreach=True)},
    "adamw": {"make_base": adamw},
    "rmsprop": {"make_base": lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01)},
    "groups": {"make_base": grouped},
    "large eps": {"eps": 0.5},
    "batch norm": {"make_model": normalized, "own_model": True},
    "batch norm moved twice": {"make_model": normalized},
    "no ascent": {"make_model": normalized, "rho": 0.0},
    "tied": {"make_model": Tied},
    "unused": {"make_model": Unused, "make_base": lambda m: sgd(m, weight_decay=0.1)},
    "loss with parameters": {"loss_fn": nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3]).double())},
}


@pytest.mark.parametrize("case", CASES)
def test_six_steps_are_those_of_step_and_one_graph(case, compilations):
    pair = Pair(**CASES[case], backend="aot_eager")
    for x, y in batches(6):
        pair.both(x, y)
    pair.check()
    assert compilations() == 1


@pytest.mark.usefixtures("cpp_compiler")
def test_with_inductor():
    pair = Pair(make_model=normalized, make_base=adamw, own_model=True, backend="inductor")
    for x, y in batches(6):
        pair.both(x, y)
    pair.check()


def test_schedules_of_lr_and_rho_compile_nothing_anew(compilations):
    pair = Pair(make_base=grouped, rho=lambda step: 0.1 + 0.05 * step)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.8) for o in (pair.optimizer, pair.eager)]
    for x, y in batches(6):
        pair.both(x, y)
        for schedule in schedules:
            schedule.step()
    pair.check()
    assert compilations() == 1
    assert [group["lr"] for group in pair.optimizer.param_groups] == [group["lr"] for group in pair.eager.param_groups]


def test_rho_may_become_zero_and_return(compilations):
    pair = Pair(make_model=normalized)
    for rho, (x, y) in zip([0.1, 0.1, 0.0, 0.0, 0.2, 0.0], batches(6), strict=True):
        for optimizer in (pair.optimizer, pair.eager):
            optimizer.param_groups[0]["rho"] = rho
        pair.both(x, y)
    pair.check()
    assert compilations() == 2


def test_a_smaller_last_batch_compiles_once(compilations):
    pair = Pair()
    for _ in range(2):
        for x, y in [*batches(2), *batches(1, size=5)]:
            pair.both(x, y)
    pair.check()
    assert compilations() == 2


def test_mixed_with_ordinary_steps_and_zero_grad(compilations):
    pair = Pair(make_base=lambda m: sgd(m, momentum=0.9))
    for number, (x, y) in enumerate(batches(6)):
        if number in (2, 4):
            pair.eager_step(x, y, pair.optimizer, pair.model)
            pair.eager_step(x, y)
        else:
            pair.both(x, y)
            pair.optimizer.zero_grad()
            pair.eager.zero_grad()
    assert compilations() == 1
    pair.both(x, y)
    pair.check()


@pytest.mark.parametrize("make_base", [lambda m: sgd(m, momentum=0.9), adamw])
def test_resumes_from_a_state_dict(make_base):
    pair = Pair(make_base=make_base)
    for x, y in batches(3):
        pair.both(x, y)
    saved = copy.deepcopy((pair.model.state_dict(), pair.optimizer.state_dict()))
    for x, y in batches(2):
        pair.step(x, y)
    pair.model.load_state_dict(saved[0])
    pair.optimizer.load_state_dict(saved[1])
    for x, y in batches(3):
        pair.both(x, y)
    pair.check()


def test_frozen_and_thawed():
    pair = Pair(make_base=lambda m: sgd(m, weight_decay=0.1))
    for number, (x, y) in enumerate(batches(6)):
        for model in (pair.model, pair.eager_model):
            model[0].requires_grad_(number >= 3)
        pair.both(x, y)
    pair.check()


def test_a_group_added():
    pair = Pair(make_base=lambda m: torch.optim.SGD(m[0].parameters(), lr=0.1))
    for number, (x, y) in enumerate(batches(5)):
        if number == 2:
            pair.optimizer.add_param_group({"params": list(pair.model[2].parameters()), "lr": 0.05})
            pair.eager.add_param_group({"params": list(pair.eager_model[2].parameters()), "lr": 0.05})
        pair.both(x, y)
        for optimizer, model in ((pair.optimizer, pair.model), (pair.eager, pair.eager_model)):
            optimizer.zero_grad()
            model.zero_grad()
    torch.testing.assert_close(pair.model.state_dict(), pair.eager_model.state_dict())


@pytest.mark.parametrize("inputs", [float("inf"), 0.0])
def test_a_gradient_not_finite_or_zero_moves_nothing(inputs):
    """The perturbation is zero, so that the step is the base optimizer's; NaN where its is NaN."""
    pair = Pair(make_model=lambda: nn.Linear(4, 1, bias=False), loss_fn=lambda out, y: (out - y).square().mean())
    x, y = torch.ones(8, 4), torch.ones(8, 1)
    pair.both(x, y)
    x = x.clone()
    x[:, 1] = inputs
    y = y if inputs else pair.model(x).detach()
    for optimizer in (pair.optimizer, pair.eager):
        optimizer.param_groups[0]["rho"] = 1e3
    for step in (pair.step, pair.eager_step):
        step(x, y)
    torch.testing.assert_close(pair.model.weight, pair.eager_model.weight, equal_nan=True)


def test_dropout_draws_and_eval_does_not():
    pair = Pair(make_model=lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)))
    for group in pair.optimizer.param_groups:
        group["lr"] = 0.0
    ((x, y),) = batches(1)
    losses = [pair.step(x, y).item() for _ in range(5)]
    assert len(set(losses)) == 5
    pair.model.eval()
    assert len({pair.step(x, y).item() for _ in range(3)}) == 1


def test_under_autocast():
    pair = Pair(rho=1.0)
    pair.model.float()
    pair.eager_model.float()
    with torch.autocast("cpu", torch.bfloat16):
        for x, y in batches(4):
            pair.step(x.float(), y)
    for x, y in batches(4):

        def closure(x=x, y=y):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(pair.eager_model(x.float()), y)
            loss.backward()
            return loss

        pair.eager.step(closure)
    torch.testing.assert_close(pair.model.state_dict(), pair.eager_model.state_dict(), rtol=1e-2, atol=1e-3)


def test_a_loss_that_reads_the_models_parameters():
    def make_loss(model):
        return lambda out, y: F.cross_entropy(out, y) + sum(p.square().sum() for p in model.parameters())

    pair = Pair(make_model=lambda: nn.Linear(4, 3))
    pair.step = compiled_step(pair.optimizer, pair.model, make_loss(pair.model), backend="eager")
    pair.loss_fn = make_loss(pair.eager_model)
    for x, y in batches(3):
        pair.both(x, y)
    pair.check()


def test_what_compiled_would_be_lost_is_refused_and_nothing_moves():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return super().forward(x)

    ((x, y),) = batches(1)
    pair = Pair(make_model=Counting)
    with pytest.raises(ValueError, match="replaces a buffer"):
        pair.step(x, y)
    weight = pair.model.weight
    before = weight.detach().clone()
    step = compiled_step(pair.optimizer, pair.model, lambda out, y: F.cross_entropy(out, y) + weight.sum())
    with pytest.raises(ValueError, match="did not take from the model"):
        step(x, y)
    assert torch.equal(weight, before)
    assert pair.optimizer.steps == 0


def test_many_steps_for_many_models():
    """Torch's limit of compilations, eight if it isn't told otherwise, is each step's own."""
    ((x, y),) = batches(1)
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(3):
            pair = Pair(make_model=lambda: nn.Linear(4, 3))
            pair.step(x, y)
            pair.step(x, y)


def test_a_scheduler_made_late_does_not_warn():
    pair = Pair()
    ((x, y),) = batches(1)
    pair.step(x, y)
    schedule = torch.optim.lr_scheduler.StepLR(pair.optimizer, 5)
    pair.step(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.step()


def test_without_a_compiler():
    pair = Pair(backend="inductor", make_base=lambda m: sgd(m, momentum=0.9))
    ((x, y),) = batches(1)
    pair.both(x, y)
    before = copy.deepcopy((pair.model.state_dict(), pair.optimizer.state_dict()))
    with torch._inductor.config.patch({"force_disable_caches": True, "cpp.cxx": (None, "/no/compiler")}):
        with pytest.raises(RuntimeError, match=r"C\+\+ compiler.*optimizer.step\(closure\)"):
            pair.step(x, y)
    torch.testing.assert_close((pair.model.state_dict(), pair.optimizer.state_dict()), before)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.last = nn.Parameter(torch.randn(4, 5, dtype=torch.complex128)), nn.Linear(5, 3)

    def forward(self, x):
        return self.last((x.to(self.w.dtype) @ self.w).abs())


@pytest.mark.filterwarnings("ignore:Torchinductor does not support")
def test_complex_parameters():
    """Right where the backend can, and nobody blames a compiler where it can't."""
    pair = Pair(make_model=Complex)
    for x, y in batches(3):
        pair.both(x, y)
    pair.check()
    pair = Pair(make_model=Complex, backend="inductor")
    ((x, y),) = batches(1)
    pair.step(x, y)
    with pytest.raises(RuntimeError, match=r'complex.*backend="aot_eager"') as caught:
        pair.step(x, y)
    assert "C++" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_another_failure_of_the_backend_is_no_missing_compiler():
    def broken(graph, inputs):
        raise ValueError("out of ideas")

    pair = Pair(backend=broken)
    ((x, y),) = batches(1)
    pair.step(x, y)
    with pytest.raises(RuntimeError, match=r"out of ideas[\s\S]*does the same without compilation") as caught:
        pair.step(x, y)
    assert "C++" not in str(caught.value)


def test_refusals():
    model = network()
    with pytest.raises(TypeError, match="a lowland"):
        compiled_step(sgd(model), model, F.cross_entropy)
    with pytest.raises(TypeError, match="the network itself"):
        compiled_step(SAM(sgd(model)), model.forward, F.cross_entropy)
    with pytest.raises(ValueError, match="not the model's"):
        compiled_step(SAM(sgd(model)), model[0], F.cross_entropy)
    with pytest.raises(ValueError, match="ASGD"):
        compiled_step(SAM(torch.optim.ASGD(model.parameters())), model, F.cross_entropy)
    others = {"ascent": ascent.Unnormalized()}, {"descent": descent.StepSize()}, {"scope": model[0]}
    for options in ({"m": 1}, {"same_masks": True}, *others):
        with pytest.raises(ValueError, match="plain SAM"):
            compiled_step(SAM(sgd(model), model=model, **options), model, F.cross_entropy)
    with pytest.raises(ValueError, match="plain SAM"):
        compiled_step(compat.SAM(model.parameters(), torch.optim.SGD, lr=0.1), model, F.cross_entropy)
    pair = Pair()
    ((x, y),) = batches(1)
    pair.step(x, y)
    with pytest.raises(RuntimeError, match="inside the ascent pass"), pair.optimizer.ascent():
        pair.step(x, y)
    pair.optimizer.base.register_step_post_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="hooks"):
        pair.step(x, y)


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_a_parameters_gradient_are_refused(kind):
    """They were dropped: a mask on the gradient of a pruned weight, say."""
    pair = Pair()
    (batch,) = batches(1)
    handle = getattr(next(pair.model.parameters()), kind)(lambda g: None)
    with pytest.raises(RuntimeError, match="can't call hooks on a parameter's gradient"):
        pair.step(*batch)
    handle.remove()
    pair.both(*batch)


def test_hooks_on_modules_that_come_later_are_refused():
    """Those that are there from the first step on are compiled with it; torch has no eye for others."""
    pair = Pair()

    def doubled(module, args, output):
        return 2 * output

    for model in (pair.eager_model, pair.model):
        first = model[0].register_forward_hook(doubled)
    for batch in batches(3):
        pair.both(*batch)
    second = pair.model[0].register_forward_hook(doubled)
    with pytest.raises(RuntimeError, match="make another compiled_step"):
        pair.step(*batch)
    second.remove()
    pair.both(*batch)
    pair.check()
    first.remove()
    with pytest.raises(RuntimeError, match="make another compiled_step"):
        pair.step(*batch)
