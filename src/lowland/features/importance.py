"""How much each example contributes to the gradient, at the weights and at SAM's perturbed weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.checks import check_rho
from lowland.features.evaluation import check_batches, evaluated
from lowland.optim.functional import perturbation
from lowland.torch_tools import Scope, parameters_in, refuse_other_models, refuse_pieces, unwrapped


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """The importance weights of all examples, in the order of the batches. Each of the two tensors sums to 1.

    Attributes:
        real: weights at w, float64 ``(n,)``.
        phantom: weights at w + e, float64 ``(n,)``.
    """

    real: Tensor
    phantom: Tensor


@torch.inference_mode(False)
def importance_weights(
    model: nn.Module,
    batches: Iterable[Any],
    rho: float,
    *,
    scope: Scope = None,
    per_batch: bool = False,
    show_progress: bool = True,
) -> ImportanceWeights:
    """The importance weight of each example in the gradient, at w and at SAM's phantom parameters w + e.

    Springer, Nagarajan & Raghunathan 2024, *Sharpness-Aware Minimization Enhances Feature Quality via Balanced
    Learning*. The gradient of the logistic loss log(1 + exp(−y f(x))), y = ±1, is −y λ ∇f(x) with
    λ = sigmoid(−y f(x)); the weights are these λ, normalized to sum 1.

    For more classes, which the paper doesn't treat, λ is the norm of the gradient by the logits, ‖p − onehot(y)‖, with
    p their softmax. For two classes both definitions agree. With one logit f, the gradient by it has the norm
    sigmoid(−y f). With two logits, the gradient is ±(1 − p_y) (1, −1), of norm √2 (1 − p_y), where
    1 − p_y = sigmoid(−y (f₂ − f₁)). The normalization cancels the factor √2.

    e = ρ g/‖g‖, where g is the gradient of the mean loss over **all examples**, so that all examples are weighted at
    the same phantom parameters. Training uses the gradient of the minibatch instead; ``per_batch`` does so, too. The
    model runs in evaluation mode. Weights, gradients, buffers, modes and the global random state are bit for bit the
    same afterwards.

    Args:
        model: returns logits ``(n, classes)``; for two classes also ``(n,)`` or ``(n, 1)``, the logit of the second.
        batches: ``(x, y)`` or ``(x, y, groups)``; the groups aren't used. ``x`` and ``y`` are moved to the model's
            device. ``y`` are classes, integers ``(n,)``; for a single logit 0 and 1, or −1 and 1, also as floats and
            ``(n, 1)``. They are iterated twice, in the same order, so a generator is refused.
        rho: radius ρ ≥ 0 of the perturbation, in the units of the parameters.
        scope: the parameters that are perturbed, as for `lowland.SAM`; by default all that require gradients. Other
            parameters don't count in the norm. ``lowland.optim.scope.last_layer`` is LSAM.
        per_batch: use for each batch the e of its own mean loss.
        show_progress: whether to show a bar on a terminal, after two seconds.

    Returns:
        Both weights, on the model's device. For a zero gradient, and for ρ = 0, they are equal.

    Raises:
        TypeError: if ``batches`` is a generator or a tensor, or not of (x, y); for a scope that gives no parameters.
        ValueError: for ρ out of range; logits of another shape, or not finite at w or w + e; targets that aren't
            classes; a scope without a parameter to perturb, or without one that the logits depend on; batches in
            another order the second time; no examples; sharded parameters (FSDP, tensor parallelism).

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> found = importance_weights(model, [(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1]))], rho=1.0)
        >>> found.real.tolist()
        [0.5, 0.5]
        >>> [round(weight, 3) for weight in found.phantom.tolist()]  # e = −1: sigmoid(1) and sigmoid(3)
        [0.434, 0.566]
    """
    check_rho(rho)
    refuse_other_models("model", model)
    check_batches(batches)
    model = unwrapped(model)
    refuse_pieces(model)
    params = _perturbed(scope, model)
    total = [torch.zeros_like(p) for p in params]
    reached = False
    real, phantom, targets, inputs = [], [], [], list[float]()
    with evaluated(model, batches, "weights at w", show_progress) as pairs:
        for x, others in pairs:
            with torch.enable_grad():
                logits, y = _logits_and_classes(model(x), others)
                loss = F.cross_entropy(logits, y, reduction="sum")
                found = torch.autograd.grad(loss, params, allow_unused=True)
            reached |= any(g is not None for g in found)
            gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
            real.append(_log_pulls(logits.detach(), y))
            targets.append(y)
            inputs += _sums(x)
            if per_batch:
                with torch.no_grad(), _moved(params, perturbation([g / len(y) for g in gradient], rho)):
                    phantom.append(_log_pulls(*_logits_and_classes(model(x), others)))
            else:
                torch._foreach_add_(total, gradient)
    if not reached:
        names = ", ".join(name for name, p in model.named_parameters() if any(p is own for own in params[:8]))
        raise ValueError(
            f"the logits depend on none of the parameters in scope, {names}: hand scope= the layer that is meant"
        )
    n = sum(map(len, targets))
    if not per_batch:
        with (
            torch.no_grad(),
            _moved(params, perturbation([g / n for g in total], rho)),
            evaluated(model, batches, "weights at w + e", show_progress) as pairs,
        ):
            again, inputs_again = [], list[float]()
            for x, others in pairs:
                logits, y = _logits_and_classes(model(x), others)
                phantom.append(_log_pulls(logits, y))
                again.append(y)
                inputs_again += _sums(x)
        if inputs != inputs_again or not torch.equal(torch.cat(again), torch.cat(targets)):
            raise ValueError(
                "the batches are others the second time, in another order or augmented anew: give a list of fixed ones"
            )
    return ImportanceWeights(_normalized(real, "w"), _normalized(phantom, "w + e"))


def _logits_and_classes(output: Any, others: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Logits (n, classes), at least two, and classes (n,). A single logit f becomes the two logits 0 and f."""
    if not others or not isinstance(others[0], Tensor):
        raise TypeError("batches is a list of pairs (x, y) of tensors, [(x, y)] for a single one")
    if not isinstance(output, Tensor) or output.dim() not in (1, 2):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the model must give logits (n,) or (n, classes), not {shape}")
    y = others[0].to(output.device)
    # In float64: for a well fitted example, 1 − p would be 0 in float32.
    logits = output.double() if output.dim() == 2 else output.double()[:, None]
    if logits.shape[1] == 1:
        y = y.flatten()
        if not (((y == 0) | (y == 1)).all() or (y.abs() == 1).all()):
            raise ValueError("with one logit, targets must be 0 and 1, or -1 and 1")
        logits, y = torch.cat([torch.zeros_like(logits), logits], 1), (y > 0).long()
    if y.dim() != 1 or y.is_floating_point() or len(y) != len(logits):
        raise ValueError(f"targets must be classes, integers ({len(logits)},): not {y.dtype} {tuple(y.shape)}")
    if len(y) and not 0 <= y.min() <= y.max() < logits.shape[1]:
        raise ValueError(f"targets must be classes from 0 to {logits.shape[1] - 1}, not {y.min()} to {y.max()}")
    return logits, y.long()


def _log_pulls(logits: Tensor, y: Tensor) -> Tensor:
    """Log ‖softmax(logits) − onehot(y)‖, (n,). In logarithms, because 1 − p_y may be far below rounding."""
    others = logits.log_softmax(1).scatter(1, y[:, None], -torch.inf)
    return torch.cat([others, others.logsumexp(1, keepdim=True)], 1).mul(2).logsumexp(1) / 2


def _normalized(log_pulls: list[Tensor], where: str) -> Tensor:
    every = torch.cat(log_pulls)
    if not torch.isfinite(every).all():
        raise ValueError(f"the logits at {where} are not finite: the network has diverged, or rho is too large")
    return every.softmax(0)


@contextmanager
def _moved(params: list[Tensor], steps: list[Tensor]) -> Iterator[None]:
    """Replace the parameters' tensors by moved copies inside the context; the weights themselves aren't changed."""
    kept = [p.data for p in params]
    try:
        for p, step in zip(params, steps, strict=True):
            p.data = p.data + step
        yield
    finally:
        for p, w in zip(params, kept, strict=True):
            p.data = w


def _sums(x: Tensor) -> list[float]:
    """Sums that identify a batch: the same inputs in the same order give the same, others hardly ever."""
    rows = x.detach().flatten(1) if x.dim() > 1 else x.detach()[:, None]
    if rows.is_complex():
        rows = torch.view_as_real(rows).flatten(1)
    rows = rows.to(torch.float32 if rows.device.type == "mps" else torch.float64).nan_to_num()
    weights = torch.linspace(1, 2, len(rows), dtype=rows.dtype, device=rows.device)
    sums = torch.stack([(weights @ rows).sum(), (weights @ rows.square()).sum()])
    return sums.nan_to_num().tolist()


def _perturbed(scope: Scope, model: nn.Module) -> list[Tensor]:
    trainable: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if scope is not None:
        wanted = parameters_in(scope, model)
        trainable = [p for p in trainable if p in wanted]
    if not trainable:
        raise ValueError("there is nothing to perturb: no parameter of the model in scope requires a gradient")
    return trainable
