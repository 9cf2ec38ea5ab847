"""Certifies eigenpairs of the Hessian: recomputes their residuals from differences of gradients.

An operation's second derivative may be wrong or missing in automatic differentiation. Residuals computed from Hessian
products don't show that; residuals from differences of gradients do.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lowland.curvature.lanczos import Eigenpairs
from lowland.curvature.modes import Rounded
from lowland.curvature.objective import Objective
from lowland.curvature.vectors import as_real, coarsest, euclidean_norm

_SHORTEST, _SHORT, _LONG, _LONGEST = 1e-12, 1e-8, 5e-4, 1e-2  # steps over ‖w‖
_FINE = (5e-5, 5e-6)  # those in float32 where there is nothing else
_EXACT = 1e-3  # times |λ₁|: residuals differ by no more, whatever the tolerance
_TARGET = 0.25  # share of the tolerance that rounding of the difference may take, where the step can be chosen so
_MARGIN = 4  # over the rounding of w and of the gradient in a difference
_PRODUCTS = 32  # rounding units that a product may be off by
_OTHER, _HALF = 0.01, 0.3  # times ‖g‖: a gradient at w that differs by more is that of another function
_FLAT = 1e-6  # times ‖g‖/‖w‖: less curvature than that is none
_RANDOM = 1e-2  # tolerance for a product with any vector
_RAISED = (1e-2, 1e-1)  # tolerances that may be met where one is not
_SINGLE_COPY = "measure a copy in single precision, copy.deepcopy(model).float()"
_SINGLE = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Gradients:
    """∇L near w, of one run or of several.

    Attributes:
        at: gives the gradients ``(a, n)`` of the runs with these numbers, each at w plus its row of offsets ``(a, n)``.
        dtype: of gradients and offsets.
        norms: ‖w‖ of each run, float64 on the CPU.
    """

    at: Callable[[Sequence[int], Tensor], Tensor]
    dtype: torch.dtype
    norms: Tensor


@dataclass(frozen=True)
class Claims:
    """A claim about a unit vector v of each run: that Hv is its image, but for a residual.

    Attributes:
        vectors: v, ``(a, n)``.
        images: λv, ``(a, n)``.
        residuals: ‖Hv − image‖ by Hessian products, ``(a,)``, float64 on the CPU, as ``scales``.
        scales: |λ₁|, ``(a,)``.
        gradients: at w, ``(a, n)``.
        coarse: whether the parameters are of a type coarser than float32, in which no difference makes sense.
        kinks: whether the network has kinks, those of ReLUs, which a difference in float32 is likely to cross.
    """

    vectors: Tensor
    images: Tensor
    residuals: Tensor
    scales: Tensor
    gradients: Tensor
    coarse: bool
    kinks: bool


Objection = tuple[float, str]


def objections(
    claims: Claims,
    own: Gradients,
    double: Callable[[], Gradients],
    tol: float,
    agree: Callable[[bool], bool] = bool,
) -> list[Objection | None]:
    """Check the claims against central differences of gradients.

    A claim is confirmed if the residual by differences exceeds the claimed one by no more than rounding. That is
    4u(‖w‖|λ₁| + ‖g‖)/h for the difference, with the step h and the rounding unit u, and 32u|λ₁| for a product. An
    excess above rounding, but of no more than tol · |λ₁| and 1e-3 |λ₁|, is no contradiction: the residual by
    differences then replaces the claimed one, with an empty reason.

    In float32 h is 5e-4 ‖w‖. Such a step may cross the kink of a ReLU, and then finds a curvature that the Hessian
    doesn't have. So where it doesn't confirm, gradients are computed in float64, with h about 1e-11 ‖w‖. For networks
    with ReLUs, and for float16 and bfloat16, float64 comes first. Each step size takes two gradients. A difference is
    uncertain by twice its change from one side of w to the other. If that is too uncertain to contradict the claim, the
    next step size is tried. Where none is left, the claim could not be checked. That takes at most seven gradients.

    Some models don't run in float64, or compute in float32 inside. Their differences always have float32's rounding,
    and those with h = 1e-11 ‖w‖ say nothing. Then h is 5e-4, 5e-5 and 5e-6 ‖w‖: shorter steps help where the gradient
    bends within the longer one, and cross fewer kinks. Their rounding is larger, so that they can't confirm by it: the
    excess must lie within the rounding at 5e-4 ‖w‖, or within tol · |λ₁| and 1e-3 |λ₁|. A contradiction counts unless a
    shorter step gives less than half the residual; among kinks none counts. That takes at most four gradients more.
    For a claim that could not be checked, up to four others look for a tolerance that can be met.

    Args:
        claims: one of each run.
        own: gradients in the precision of the products.
        double: makes those in float64; raises where the model doesn't run in it.
        tol: relative residual.
        agree: takes a decision of this process, and gives that of the first of several.

    Returns:
        For each run None if its claim is confirmed; else the residual by differences, and the reason against the claim.
    """
    found: dict[int, Objection | None] = {}
    contradicted: dict[int, float] = {}
    roughly: dict[int, float] = {}
    left = list(range(len(claims.vectors)))
    precise = own if own.dtype == torch.float64 else None
    single = ""  # why there are no gradients in float64
    for step in _steps(own.dtype, claims):
        if not left:
            break
        if step.single and not single:
            continue
        try:
            gradients = own
            if step.in_double:
                gradients = precise = precise or double()
            verdicts, rounded = _compared(claims, left, gradients, step, tol, own.dtype)
        except Exception as error:
            if not step.in_double or own.dtype == torch.float64:
                raise
            single = f"the model doesn't run in float64 ({_first_line(error)})"  # it has types written into it
            continue
        if rounded is not None and agree(rounded != torch.float64):
            single = f"the model computes in {str(rounded).removeprefix('torch.')}, whatever type it is given"
        exact = step.in_double and not single
        after = []
        for row, (confirmed, larger, denied, residual) in zip(left, verdicts, strict=True):
            if agree(confirmed and (exact or step.single or not larger)):
                found[row] = (residual, "") if larger else None
                continue
            if confirmed:  # but for what a long step sees beyond the Hessian
                roughly[row] = residual
            if single and not exact:
                visible = _SHORT < step.longest < _LONGEST
                if visible and residual < contradicted.get(row, 0.0) / 2:  # a longer step saw what isn't there
                    del contradicted[row]
                denied = denied and visible and not claims.kinks
            if denied:
                contradicted.setdefault(row, residual)
            if agree(denied and exact and step.longest <= _SHORT):  # so short a step that kinks are no excuse
                found[row] = residual, _denial(residual, claims, row)
            else:
                after.append(row)
        left = after
    for row in left:
        if row in roughly:
            found[row] = roughly[row], ""
        elif row in contradicted:
            found[row] = contradicted[row], _denial(contradicted[row], claims, row)
        else:
            met = (t for t in _RAISED if t > tol and _meets(claims, row, own, precise, single, t, agree))
            found[row] = claims.residuals[row].item(), _unchecked(single, claims.kinks, next(met, None))
    return [found[row] for row in range(len(claims.vectors))]


def contradiction(objective: Objective, vector: Tensor, image: Tensor, gradient: Tensor, kinks: bool) -> str:
    """What differences of gradients say against Hv = ``image``, for v = ``vector``; empty where they say nothing."""
    length = euclidean_norm(vector)
    if not (length > 0 and torch.isfinite(image).all() and torch.isfinite(gradient).all()):
        return ""
    unit, image = vector / length, image / length
    scale = euclidean_norm(image).double().cpu()[None]
    coarse = coarsest(objective.params) > _SINGLE
    claims = Claims(unit[None], image[None], torch.zeros_like(scale), scale, gradient[None], coarse, kinks)
    agree = bool if objective.processes is None else objective.processes.agree
    double = partial(_gradients, objective.in_double(), 1)
    (objection,) = objections(claims, _gradients(objective, 1), double, _RANDOM, agree)
    return "" if objection is None else objection[1]


def certified(objective: Objective, pairs: Eigenpairs, gradient: Tensor, tol: float, kinks: bool) -> Eigenpairs:
    """``pairs`` unchanged if differences of gradients confirm them; else not converged, with the reason.

    First all are checked at once, by one combination of their vectors with random signs. If that isn't confirmed, each
    is checked by itself, and its residual is then the one by differences.

    Args:
        objective: the loss.
        pairs: of its Hessian.
        gradient: at w, ``(n,)``.
        tol: relative residual.
        kinks: see `Claims`.
    """
    k = len(pairs.values)
    largest = max(pairs.largest, pairs.values.abs().max().item())
    own = _gradients(objective, k)
    agree = bool if objective.processes is None else objective.processes.agree

    def checked(vectors: Tensor, images: Tensor, residuals: Tensor) -> list[Objection | None]:
        claims = Claims(
            vectors, images, residuals.double().cpu(),
            torch.full((len(vectors),), largest, dtype=torch.float64, device="cpu"), gradient.expand_as(vectors),
            coarsest(objective.params) > _SINGLE, kinks,
        )  # fmt: skip
        return objections(claims, own, partial(_gradients, objective.in_double(), k), tol, agree)

    images = pairs.values[:, None] * pairs.vectors
    if k > 1:
        signs = torch.randint(2, (1, k), generator=torch.Generator().manual_seed(0), device="cpu") * 2 - 1
        signs = (signs / math.sqrt(k)).to(pairs.vectors)
        (objection,) = checked(signs @ pairs.vectors, signs @ images, pairs.residuals.square().mean().sqrt()[None])
        if objection is None:
            return pairs
    found = checked(pairs.vectors, images, pairs.residuals)
    return amended(pairs, found, tol, largest, coarsest(objective.params) > _SINGLE)


def amended(
    pairs: Eigenpairs, found: Sequence[Objection | None], tol: float, largest: float, coarse: bool
) -> Eigenpairs:
    """``pairs`` with the residuals that `objections` found; not converged if one has a reason, or is too large."""
    some = [objection for objection in found if objection is not None]
    if not some:
        return pairs
    residuals = [
        claimed if objection is None else objection[0]
        for claimed, objection in zip(pairs.residuals.tolist(), found, strict=True)
    ]
    reason = max(some, key=lambda objection: (bool(objection[1]), objection[0]))[1]
    if not reason and max(residuals) > tol * largest:
        reason = f"differences of gradients give a residual of {max(residuals):.2g}, above tol · |λ₁|: "
        reason += _SINGLE_COPY if coarse else "lower tol"
    reason = reason or pairs.reason
    return replace(
        pairs, residuals=pairs.residuals.new_tensor(residuals), converged=pairs.converged and not reason, reason=reason
    )


def _gradients(objective: Objective, runs: int) -> Gradients:
    squares = (torch.linalg.vector_norm(as_real(p), dtype=objective.dtype).item() ** 2 for p in objective.leaves())

    def at(rows: Sequence[int], offsets: Tensor) -> Tensor:
        return torch.stack([objective.loss_and_gradient(offset)[1] for offset in offsets])

    return Gradients(at, objective.dtype, torch.full((runs,), sum(squares) ** 0.5, dtype=torch.float64, device="cpu"))


@dataclass(frozen=True)
class _Step:
    """A step size of differences.

    Attributes:
        in_double: whether gradients are computed in float64.
        longest: the largest step over ‖w‖.
        single: whether it is for models that compute in float32 whatever they are given.
    """

    in_double: bool
    longest: float
    single: bool = False


def _steps(dtype: torch.dtype, claims: Claims) -> list[_Step]:
    """The steps to try, in this order."""
    precise, rough = _Step(True, _SHORT), _Step(False, _LONG)
    finer = [_Step(dtype == torch.float64 or claims.coarse, longest, True) for longest in _FINE]
    if dtype == torch.float64:
        return [precise, _Step(True, _LONG), _Step(True, _LONG, True), *finer]
    if claims.coarse:
        return [precise, _Step(True, _LONG, True), *finer]
    first = [precise, rough] if claims.kinks else [rough, precise]
    return [*first, *finer, _Step(False, _LONGEST)]


def _compared(
    claims: Claims, rows: list[int], gradients: Gradients, step: _Step, tol: float, own: torch.dtype
) -> tuple[list[tuple[bool, bool, bool, float]], torch.dtype | None]:
    """Compare the claims of ``rows`` with central differences.

    Returns:
        For each row ``(confirmed, larger, denied, residual)``: whether differences confirm the claim, whether their
        residual exceeds the claimed one by more than rounding, whether they contradict the claim, and their residual.
        Then the type that the model computes in when it is given float64; None if nobody had to look.
    """
    vectors, images = (tensor[rows].to(gradients.dtype) for tensor in (claims.vectors, claims.images))
    norms, scales = gradients.norms[rows].clamp(min=0), claims.scales[rows]
    norms = torch.where(norms > 0, norms, 1.0)
    slopes = euclidean_norm(claims.gradients[rows]).double().cpu()
    unit = max(torch.finfo(gradients.dtype).eps, _SINGLE if step.single else 0.0)
    rounding = _MARGIN * unit * (norms * scales + slopes)
    steps = rounding / (_TARGET * tol * scales)  # not finite where scales or tol are 0: the longest then
    steps = steps.nan_to_num(math.inf).clamp(min=_SHORTEST * norms).minimum(step.longest * norms)
    lengths = steps.to(vectors)[:, None]
    ahead = gradients.at(rows, lengths * vectors)
    behind = gradients.at(rows, -lengths * vectors)
    residuals = euclidean_norm((ahead - behind) / (2 * lengths) - images).double().cpu()
    excess = residuals - claims.residuals[rows]
    noise = (rounding / steps).maximum(_PRODUCTS * torch.finfo(own).eps * scales)
    usual = noise
    if step.longest in _FINE:  # rounding must not pass for a difference
        usual = noise.minimum((rounding / (_LONG * norms)).maximum(_PRODUCTS * torch.finfo(own).eps * scales))
    allowed = torch.maximum(min(tol, _EXACT) * scales, usual)
    telling = noise <= (scales / 2).maximum(_FLAT * slopes / norms)
    confirmed = (excess <= allowed) & telling
    denied = torch.zeros_like(confirmed)
    rounded = None
    if not confirmed.all():
        if gradients.dtype == torch.float64:
            with Rounded(graph=True) as watch:
                at_w = gradients.at(rows, torch.zeros_like(vectors))
            rounded = watch.seen
        else:
            at_w = claims.gradients[rows]
        change = euclidean_norm((ahead - at_w) - (at_w - behind)).double().cpu() / steps
        denied = ~(excess <= allowed.maximum(noise) + 2 * change)
        # In float64 a model may draw other random numbers.
        different = euclidean_norm(at_w - claims.gradients[rows]).double().cpu()
        denied &= different <= (_HALF if claims.coarse else _OTHER) * slopes
    verdicts = zip(confirmed.tolist(), (excess > noise).tolist(), denied.tolist(), residuals.tolist(), strict=True)
    return list(verdicts), rounded


def _meets(
    claims: Claims, row: int, own: Gradients, precise: Gradients | None, single: str, tol: float,
    agree: Callable[[bool], bool],
) -> bool:  # fmt: skip
    """Whether the claim would be confirmed with another ``tol``."""
    gradients = precise if claims.coarse and precise is not None else own
    if not single or (claims.coarse and precise is None):
        return False
    ((confirmed, *_),), _ = _compared(
        claims, [row], gradients, _Step(gradients is precise, _LONG, True), tol, own.dtype
    )
    return agree(confirmed)


def _denial(residual: float, claims: Claims, row: int) -> str:
    if claims.coarse:
        why = f"parameters of half precision are too coarse for products this exact. {_SINGLE_COPY.capitalize()}"
    else:
        why = (
            "the products are not those with the loss's Hessian. An operation of the model has a wrong second "
            "derivative, or none that its backward lets through (a custom autograd.Function that detaches, say): write "
            "it in differentiable operations"
        )
    return (
        f"differences of gradients give a residual of {residual:.2g} where the products give "
        f"{claims.residuals[row].item():.2g}: {why}"
    )


def _unchecked(single: str, kinks: bool, met: float | None) -> str:
    if not single:
        return UNCHECKED + (
            ": differences of gradients are too uncertain at these weights, by rounding or by kinks (a ReLU whose "
            "input is 0), also in float64"
        )
    advice = "" if met is None else f". tol={met:g} can be met"
    return (
        f"{UNCHECKED}: {single}, and differences of gradients have too much rounding for this tol"
        f"{' or cross kinks of its ReLUs' * kinks}{advice}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:80]}"


UNCHECKED = "the residual could not be checked"  # how the reason begins
