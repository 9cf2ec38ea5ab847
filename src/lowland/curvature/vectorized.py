"""Where many runs of one network stand with respect to their edges of stability: one check for all of them."""

import math
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lowland.checks import count, radius
from lowland.curvature.alignment import alignment
from lowland.curvature.arguments import check_eps, check_tolerance, step_size
from lowland.curvature.certify import Claims, Gradients, amended, objections
from lowland.curvature.lanczos import Eigenpairs, eigenpairs_of_many
from lowland.curvature.nondeterminism import DeterminismCheck
from lowland.curvature.objective import LossFn, Objective
from lowland.curvature.second_order import Region, differentiable_twice
from lowland.curvature.stability import Stability
from lowland.curvature.vectors import Offsets, as_real, coarsest, entries, euclidean_norm, like, real_type
from lowland.curvature.wanted import Wanted
from lowland.edges import sam_edge
from lowland.optim.functional import EPS, perturbation

_BUSY = 500_000  # parameters times examples: from about here on one run keeps a core busy, see `_Networks.several`


def stability_of_stack(
    model: nn.Module,
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    x: Any,
    y: Any,
    *,
    shared: bool,
    lr: Sequence[float],
    rho: Sequence[float],
    eps: float = EPS,
    tol: float = 1e-3,
    starts: Sequence[Tensor | None] | None = None,
    chunk: int | None = None,
) -> list[Stability | FloatingPointError]:
    """`lowland.curvature.stability` of N runs of one network, each at its own weights and on its own batch.

    Every operation is one for all runs (`torch.vmap`), from the loss to the Lanczos iteration. The figures are those
    of one run at a time, up to rounding. So are the checks of the eigenpairs, at the same price, and a loss that isn't
    the same twice is refused at that of one loss more.

    Args:
        model: one of the networks, for its code; it stays untouched. Buffers and frozen parameters are its own in all
            runs, and the forward pass must not change them (batch norm in training mode does).
        loss_fn: ``loss_fn(model(x), y)`` gives the mean loss over a run's batch, a 0-d tensor.
        params: name → ``(N, *shape)`` of all the model's parameters that require gradients.
        x: inputs of each run, ``(N, n, ...)``, or of all runs, ``(n, ...)``.
        y: targets, likewise.
        shared: whether it is one batch for all.
        lr: each run's step size η.
        rho: each run's ascent radius ρ.
        eps: added to the gradient norm in the ascent.
        tol: relative residual of the eigenpairs.
        starts: for each run the ``vector`` of its last check, or None.
        chunk: measure so many runs at a time. By default all, but one by one where parameters times examples of a run
            exceed half a million on a CPU: kernels for several are no faster there than one after another. The memory
            is that of so many runs at once: activations and derivatives of their batches, and for each run up to 128
            vectors of as many entries as it has parameters.

    Returns:
        For each run what `stability` would return, or the FloatingPointError that it would raise: the other runs don't
        notice.

    Raises:
        ValueError: for lengths or names that don't fit, a negative or non-finite ρ, an η that is not positive; where
            two evaluations at the same weights differ.
        RuntimeError: where an operation has no second derivative.

    Warns:
        UserWarning: with the reason, where ``converged`` is False.
    """
    for name, values in (("lr", lr), ("rho", rho)):
        if not hasattr(values, "__len__") or isinstance(values, str):
            raise TypeError(f"{name} must be a sequence with a number for each run, not {values!r}")
    lr, rho = list(map(step_size, lr)), list(map(radius, rho))
    check_eps(eps)
    check_tolerance(tol)
    runs = len(lr)
    starts = [None] * runs if starts is None else starts
    networks = _Networks(Objective(model, loss_fn, [(x, y)]), params, x, y, shared)
    if not (networks.runs == len(rho) == len(starts) == runs):
        raise ValueError(
            f"params are of {networks.runs} runs, and there are {runs} step sizes, {len(rho)} radii, "
            f"{len(starts)} starts"
        )
    chunk = networks.several() if chunk is None else chunk
    count("chunk", chunk)
    results: list[Stability | FloatingPointError] = []
    for first in range(0, runs, chunk):
        some = list(range(runs))[first : first + chunk]
        with differentiable_twice(model) as networks.region:
            found = _measure(networks, some, rho, eps, tol, starts)
        for run, measured in zip(some, found, strict=True):
            if isinstance(measured, FloatingPointError):
                results.append(measured)
            else:
                edge = sam_edge(measured["gradient_norm"], lr[run], rho[run])
                results.append(Stability(**measured, edge=edge, gd_edge=2 / lr[run]))
    reasons = [found.reason for found in results if isinstance(found, Stability) and not found.converged]
    if reasons:
        warnings.warn(
            f"the Hessian norms of {len(reasons)} of {runs} runs are not certified; of the first: {reasons[0]}",
            stacklevel=2,
        )
    return results


def _measure(
    networks: "_Networks",
    runs: list[int],
    rho: Sequence[float],
    eps: float,
    tol: float,
    starts: Sequence[Tensor | None],
) -> list[dict[str, Any] | FloatingPointError]:
    """Everything in a `Stability` but the edges, by name, of each of ``runs``."""
    products = _Products(networks, runs)
    losses, gradients = products.losses, products.gradients
    found: dict[int, Any] = {
        run: FloatingPointError(f"the loss is {loss}")
        for run, loss in zip(runs, losses.tolist(), strict=True)
        if not math.isfinite(loss)
    }
    finite = [row for row, run in enumerate(runs) if run not in found]
    if finite:
        seen = DeterminismCheck(networks.params, networks.dtype)
        again = [runs[row] for row in finite]
        seen(losses[finite])
        seen(networks.losses(networks.leaves(again), again).detach())
    pairs = eigenpairs_of_many(
        lambda vectors, active: products(vectors, [finite[i] for i in active]),
        networks.size, [starts[runs[row]] for row in finite], Wanted(1, tol), networks.dtype, networks.device,
    )  # fmt: skip
    products.forget()
    pairs = _certified(networks, [runs[row] for row in finite], pairs, gradients[finite], tol)
    found |= {runs[row]: pair for row, pair in zip(finite, pairs, strict=True)}
    rows = [row for row, run in enumerate(runs) if isinstance(found[run], Eigenpairs)]
    if rows:
        good = [runs[row] for row in rows]
        gradient, radii = gradients[rows], [rho[run] for run in good]
        vectors = torch.cat([found[run].vectors for run in good])
        sam = _sam_gradient(networks, good, gradient, radii, eps)
        columns = {
            "loss": losses[rows],
            "gradient_norm": euclidean_norm(gradient),
            "gradient_alignment": torch.vmap(alignment)(gradient, vectors),
            "sam_gradient_alignment": torch.vmap(alignment)(sam, vectors),
        }
        for run, *figures in zip(good, *(column.tolist() for column in columns.values()), strict=True):
            pair = found[run]
            found[run] = {
                **dict(zip(columns, figures, strict=True)),
                "hessian_norm": abs(pair.values.item()),
                "residual": pair.residuals.item(),
                "products": pair.products,
                "converged": pair.converged,
                "vector": pair.vectors[0],
                "reason": pair.reason,
                "eigenvalues": (pair.values.item(),),
            }
    return [found[run] for run in runs]


def _certified(
    networks: "_Networks", runs: list[int], pairs: list[Eigenpairs | FloatingPointError], gradients: Tensor, tol: float
) -> list[Eigenpairs | FloatingPointError]:
    """``pairs`` as `lowland.curvature.certify` has them."""
    rows = [row for row, pair in enumerate(pairs) if isinstance(pair, Eigenpairs)]
    good = [pair for pair in pairs if isinstance(pair, Eigenpairs)]
    if not good:
        return pairs
    values, vectors = torch.cat([pair.values for pair in good]), torch.cat([pair.vectors for pair in good])
    claims = Claims(
        vectors, values[:, None] * vectors, torch.cat([pair.residuals for pair in good]).double().cpu(),
        values.abs().double().cpu(), gradients[rows], coarsest(networks.params) > torch.finfo(torch.float32).eps,
        networks.region is not None and networks.region.kinks,
    )  # fmt: skip
    some = [runs[row] for row in rows]
    checked = pairs.copy()
    found = objections(claims, networks.gradients(some), lambda: networks.in_double().gradients(some), tol)
    for row, pair, objection in zip(rows, good, found, strict=True):
        checked[row] = amended(pair, [objection], tol, pair.values.abs().item(), claims.coarse)
    return checked


def _sam_gradient(networks: "_Networks", runs: list[int], gradient: Tensor, rho: list[float], eps: float) -> Tensor:
    """Each run's ∇L(w + ε), ``(a, size)``, given that at w: the same where ρ = 0."""
    rows = [row for row, radius in enumerate(rho) if radius > 0]
    if not rows:
        return gradient
    radii = torch.tensor([rho[row] for row in rows], dtype=gradient.dtype, device=gradient.device)
    offsets = torch.vmap(perturbation, in_dims=(0, 0, None))(gradient[rows], radii, eps)
    climbing = [runs[row] for row in rows]
    leaves = networks.leaves(climbing, offsets)
    gradient = gradient.clone()
    gradient[rows] = networks.gradient(leaves, climbing)
    return gradient


class _Networks:
    """The losses of N runs as functions of their parameters, flat ``(a, size)`` or shaped ``(a, *shape)``."""

    def __init__(self, objective: Objective, params: Mapping[str, Tensor], x: Any, y: Any, shared: bool):
        if not isinstance(params, Mapping):
            raise TypeError(f"params must be a mapping of names to tensors, not a {type(params).__name__}")
        if set(params) != set(objective.names):
            odd = sorted(set(params) ^ set(objective.names))
            raise ValueError(f"params must name the model's parameters that require gradients: {', '.join(odd)}")
        self.objective, self.x, self.y, self.shared = objective, x, y, shared
        self.params = [params[name].detach() for name in objective.names]
        for name, batched, param in zip(objective.names, self.params, objective.params, strict=True):
            shape = (len(self.params[0]), *param.shape)
            if batched.shape != shape:
                raise ValueError(f"{name} of all runs must have the shape {shape}, not {tuple(batched.shape)}")
        self.runs = len(self.params[0])
        self.size, self.device = objective.size, self.params[0].device
        self.dtype = real_type(self.params)
        self._displaced = Offsets()
        self.region: Region | None = None

    def several(self) -> int:
        """How many runs at a time to measure, at least 1."""
        inputs = next((leaf for leaf in pytree.tree_leaves(self.x) if isinstance(leaf, Tensor)), None)
        examples = 1 if inputs is None else inputs.shape[0 if self.shared else 1]
        return 1 if self.device.type == "cpu" and self.size * examples > _BUSY else max(self.runs, 1)

    def leaves(self, runs: list[int], offsets: Tensor | None = None) -> list[Tensor]:
        """The parameters of ``runs``, or these plus ``offsets``, to differentiate by."""
        params = [self._of(runs, batched) for batched in self.params]
        if offsets is not None:
            params = self._displaced(params, self.shaped(offsets))
        return [p.detach().requires_grad_() for p in params]

    def in_double(self) -> "_Networks":
        """The same in float64, see `Objective.in_double`."""
        other = copy(self)
        other.objective, other.dtype = self.objective.in_double(), torch.float64
        other.params = other.objective.converted(self.params)
        return other

    def gradients(self, runs: list[int]) -> Gradients:
        """∇L of ``runs`` near their weights."""
        squares = sum(as_real(batched[runs]).to(self.dtype).flatten(1).square().sum(1) for batched in self.params)

        def at(rows: Sequence[int], offsets: Tensor) -> Tensor:
            some = [runs[row] for row in rows]
            return self.gradient(self.leaves(some, offsets), some)

        return Gradients(at, self.dtype, torch.as_tensor(squares).sqrt().double().cpu())

    def gradient(self, leaves: list[Tensor], runs: list[int]) -> Tensor:
        """∇L at ``leaves``, those of ``runs``: ``(a, size)``."""
        return self.flat(self.objective.derivatives(self.losses(leaves, runs).sum(), leaves))

    def losses(self, leaves: list[Tensor], runs: list[int]) -> Tensor:
        """The loss of each of ``runs``, ``(a,)``, differentiable. Each sees the random numbers that it would alone."""
        x, y = (self.x, self.y) if self.shared else (self._of(runs, self.x), self._of(runs, self.y))
        batched = None if self.shared else 0
        batch_loss = torch.vmap(
            lambda params, x, y: self.objective.batch_loss(x, y, params),
            in_dims=(0, batched, batched), randomness="same",
        )  # fmt: skip
        if len(runs) == 1:  # kernels for one are faster than those for a batch of one
            if not self.shared:
                x, y = pytree.tree_map(lambda tensor: tensor[0], (x, y))
            return self.objective.batch_loss(x, y, [leaf.squeeze(0) for leaf in leaves])[None].to(self.dtype)
        losses: Tensor = batch_loss(leaves, x, y).to(self.dtype)
        return losses

    def flat(self, pieces: Sequence[Tensor]) -> Tensor:
        """Tensors shaped like the batched parameters, as ``(a, size)``."""
        return torch.cat([as_real(piece).flatten(1).to(self.device, self.dtype) for piece in pieces], 1)

    def shaped(self, vectors: Tensor) -> list[Tensor]:
        """``(a, size)`` as tensors shaped and typed like the batched parameters."""
        pieces = vectors.split([entries(param) for param in self.objective.params], 1)
        return [
            like(piece, batched, (len(vectors), *batched.shape[1:]))
            for piece, batched in zip(pieces, self.params, strict=True)
        ]

    def _of(self, runs: list[int], batched: Any) -> Any:
        first, end = runs[0], runs[-1] + 1
        if len(runs) == end - first:  # ascending: neighbours, which need no copy
            return pytree.tree_map(lambda tensor: tensor[first:end], batched)
        rows = torch.tensor(runs)
        return pytree.tree_map(lambda tensor: tensor[rows.to(tensor.device)], batched)


class _Products:
    """Hessian products of ``runs`` at fixed weights: differentiated once, the graph kept.

    A run that is not asked for any more costs as much as before, until the graph is built anew without it. That
    happens as soon as the products made in vain come to what it costs, a product of each run that goes on.

    Attributes:
        losses: at w, ``(a,)``.
        gradients: at w, ``(a, size)``.
    """

    def __init__(self, networks: _Networks, runs: list[int]):
        self.networks, self.runs = networks, runs
        losses = self._differentiate(list(range(len(runs))))
        self.losses, self.gradients = losses, networks.flat([piece.detach() for piece in self._gradient])

    def __call__(self, vectors: Tensor, rows: list[int]) -> Tensor:
        """Hv of the runs at ``rows`` of ``runs``, ascending, for the rows of ``vectors``."""
        self._idle += len(self._rows) - len(rows)
        if self._idle > 0 and self._idle >= len(rows):
            self._differentiate(rows)
        if rows == self._rows:
            return self._product(vectors)
        places = [self._rows.index(row) for row in rows]
        spread = vectors.new_zeros(len(self._rows), vectors.shape[1])
        spread[places] = vectors
        return self._product(spread)[places]

    def forget(self) -> None:
        """Free the graph of the gradient."""
        self._leaves: list[Tensor] = []
        self._gradient: list[Tensor] = []

    def _differentiate(self, rows: list[int]) -> Tensor:
        self.forget()
        self._rows, self._idle = rows, 0
        runs = [self.runs[row] for row in rows]
        leaves = self.networks.leaves(runs)
        losses = self.networks.losses(leaves, runs)
        # No run's loss depends on another's weights: the gradient of the sum is that of each.
        self._gradient = self.networks.objective.derivatives(losses.sum(), leaves, create_graph=True)
        self._leaves = leaves
        return losses.detach()

    def _product(self, vectors: Tensor) -> Tensor:
        outputs = [position for position, piece in enumerate(self._gradient) if piece.requires_grad]
        if not outputs:  # a loss linear in the parameters
            return torch.zeros_like(vectors)
        directions = self.networks.shaped(vectors)
        pieces = torch.autograd.grad(
            [self._gradient[i] for i in outputs],
            self._leaves,
            [directions[i] for i in outputs],
            retain_graph=True,
            materialize_grads=True,
        )
        return self.networks.flat(pieces)
