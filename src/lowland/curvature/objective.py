"""The mean loss over a set of batches, as a function of one flat parameter vector."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

LossFn = Callable[[Any, Any], Tensor]
Weight = Callable[[Any, Any], float]


class Objective:
    """L(w): the mean of ``loss_fn(model(x), y)`` over the examples of all batches.

    Evaluations leave no trace on the model: its buffers (batch-norm statistics, say) and gradients stay as they
    are, and so does the global random state. Each one draws the same random numbers, so a network with dropout
    in training mode, or a DataLoader that shuffles, is one fixed function here (not so a loader with a generator
    of its own). The model runs in its current mode, not compiled: compiled graphs have no second derivative.

    Args:
        model: its parameters that require gradients are w, in the order of ``model.parameters()``.
        loss_fn: gives the mean loss over a batch, a 0-d tensor.
        batches: ``(x, y)`` pairs; iterated once for each evaluation, so a generator is refused.
        weight: what a batch counts, as a function of ``(x, y)``; by default its number of examples, ``len(x)``.
            For losses that average over tokens or a mask, the number of those.

    Raises:
        TypeError: if ``batches`` can be iterated only once; when evaluated, if ``x`` is no tensor and no
            ``weight`` is given.
        ValueError: without a trainable parameter.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, batches: Iterable[Any], *, weight: Weight | None = None):
        if isinstance(batches, Iterator):
            raise TypeError("batches must be iterable many times over, a list or a DataLoader: not a generator")
        self.model, self.loss_fn, self.batches = model, loss_fn, batches
        self.weight = weight or _examples
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError("the model has no parameter that requires a gradient")
        self.names, self.params = tuple(trainable), tuple(trainable.values())
        self.dtype = reduce(torch.promote_types, (p.dtype for p in self.params))
        self.device = self.params[0].device
        self.size = sum(p.numel() for p in self.params)
        self._random_states = _random_states(self.device)

    def flat(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors shaped like the parameters, as one vector ``(size,)``."""
        return torch.cat([tensor.reshape(-1).to(self.device, self.dtype) for tensor in tensors])

    def shaped(self, vector: Tensor) -> list[Tensor]:
        """A vector ``(size,)`` as tensors shaped, placed and typed like the parameters."""
        pieces = vector.split([p.numel() for p in self.params])
        return [piece.view(p.shape).to(p.device, p.dtype) for piece, p in zip(pieces, self.params, strict=True)]

    def weighted_batches(self) -> Iterator[tuple[float, Any, Any]]:
        """The batches, each with what it counts.

        Raises:
            ValueError: if together they count nothing.
        """
        total = 0.0
        with self._same_randomness():
            batches = iter(self.batches)
        while True:
            with self._same_randomness():  # a DataLoader draws seeds and order here: the same at every evaluation
                batch = next(batches, None)
            if batch is None:
                break
            weight = float(self.weight(*batch))
            total += weight
            if weight != 0:
                yield weight, *batch
        if not total > 0:
            raise ValueError("there are no examples in the batches")

    def batch_loss(self, x: Any, y: Any, params: Iterable[Tensor] | None = None) -> Tensor:
        """The loss of one batch, differentiable, at the model's own parameters or at ``params``."""
        changed = {id(p): value for p, value in zip(self.params, params or (), strict=params is not None)}
        clones = {id(buffer): buffer.clone() for buffer in self.model.buffers()}
        # Every place is named, once: with tie_weights, functional_call would put the tensors of a module that is
        # used at two paths back in the wrong order, and leave the model with tensors for parameters.
        values = {
            name: {**changed, **clones}[id(tensor)]
            for name, tensor in _places(self.model)
            if id(tensor) in changed or id(tensor) in clones
        }
        with torch.enable_grad(), self._same_randomness(), torch.compiler.set_stance("force_eager"):
            loss = self.loss_fn(torch.func.functional_call(self.model, values, (x,), tie_weights=False), y)
        if loss.dim() != 0:
            raise ValueError(f"loss_fn must give the mean over the batch, not a tensor of shape {tuple(loss.shape)}")
        return loss

    def loss_and_gradient(self, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """L and its gradient ``(size,)`` at w, or at w + ``offset`` ``(size,)``."""
        params: list[Tensor] = [p.detach() for p in self.params]
        if offset is not None:
            params = [p + e for p, e in zip(params, self.shaped(offset), strict=True)]
        params = [p.requires_grad_() for p in params]
        loss: Tensor = torch.zeros((), device=self.device, dtype=self.dtype)
        gradient = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        total = 0.0
        for weight, x, y in self.weighted_batches():
            value = self.batch_loss(x, y, params)
            pieces = torch.autograd.grad(value, params, materialize_grads=True)
            gradient.add_(self.flat(pieces), alpha=weight)
            loss += weight * value.detach()
            total += weight
        return loss / total, gradient / total

    @contextmanager
    def _same_randomness(self) -> Iterator[None]:
        before = _random_states(self.device)
        _restore(self._random_states, self.device)
        try:
            yield
        finally:
            _restore(before, self.device)


def _places(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every attribute of every module that holds a parameter or buffer, by the module's first path."""
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, tensor


def _examples(x: Any, y: Any) -> int:
    if not isinstance(x, Tensor):
        raise TypeError(f"how many examples does a batch of {type(x).__name__} hold? Say so with weight=")
    return len(x)


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _restore(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
