"""The whole SAM step compiled as one graph: both passes, the ascent between them, and the base optimizer's update."""

import inspect
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lowland.optim.buffers import modules
from lowland.optim.functional import perturbation
from lowland.optim.radii import STEPS
from lowland.optim.sam import SAM, made_elsewhere
from lowland.optim.sharding import is_distributed
from lowland.torch_tools import ddp, refuse_other_models, unwrapped
from lowland.values import ParameterGroup, Tree

# What the groups say while the update is traced and run. The kind of update is one that can be traced, and the
# numbers that schedules change are in tensors: torch would compile for each value of a float, or of a count.
_TRACEABLE = {"foreach": True, "fused": False, "capturable": True, "differentiable": False, STEPS: 0}
_NUMBERS = ("lr", "rho")
# What torch says where there is none, or no Triton.
_NO_COMPILER = ("C++ compiler", "InvalidCxxCompiler", "Compiler: ", "triton installation", "GPUTooOldForTriton")


def compiled_step(
    optimizer: SAM, model: nn.Module, loss_fn: Callable[[Tree, Tree], Tensor], **settings: Tree
) -> Callable[[Tree, Tree], Tensor]:
    """A function ``step(x, y)`` that does what ``optimizer.step(closure)`` does, compiled.

    The closure it stands for runs ``loss_fn(model(x), y).backward()``. It works on the model's own parameters and
    the optimizer's own state: mix the two kinds of step as you like; schedules, state_dicts and evaluation work as
    ever. The first call takes an ordinary step and the second compiles; likewise after `load_state_dict`, and after
    parameters are added, frozen or thawed. A new shape of x or y, ``model.train()`` and ``eval()``, and a change in
    the parameter groups of anything but ``lr`` and ``rho`` cost a compilation each; torch allows eight.

    Args:
        optimizer: around a torch optimizer that keeps its state in tensors; all parameters on one device.
        model: has all parameters of the optimizer. It must be differentiable under `torch.func`, and what it
            changes in itself must be buffers, in place, as batch norm does.
        loss_fn: ``loss_fn(model(x), y)`` is the loss; a function or a module. Parameters that it uses it looks up
            in ``model`` when called, ``model.parameters()`` say.
        settings: handed on to `torch.compile`. Without any, and with parameters on a GPU, ``mode`` is
            "reduce-overhead": a CUDA graph.

    Returns:
        ``step(x, y)``, which returns the loss at w, a 0-d tensor without history. The gradient at w + ε is in
        ``p.grad`` afterwards, in memory that the next call overwrites. Dropout draws its masks from another stream
        than without compilation.

    Raises:
        TypeError: if ``optimizer`` is no SAM, or ``model`` no module.
        ValueError: if a parameter of the optimizer is not the model's or is distributed, the base optimizer is ASGD,
            or SAM isn't the plain one; from the first ``step``, if model or loss do what compiled would be lost.
        RuntimeError: from ``step``, inside a pass, with hooks on the optimizer's step or on a parameter's gradient,
            with hooks on modules that have changed since it was compiled, or where torch can't compile.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, model=model)
        >>> step = compiled_step(optimizer, model, torch.nn.functional.mse_loss)
        >>> loss = step(torch.ones(5, 3), torch.zeros(5, 1))
    """
    if not isinstance(optimizer, SAM):
        raise TypeError(f"compiled_step needs a lowland.SAM, not a {type(optimizer).__name__}")
    refuse_other_models("model", model)
    if isinstance(optimizer.base, torch.optim.ASGD):
        raise ValueError("torch compiles ASGD's update wrongly (its eta stands still): use optimizer.step(closure)")
    _check(optimizer)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if ddp(model) or any(is_distributed(p) for p in params):
        raise ValueError("compiled_step is for one process: compile the model itself under DDP, FSDP2 or with DTensors")
    return _CompiledStep(optimizer, _Objective(unwrapped(model), loss_fn), settings)


def _check(optimizer: SAM) -> None:
    plain = type(optimizer) is SAM and optimizer.is_plain
    if optimizer.m is not None or optimizer.same_masks or not plain:
        raise ValueError("compiled_step compiles plain SAM: no m, no same_masks, no other rule or scope")


class _Objective(nn.Module):
    """Model and loss in one module, so that `functional_call` reaches the parameters that either of them uses."""

    def __init__(self, model: nn.Module, loss_fn: Callable[[Tree, Tree], Tensor]):
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, x: Tree, y: Tree) -> Tensor:
        return self.loss_fn(self.model(x), y)


class _Scalar:
    """A number in a 0-d tensor, which a compiled graph reads anew at each call."""

    def __init__(self, device: torch.device):
        self.tensor, self._value = _static(torch.zeros((), dtype=torch.float64, device=device)), 0.0

    def set(self, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            self.tensor.copy_(value)
            self._value = float("nan")
        elif value != self._value:
            self.tensor.fill_(value)
            self._value = value
        return self.tensor


def _static(tensor: Tensor) -> Tensor:
    torch._dynamo.mark_static_address(tensor)  # a CUDA graph then uses it in place
    return tensor


def _hooks(model: nn.Module) -> list[tuple[int, ...]]:
    """The numbers of those on modules, by which torch knows them."""
    return [
        tuple(hooks)
        for module in modules(model)
        for hooks in (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
        )
        if hooks
    ]  # fmt: skip


class _CompiledStep:
    def __init__(self, optimizer: SAM, objective: _Objective, settings: dict[str, Tree]):
        self.optimizer, self.objective, self.settings = optimizer, objective, settings
        self.made_for: tuple[float, float, int, list[tuple[int, int, bool]]] | None = None
        self.hooks: list[tuple[int, ...]] = []
        self._named()

    def __call__(self, x: Tree, y: Tree) -> Tensor:
        optimizer, groups = self.optimizer, self.optimizer.param_groups
        _check(optimizer)
        for o in (optimizer, optimizer.base):
            if o._optimizer_step_pre_hooks or o._optimizer_step_post_hooks:
                raise RuntimeError("a compiled step can't call hooks on the optimizer's step: use step(closure)")
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for group in groups for p in group["params"]):  # type: ignore[attr-defined]
            raise RuntimeError(
                "a compiled step can't call hooks on a parameter's gradient (register_hook, "
                "register_post_accumulate_grad_hook): use step(closure)"
            )
        parts = [(id(group), id(p), p.requires_grad) for group in groups for p in group["params"]]
        current = optimizer.l2, optimizer.eps, id(optimizer.model), parts
        if current != self.made_for:
            loss = self._ordinary(x, y)
            self._make()
            self.made_for, self.hooks = current, _hooks(self.objective)
            return loss
        if _hooks(self.objective) != self.hooks:
            raise RuntimeError(
                "hooks of modules were added or removed since the step was compiled, which torch doesn't look for: "
                "make another compiled_step"
            )
        with made_elsewhere(optimizer):
            loss = self._run(groups, x, y)
        optimizer._opt_called = True  # type: ignore[attr-defined]  # what torch's schedulers look for
        return loss.clone() if loss.is_cuda else loss  # the next replay of a CUDA graph overwrites its outputs

    def _run(self, groups: list[ParameterGroup], x: Tree, y: Tree) -> Tensor:
        """Run the compiled program with the parameter groups' numbers as tensors, and put the numbers back."""
        for p, gradient in self.gradients:
            p.grad = gradient
        climbs = any(isinstance(group["rho"], Tensor) or group["rho"] != 0 for group in groups)
        own = [{key: group[key] for key in (*_NUMBERS, *_TRACEABLE) if key in group} for group in groups]
        try:
            for group, before, numbers in zip(groups, own, self.numbers, strict=True):
                group.update({k: numbers[k].set(v) if k in numbers else _TRACEABLE[k] for k, v in before.items()})
            with torch.no_grad():
                return self.program(climbs, x, y)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            says = " ".join(str(error).split()[:60])
            raise RuntimeError(f"torch can't compile the step: {says}\n{self._advice(says)}") from error
        finally:
            for group, before in zip(groups, own, strict=True):
                group.update(before)

    def _advice(self, says: str) -> str:
        """What to do where torch fails with what it ``says``."""
        if any(sign in says for sign in _NO_COMPILER):
            return (
                "It takes a C++ compiler on a CPU (the environment variable CXX names it), Triton on a GPU; "
                "optimizer.step(closure) takes neither."
            )
        if any(p.is_complex() for p, _ in self._named().values()):
            return (
                "Some parameters are complex, which torch's inductor has little code for: compiled_step(..., "
                'backend="aot_eager") works without it, or use optimizer.step(closure).'
            )
        return "optimizer.step(closure) does the same without compilation."

    def _named(self) -> dict[str, tuple[Tensor, int]]:
        """The optimizer's parameters, each with the index of its parameter group, by the model's names for them."""
        positions = {id(p): index for index, group in enumerate(self.optimizer.param_groups) for p in group["params"]}
        named: dict[str, tuple[Tensor, int]] = {
            name: (p, positions[id(p)]) for name, p in self.objective.named_parameters() if id(p) in positions
        }
        if len(named) < len(positions):
            raise ValueError("a parameter of the optimizer is not the model's: give the model that has all of them")
        return named

    def _ordinary(self, x: Tree, y: Tree) -> Tensor:
        """Not compiled: shows which parameters the loss depends on, and lets the base optimizer make its state."""
        params = {name: p for name, (p, _) in self._named().items()}

        def closure() -> Tensor:
            before = list(self.objective.buffers())
            twins = {name: p.detach().requires_grad_(p.requires_grad) for name, p in params.items()}
            loss = torch.func.functional_call(self.objective, twins, (x, y))
            loss.backward()
            if any(p.grad is not None for p in params.values()):
                raise ValueError("the loss uses a parameter that it did not take from the model when called")
            if any(old is not new for old, new in zip(before, self.objective.buffers(), strict=True)):
                raise ValueError("the model replaces a buffer in its forward: change it in place, with copy_ or add_")
            for name, p in params.items():
                p.grad = twins[name].grad
            return loss

        return self.optimizer.step(closure).detach()

    def _make(self) -> None:
        objective, base, model = self.objective, self.optimizer.base, self.optimizer.model
        eps, l2 = self.optimizer.eps, self.optimizer.l2
        named = self._named()
        device = next(iter(named.values()))[0].device
        self.groups = list(base.param_groups)  # held, so that no other group gets an id of theirs
        self.numbers = [{key: _Scalar(device) for key in _NUMBERS} for _ in self.groups]
        self.gradients = [(p, None if p.grad is None else _static(torch.zeros_like(p))) for p, _ in named.values()]
        radii = {name: self.numbers[index]["rho"].tensor for name, (p, index) in named.items() if p.grad is not None}
        frozen = {id(buffer) for buffer in model.buffers()} if model is not None else set()
        kept = [name for name, buffer in objective.named_buffers() if id(buffer) in frozen]
        update = inspect.unwrap(type(base).step)  # without the hooks and graph breaks around it

        def program(climbs: bool, x: Tree, y: Tree) -> Tensor:
            params: dict[str, Tensor] = dict(objective.named_parameters())
            buffers = dict(objective.named_buffers())

            def loss(w: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
                return torch.func.functional_call(objective, (w, buffers), (x, y))

            def penalized(gradient: dict[str, Tensor], w: dict[str, Tensor]) -> dict[str, Tensor]:
                return {name: g.add(w[name], alpha=l2) for name, g in gradient.items()} if l2 else gradient

            w = {name: params[name] for name in radii}
            before = buffers | {name: buffers[name].clone() for name in kept} if climbs else buffers
            gradient, value = torch.func.grad_and_value(loss)(w, buffers)
            gradient = penalized(gradient, w)
            if climbs:
                direction = perturbation(gradient, 1.0, eps)
                w = {name: p + radii[name] * direction[name] for name, p in w.items()}
                gradient = penalized(torch.func.grad(loss)(w, before), w)
            for name, g in gradient.items():
                params[name].grad.copy_(g)  # type: ignore[union-attr]
            update(base)
            return value

        settings = self.settings or ({"mode": "reduce-overhead"} if device.type == "cuda" else {})
        # Code of its own: torch counts compilations by code object, and other steps' are not this one's.
        own = types.FunctionType(program.__code__.replace(), program.__globals__, closure=program.__closure__)
        self.program = torch.compile(own, **{"fullgraph": True, "dynamic": False, **settings})
