"""Tools for torch that several packages share: unwrapping models, modes, random states, running uncompiled."""

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: Generators and their states: of torch, by device and None for the CPU; then "python" and "numpy".
States = list[tuple[Any, Any]]
#: What climbs: a function of the model that gives parameters, a module of it, or parameters; None for all.
Scope = Callable[[nn.Module], Iterable[Tensor]] | nn.Module | Iterable[Tensor] | None

#: Entries that torch adds up on a CPU, in float32, to a norm that is right to 1e-5.
LONG = 2**20

_OURS = (str(Path(__file__).parent), str(Path(torch.__file__).parent), contextlib.__file__)
_lock = threading.Lock()
_inside = 0
_stance: Any = None


def in_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """``tensor``, or on a CPU parts of it with at most `LONG` entries, for what is added up over all of them.

    In one go torch's norm in float32 is 3e-3 too small for forty million entries, and 1 % for a hundred million.
    """
    if tensor.device.type != "cpu" or tensor.numel() <= LONG:
        return (tensor,)
    return tensor.reshape(-1).split(LONG)


def level_of_caller() -> int:
    """The ``stacklevel`` that makes a warning issued here point to the first caller outside the library."""
    frame: Any = sys._getframe(1)
    level = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level


def wrappers(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` and the modules inside it, as long as each is a wrapper of DDP, DataParallel or `torch.compile`."""
    while True:
        yield model
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif (inner := getattr(model, "_orig_mod", None)) is not None:
            model = inner
        else:
            return


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside all `wrappers` of ``model``."""
    *_, network = wrappers(model)
    return network


def ddp(model: nn.Module | None) -> nn.parallel.DistributedDataParallel | None:
    """The DDP wrapper around ``model``; None if there is none."""
    found = () if model is None else wrappers(model)
    return next((one for one in found if isinstance(one, nn.parallel.DistributedDataParallel)), None)


def parameters_in(scope: Scope, model: nn.Module | None) -> set[Tensor]:
    """The parameters that a ``scope`` other than None gives.

    Raises:
        TypeError: for something that gives no parameters.
        ValueError: for a function without a model.
    """
    if isinstance(scope, nn.Module):
        chosen: Any = scope.parameters()
    elif callable(scope):
        if model is None:
            raise ValueError("a scope that is a function looks for its parameters in the model: give model=")
        chosen = scope(unwrapped(model))
    else:
        chosen = scope
    found = set(chosen) if isinstance(chosen, Iterable) else {chosen}
    if not all(isinstance(param, Tensor) for param in found):
        raise TypeError("scope= is a function of the model that gives parameters, a module of it, or parameters")
    return found


def fsdp_modules(modules: Iterable[nn.Module]) -> list[Any]:
    """Those of ``modules`` that FSDP2's ``fully_shard`` was applied to."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # if nobody has imported it, there are none
    return [] if fsdp is None else [module for module in modules if isinstance(module, fsdp.FSDPModule)]


def refuse_other_models(name: str, model: Any) -> None:
    """Raise TypeError unless ``model`` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} must be the network itself, a torch.nn.Module, not a {type(model).__name__}")


def refuse_pieces(model: nn.Module) -> None:
    """Raise ValueError if the parameters are sharded over processes, even if they are gathered at the moment."""
    in_pieces = [
        name
        for name, p in model.named_parameters()  # DTensors, and FullyShardedDataParallel's flat parameters
        if hasattr(p, "placements") or getattr(p, "_fsdp_flattened", False)
    ]
    if not in_pieces and fsdp_modules(model.modules()):
        in_pieces = [name for name, _ in model.named_parameters()]
    if in_pieces:
        raise ValueError(
            f"the parameter {in_pieces[0]} lies in pieces in several processes (FSDP or tensor parallelism), and what "
            "is measured needs it whole. Gather the weights "
            "(torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True), load them into "
            "an unsharded copy of the model, and measure that one"
        )


def torch_states(devices: Iterable[torch.device]) -> States:
    """The states of torch's default generators on the CPU and on ``devices``."""
    others = {device for device in devices if device.type != "cpu"}
    cpu: States = [(None, torch.random.get_rng_state())]
    return cpu + [(device, torch.get_device_module(device).get_rng_state(device)) for device in others]


def random_states(params: Iterable[Tensor]) -> States:
    """The states of Python's and NumPy's generators, and of torch's on the CPU and the devices of ``params``."""
    devices = {param.device for param in params}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # parameters may be offloaded to the CPU
        devices.add(torch.device("cuda", torch.cuda.current_device()))
    states = torch_states(devices)
    states.append(("python", random.getstate()))
    if "numpy.random" in sys.modules:
        states.append(("numpy", sys.modules["numpy.random"].get_state()))
    return states


def replay(states: States) -> None:
    """Set the generators to ``states``, from `random_states` or `torch_states`."""
    for generator, state in states:
        if generator is None:
            torch.random.set_rng_state(state)
        elif generator == "python":
            random.setstate(state)
        elif generator == "numpy":
            sys.modules["numpy.random"].set_state(state)
        else:
            torch.get_device_module(generator).set_rng_state(state, generator)


def have_moved(states: States) -> bool:
    """Whether a generator's state differs from ``states``, from `random_states`."""
    now = dict(random_states(torch.empty(0, device=device) for device, _ in states if isinstance(device, torch.device)))
    return not all(_same(state, now[generator]) for generator, state in states)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool((a == b).all()) if hasattr(a, "all") else bool(a == b)


def for_autograd(value: Any) -> Any:
    """``value``, or a copy of a tensor that was made in `torch.inference_mode`, which autograd can't keep."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode; on exit restore the mode of each module."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run functions compiled by `torch.compile` uncompiled inside the context.

    The compiler's stance is global to all threads: the first thread to enter sets it, the last to leave restores it.
    """
    global _inside, _stance
    if "torch._dynamo" not in sys.modules:  # nothing is compiled yet, and importing it is slow
        yield
        return
    with _lock:
        if _inside == 0:
            _stance = torch.compiler.set_stance("force_eager")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _stance.__exit__(None, None, None)
