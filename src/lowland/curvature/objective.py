"""The mean loss over a set of batches, as a function of one flat parameter vector."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lowland.assigning import Absent, unassignable
from lowland.curvature import reach
from lowland.curvature.batches import Keywords, examples, own_loss, pair
from lowland.curvature.modes import MasksOf
from lowland.curvature.processes import DdpProcesses
from lowland.curvature.vectors import Offsets, as_real, entries, like, real_type
from lowland.torch_tools import for_autograd, refuse_other_models, refuse_pieces, replay, torch_states, uncompiled

LossFn = Callable[[Any, Any], Tensor]
Weight = Callable[[Any, Any], float]
T = TypeVar("T")


_END = object()  # of the batches
_FIXED = "an Objective is one function. Make another; objective.on(batches) is the same over other batches"


def refuse_generator(name: str, batches: Any) -> None:
    """Raise TypeError for what can be iterated only once, or not at all."""
    if not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        raise TypeError(
            f"{name} must be a list of pairs (x, y) or of dictionaries, or a DataLoader: not a {type(batches).__name__}"
        )
    if isinstance(batches, Iterator):
        raise TypeError(f"{name} must be iterable many times over, a list or a DataLoader: not a generator")


@unassignable(
    **dict.fromkeys(
        ("model", "loss_fn", "batches", "weight", "processes", "names", "params", "dtype", "device", "size"), _FIXED
    )
)
class Objective:
    """L(w): the mean of ``loss_fn(model(x), y)`` over the examples of all batches.

    Evaluations leave no trace on the model: its buffers (batch-norm statistics, say) and gradients stay as they
    are, and so does the global random state. Each one draws the same random numbers, so a network with dropout
    in training mode, or a DataLoader that shuffles, is one fixed function here (not so a loader with a generator
    of its own). The model runs in its current mode, not compiled: compiled graphs have no second derivative.

    Vectors are real and of single precision at least, and so are all sums over batches: a complex parameter is its real
    and imaginary parts in turn, as `torch.view_as_real` has them.

    Args:
        model: its parameters that require gradients are w, in the order of ``model.parameters()``.
        loss_fn: gives the mean loss over a batch, a 0-d tensor. It may use ``model.parameters()``, for a penalty say.
            None: the model computes it, and gives it as ``loss``.
        batches: ``(x, y)`` pairs, or dictionaries, of which the model gets the entries by name and ``loss_fn`` the
            whole as y. Iterated once for each evaluation, so a generator is refused.
        weight: what a batch counts, as a function of ``(x, y)``, or of the dictionary twice; by default its number of
            examples, ``len(x)``. For losses that average over tokens or a mask, the number of those.
        params: which of the parameters that require gradients make up w; by default all. The others are constants.
        processes: those that measure together. The mean is over the examples of all their batches, and each must
            take part in every evaluation.
        seed: of the random numbers that every evaluation draws; by default they follow from the global random state.

    Raises:
        TypeError: for a model, ``loss_fn`` or ``weight`` of another kind, or if ``batches`` can't be iterated many
            times; when evaluated, if ``x`` is no tensor and no ``weight`` is given, or ``loss_fn`` gives none.
        ValueError: without a trainable parameter, or if parameters are in pieces (FSDP, tensor parallelism); when
            evaluated, if ``loss_fn`` uses parameters other than through ``model``.
    """

    model: nn.Module
    loss_fn: LossFn
    batches: Iterable[Any]
    weight: Weight
    processes: DdpProcesses | None
    names: tuple[str, ...]
    params: tuple[nn.Parameter, ...]
    dtype: torch.dtype
    device: torch.device
    size: int
    seed = Absent(_FIXED)

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None,
        batches: Iterable[Any],
        *,
        weight: Weight | None = None,
        params: Iterable[Tensor] | None = None,
        processes: DdpProcesses | None = None,
        seed: int | None = None,
    ):
        refuse_other_models("model", model)
        refuse_generator("batches", batches)
        loss_fn = own_loss if loss_fn is None else loss_fn
        for name, function in (("loss_fn", loss_fn), ("weight", weight or len)):
            if not callable(function):
                raise TypeError(f"{name} must be a function, not a {type(function).__name__}")
        refuse_pieces(model)
        self.model, self.loss_fn, self.batches = model, loss_fn, batches
        self.weight = weight or examples
        self.processes = processes
        wanted = None if params is None else set(params)
        trainable = {
            name: p for name, p in model.named_parameters() if p.requires_grad and (wanted is None or p in wanted)
        }
        if not trainable:
            raise ValueError("the model has no parameter that requires a gradient")
        self.names, self.params = tuple(trainable), tuple(trainable.values())
        self.dtype = real_type(self.params)
        self.device = self.params[0].device
        self.size = sum(map(entries, self.params))
        self._double = self._same_masks = False
        self._displaced = Offsets()
        self._reached: list[bool] = []  # shared with copies
        self._random_states = torch_states([self.device])
        if seed is not None:
            self._random_states = [
                (device, torch.Generator(device or "cpu").manual_seed(seed).get_state())
                for device, _ in self._random_states
            ]

    def __repr__(self) -> str:
        """Of which model, and how large."""
        return f"Objective({described(self)})"

    def on(self, batches: Iterable[Any]) -> "Objective":
        """The same over other batches, of this process alone."""
        other = copy(self)
        vars(other).update(batches=batches, processes=None)
        return other

    def in_double(self, same_masks: bool = True) -> "Objective":
        """The same in float64: parameters, buffers and batches are converted where they enter the model.

        Dropout draws the masks that it draws in the parameters' own type, unless ``same_masks`` is False: that doesn't
        reach activations that a backward pass computes again (checkpoints). A model or loss function that has types of
        its own written into it may fail there, or compute in those.
        """
        other = copy(self)
        vars(other).update(dtype=torch.float64, _double=True, _same_masks=same_masks)
        return other

    def flat(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors shaped like the parameters, as one vector ``(size,)``."""
        return torch.cat([as_real(tensor).reshape(-1).to(self.device, self.dtype) for tensor in tensors])

    def shaped(self, vector: Tensor) -> list[Tensor]:
        """A vector ``(size,)`` as tensors shaped, placed and typed like the parameters."""
        params = self._values()
        pieces = vector.split([entries(p) for p in params])
        return [like(piece, p) for piece, p in zip(pieces, params, strict=True)]

    def weighted_batches(self) -> Iterator[tuple[float, Any, Any]]:
        """The batches, each with what it counts.

        Raises:
            TypeError: for a batch that is neither a pair nor a dictionary.
            ValueError: for one that counts less than nothing, or if together they count nothing.
        """
        total = 0.0
        with self._same_randomness():
            batches = iter(self.batches)
        while True:
            with self._same_randomness():  # a DataLoader draws seeds and order here: the same at every evaluation
                batch = next(batches, _END)
            if batch is _END:
                break
            x, y = pair(batch)
            weight = float(self.weight(x, y))
            if not 0 <= weight < math.inf:
                raise ValueError(f"a batch must count a finite number of at least 0, and weight= gave {weight:g}")
            total += weight
            if weight != 0:
                yield weight, x, y
        if not total > 0:
            raise ValueError("there are no examples in the batches")

    def batch_loss(self, x: Any, y: Any, params: Iterable[Tensor] | None = None) -> Tensor:
        """The loss of one batch, differentiable, at the model's own parameters or at ``params``."""
        return self.inside(lambda: self._batch_loss(x, y), params)

    def _batch_loss(self, x: Any, y: Any) -> Tensor:
        with torch.enable_grad(), MasksOf(self.params[0].dtype) if self._same_masks else nullcontext():
            return self.loss_of(self.output(x), y)

    def output(self, x: Any) -> Any:
        """What the model gives for a batch's ``x``; see `inside` for other parameters."""
        if isinstance(x, Keywords):
            return self.model(**self.converted(dict(x)))
        return self.model(self.converted(x))

    def loss_of(self, output: Any, y: Any) -> Tensor:
        """The loss of what the model gave, checked to be one.

        Raises:
            TypeError: if it is no tensor.
            ValueError: if it is not a 0-d tensor of real numbers.
        """
        loss = self.loss_fn(output, self.converted(y))
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"loss_fn must give the mean loss over the batch as a 0-d tensor, not a {type(loss).__name__}: without "
                ".item(), and without what else it may return"
            )
        if loss.dim() != 0:
            raise ValueError(f"loss_fn must give the mean over the batch, not a tensor of shape {tuple(loss.shape)}")
        if loss.is_complex():
            raise ValueError("loss_fn must give a real number, not a complex one: take its abs() or .real")
        return loss

    def inside(self, function: Callable[[], T], params: Iterable[Tensor] | None) -> T:
        """``function()`` while ``params`` are in the places of the model's own, for whoever asks the model for them.

        That is the loss function, too, and a backward pass that computes checkpointed activations again.
        """
        changed = {id(p): value for p, value in zip(self.params, params or (), strict=params is not None)}
        clones = {id(buffer): self.converted(buffer).clone() for buffer in self.model.buffers()}
        if self._double:  # those that are no part of w, too
            frozen = (p for p in self.model.parameters() if id(p) not in changed)
            clones |= {id(p): self.converted(p.detach()) for p in frozen}
        # Every place is named, once: with tie_weights, functional_call would put the tensors of a module that is
        # used at two paths back in the wrong order, and leave the model with tensors for parameters.
        values = {
            f"model.{name}": {**changed, **clones}[id(tensor)]
            for name, tensor in _places(self.model)
            if id(tensor) in changed or id(tensor) in clones
        }
        with self._same_randomness(), uncompiled():
            return torch.func.functional_call(_Inside(self.model), values, (function,), tie_weights=False)

    def leaves(self, offset: Tensor | None = None) -> list[Tensor]:
        """The parameters at w, or at w + ``offset`` ``(size,)``, to differentiate by: none of the model's hooks see it.

        At w they are copies: a forward pass may write to its weights (``nn.Embedding(max_norm=...)``).
        """
        params = self._values()
        if offset is None:
            params = [p.clone() for p in params]
        else:
            self._check_reach()
            params = self._displaced(params, self.shaped(offset))
        return [p.requires_grad_() for p in params]

    def _check_reach(self) -> None:
        """Call `reach.check` for the first batch, once for all copies."""
        if self._reached:
            return
        self._reached.append(True)
        plain = copy(self)
        plain._double = plain._same_masks = False
        _, x, y = next(self.weighted_batches())
        reach.check(plain, x, y)

    def _values(self) -> list[Tensor]:
        return [self.converted(p.detach()) for p in self.params]

    def converted(self, tensors: T) -> T:
        """A tensor, or any structure of them, as this objective computes with it: the same, or `in_double`.

        Those that were made in `torch.inference_mode` are copied: autograd can't keep them.
        """
        return pytree.tree_map(_in_double if self._double else for_autograd, tensors)

    def loss(self, offset: Tensor | None = None) -> Tensor:
        """L, a 0-d tensor, at w or at w + ``offset`` ``(size,)``."""
        params = [p.detach() for p in self.leaves(offset)]
        loss: Tensor = torch.zeros((), device=self.device, dtype=self.dtype)
        total = 0.0
        for weight, x, y in self.weighted_batches():
            loss += weight * self.batch_loss(x, y, params).detach().to(self.dtype)
            total += weight
        return self.mean(total, loss)[0]

    def loss_and_gradient(self, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """L and its gradient ``(size,)`` at w, or at w + ``offset`` ``(size,)``."""
        params = self.leaves(offset)
        loss: Tensor = torch.zeros((), device=self.device, dtype=self.dtype)
        gradient = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        total = 0.0
        for weight, x, y in self.weighted_batches():

            def differentiated(x: Any = x, y: Any = y) -> tuple[Tensor, list[Tensor]]:
                value = self._batch_loss(x, y)
                return value.detach(), self.derivatives(value, params)

            value, pieces = self.inside(differentiated, params)
            gradient.add_(self.flat(pieces), alpha=weight)
            loss += weight * value.to(self.dtype)
            total += weight
        loss, gradient = self.mean(total, loss, gradient)
        return loss, gradient

    def derivatives(self, loss: Tensor, params: list[Tensor], create_graph: bool = False) -> list[Tensor]:
        """Of a `batch_loss` at ``params``, by them.

        Raises:
            ValueError: if the loss depends on the model's own parameters beside ``params``, or has no gradient.
        """
        if not loss.requires_grad:
            raise ValueError(
                "the loss has no gradient by the parameters that are measured: is loss_fn differentiable (an error "
                "rate, argmax, round(), detach() and numbers of Python are not), and does it depend on them?"
            )
        own = torch.autograd.grad(loss, [*params, *self.params], create_graph=create_graph, allow_unused=True)
        if any(piece is not None for piece in own[len(params) :]):
            raise ValueError(reach.BESIDE)
        pieces = zip(own, params, strict=False)
        return [torch.zeros_like(param) if piece is None else piece for piece, param in pieces]

    def mean(self, total: float, *sums: Tensor) -> list[Tensor]:
        """``sums`` over the examples here by ``total``, what these count; over those of all processes, if several."""
        if self.processes is not None:
            counted = torch.tensor(total, device=self.device, dtype=torch.float64)
            total = self.processes.add_up(counted).item()
            sums = tuple(map(self.processes.add_up, sums))
        return [part / total for part in sums]

    @contextmanager
    def _same_randomness(self) -> Iterator[None]:
        before = torch_states([self.device])
        replay(self._random_states)
        try:
            yield
        finally:
            replay(before)


class _Inside(nn.Module):
    """What `functional_call` changes in ``model``, it changes for the time of a function."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], T]) -> T:
        """Call ``function`` and return what it returns."""
        return function()


def _places(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every attribute of every module that holds a parameter or buffer, by the module's first path."""
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, tensor


def _in_double(value: Any) -> Any:
    value = for_autograd(value)
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        return value.to(torch.promote_types(value.dtype, torch.float64))
    return value


def described(objective: Objective) -> str:
    """The model's class, how many numbers w has, and their type and place."""
    kind = str(objective.dtype).removeprefix("torch.")
    return f"{type(objective.model).__name__}, {objective.size:,} parameters, {kind} on {objective.device}"
