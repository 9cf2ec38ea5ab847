"""The SAM family by name, each a choice of ascent rule, descent rule, scope and schedule, with its paper's settings.

Every preset takes the base optimizer, ρ, settings of its own, and whatever else `lowland.SAM` takes (``model``, say)::

    optimizer = presets.ASAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model)

and is listed in `PRESETS` with its formula and cost.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypedDict, Unpack

from torch import nn
from torch.optim import Optimizer

from lowland.optim import foreign, sam
from lowland.optim.ascent import (
    Adaptive,
    Ascent,
    Friendly,
    LossBudget,
    Momentum,
    MultiStep,
    Previous,
    Random,
    Stochastic,
    Unnormalized,
)
from lowland.optim.descent import Descent, Reuse, Selected, StepSize, SurrogateGap, Weighted
from lowland.optim.options import MSam
from lowland.optim.radii import Rho
from lowland.optim.schedule import Schedule, at_sharpness, every, since, until
from lowland.optim.scope import Scope, last_layer, normalization_layers

P = ParamSpec("P")
_Build = Callable[Concatenate[Optimizer, P], sam.SAM]


class _Handed(TypedDict, total=False):
    """The arguments of `lowland.SAM` that no preset sets, and hands on."""

    model: nn.Module | None
    m: int | MSam | None
    l2: float
    eps: float
    same_masks: bool
    freeze: bool
    keep_on: str
    audit: bool
    memory_limit: float | None
    perturbed_norms: bool


# The same with the rules and the scope that a preset leaves open.


class _WithScope(_Handed, total=False):
    scope: Scope


class _WithAscent(_WithScope, total=False):
    ascent: Ascent | None


class _WithDescent(_WithScope, total=False):
    descent: Descent | None


class _WithRules(_Handed, total=False):
    ascent: Ascent | None
    descent: Descent | None


class _WithAll(_WithRules, total=False):
    scope: Scope


@dataclass(frozen=True)
class Preset:
    """One of the family.

    Attributes:
        build: makes the optimizer; also when the preset itself is called.
        formula: ε, or what differs from SAM.
        gradients: evaluations of the gradient a step, as text.
        memory: the most that a step holds beyond the base optimizer's, in copies of the parameters that climb.
        paper: the reference.
    """

    build: Callable[..., sam.SAM]
    formula: str
    gradients: str
    memory: float
    paper: str

    @property
    def name(self) -> str:
        """The name of the function that builds the optimizer."""
        return self.build.__name__

    @property
    def settings(self) -> dict[str, object]:
        """Its own settings and their defaults."""
        own = list(inspect.signature(self.build).parameters.values())[1:]
        return {p.name: p.default for p in own if p.kind is not p.VAR_KEYWORD}


#: All of them, by name.
PRESETS: dict[str, Preset] = {}
_COMMON = tuple(inspect.signature(sam.SAM).parameters)[2:]


def preset(*, formula: str, gradients: str, memory: float, paper: str) -> Callable[[_Build[P]], _Build[P]]:
    """List the function as a preset, and make it say which settings it has where it is given another."""

    def register(build: _Build[P]) -> _Build[P]:
        listed = PRESETS[build.__name__] = Preset(build, formula, gradients, memory, paper)

        @functools.wraps(build)
        def checked(base: Optimizer, *arguments: P.args, **settings: P.kwargs) -> sam.SAM:
            foreign.check(build, (base, *arguments), settings, _COMMON)
            try:
                return build(base, *arguments, **settings)
            except (TypeError, KeyError) as error:  # the second by Python, where it has been traced (a debugger)
                words = ("multiple values for keyword argument {!r}" if isinstance(error, TypeError) else "{!r}").format
                taken = [name for name in _COMMON if words(name) in str(error)]
                if not taken:
                    raise
                raise TypeError(f"{listed.name} sets {taken[0]} itself: that is what makes it {listed.name}") from None

        return checked

    return register


# Where the climb differs.


@preset(
    formula="ε = ρ g/‖g‖",
    gradients="2",
    memory=1,
    paper="Foret et al. 2021, Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR",
)
def SAM(base: Optimizer, rho: Rho = 0.05, **sams: Unpack[_WithAll]) -> sam.SAM:
    """Plain SAM; ρ as for CIFAR-10."""
    return sam.SAM(base, rho, **sams)


@preset(
    formula="ε = ρ g",
    gradients="2",
    memory=1,
    paper="Andriushchenko & Flammarion 2022, Towards Understanding Sharpness-Aware Minimization, ICML",
)
def USAM(base: Optimizer, rho: Rho = 0.05, **sams: Unpack[_WithDescent]) -> sam.SAM:
    """Without the norm. ρ is in other units than SAM's; the paper names no default."""
    return sam.SAM(base, rho, ascent=Unnormalized(), **sams)


@preset(
    formula="ε = ρ T²g/‖Tg‖, T = |w| + η, 1 for biases",
    gradients="2",
    memory=2,
    paper="Kwon et al. 2021, ASAM: Adaptive Sharpness-Aware Minimization, ICML",
)
def ASAM(
    base: Optimizer, rho: Rho = 0.5, *, eta: float = 0.01, biases: bool = False, **sams: Unpack[_WithDescent]
) -> sam.SAM:
    """Adaptive SAM; ρ as for CIFAR-10 (1 for CIFAR-100)."""
    return sam.SAM(base, rho, ascent=Adaptive(eta, biases), **sams)


@preset(
    formula="e ← Π(e + s ρ g(w+e)/‖g(w+e)‖), k times; ε = e",
    gradients="k + 1",
    memory=3,
    paper="Andriushchenko & Flammarion 2022 (20 steps of 0.1 ρ, to measure sharpness)",
)
def MultiStepSAM(
    base: Optimizer, rho: Rho = 0.05, *, steps: int = 2, stride: float | None = None, **sams: Unpack[_WithDescent]
) -> sam.SAM:
    """Projected gradient ascent in several steps; how many is not settled by a paper, so two."""
    return sam.SAM(base, rho, ascent=MultiStep(steps, stride), **sams)


@preset(
    formula="ε = ρ d/‖d‖, d the last step's descent gradient",
    gradients="1",
    memory=2,
    paper="A Single-Step, Sharpness-Aware Minimization is All You Need (S²-SAM), NeurIPS 2024",
)
def PreviousSAM(base: Optimizer, rho: Rho = 0.05, **sams: Unpack[_WithDescent]) -> sam.SAM:
    """Climbs along the gradient of the previous step."""
    return sam.SAM(base, rho, ascent=Previous(), **sams)


@preset(
    formula="ε = ρ z/‖z‖, z normal",
    gradients="1",
    memory=1,
    paper="the control that the papers compare with",
)
def RandomSAM(base: Optimizer, rho: Rho = 0.05, *, seed: int = 0, **sams: Unpack[_WithDescent]) -> sam.SAM:
    """Climbs nowhere in particular; ρ as SAM's, ours."""
    return sam.SAM(base, rho, ascent=Random(seed), **sams)


@preset(
    formula="ε = ρ d/‖d‖, d = g − σm, m ← λm + (1−λ)g",
    gradients="2",
    memory=3.5,
    paper="Li et al. 2024, Friendly Sharpness-Aware Minimization, CVPR",
)
def FriendlySAM(
    base: Optimizer, rho: Rho = 0.2, *, sigma: float = 1.0, decay: float = 0.95, **sams: Unpack[_WithDescent]
) -> sam.SAM:
    """Climbs along what is particular to the batch; settings as for ResNet-18 on CIFAR-100."""
    return sam.SAM(base, rho, ascent=Friendly(sigma, decay), **sams)


@preset(
    formula="ε = −ρ v/‖v‖, v the momentum",
    gradients="1",
    memory=1,
    paper="Becker, Altrock & Risse 2024, Momentum-SAM: Sharpness Aware Minimization without Computational Overhead",
)
def MomentumSAM(base: Optimizer, rho: Rho = 3.0, **sams: Unpack[_WithDescent]) -> sam.SAM:
    """Ahead of the base optimizer's momentum; ρ as for CIFAR-100 and ImageNet."""
    return sam.SAM(base, rho, ascent=Momentum(), **sams)


@preset(
    formula="ε = ρ g/‖g‖²: ρ in units of the loss",
    gradients="2",
    memory=1,
    paper="Wang et al. 2026, LE-SAM, ICML (from the authors' code)",
)
def LESAM(base: Optimizer, rho: Rho = 0.35, *, longest: float = float("inf"), **sams: Unpack[_WithDescent]) -> sam.SAM:
    """Climbs as far as raises the loss by ρ; ρ as for ResNet-18 on CIFAR-100, there warmed up and annealed."""
    return sam.SAM(base, rho, ascent=LossBudget(longest), **sams)


# Where the descent differs.


@preset(
    formula="g_s − α g⊥, g⊥ the part of g orthogonal to g_s",
    gradients="2",
    memory=3,
    paper="Zhuang et al. 2022, Surrogate Gap Minimization Improves Sharpness-Aware Training, ICLR",
)
def GSAM(base: Optimizer, rho: Rho = 0.6, *, alpha: float = 0.6, **sams: Unpack[_WithAscent]) -> sam.SAM:
    """Minimizes the surrogate gap too; settings as for ViT-B/32 on ImageNet, where ρ falls to 0.1 with the lr.

    That is ``rho=lowland.optim.schedule.along_lr(base, 0.6, 0.1, lr, lowest_lr)``. Convolutional networks with SGD
    take a ρ like SAM's.
    """
    return sam.SAM(base, rho, descent=SurrogateGap(alpha), **sams)


@preset(
    formula="every k-th step SAM, and g_v the part of g_s orthogonal to g; else g + α(‖g‖/‖g_v‖) g_v",
    gradients="1 + 1/k",
    memory=3,
    paper="Liu et al. 2022, Towards Efficient and Scalable Sharpness-Aware Minimization, CVPR",
)
def LookSAM(base: Optimizer, rho: Rho = 0.1, *, k: int = 5, alpha: float = 0.7, **sams: Unpack[_WithAscent]) -> sam.SAM:
    """Climbs every k-th step and reuses what it found."""
    return sam.SAM(base, rho, descent=Reuse(k, alpha), **sams)


@preset(
    formula="step along g, then w −= η γ/(1−γ) (g_s − g)",
    gradients="2",
    memory=3,
    paper="Yue et al. 2023, Sharpness-Aware Minimization Revisited: Weighted Sharpness as a Regularization Term, KDD",
)
def WSAM(
    base: Optimizer, rho: Rho = 0.05, *, gamma: float = 0.9, decoupled: bool = True, **sams: Unpack[_WithAscent]
) -> sam.SAM:
    """Weighs sharpness against the loss."""
    return sam.SAM(base, rho, descent=Weighted(gamma, decoupled), **sams)


@preset(
    formula="ε = ρ b∘g/(β‖g‖), b random zeros and ones; g_s of the γ of the batch whose loss climbs most",
    gradients="1 + (1 + 2γ)/3",
    memory=3,
    paper="Du et al. 2022, Efficient Sharpness-aware Minimization for Improved Training of Neural Networks, ICLR",
)
def ESAM(
    base: Optimizer,
    rho: Rho = 0.05,
    *,
    beta: float = 0.6,
    gamma: float = 0.5,
    seed: int = 0,
    **sams: Unpack[_WithScope],
) -> sam.SAM:
    """Perturbs part of the weights and descends on part of the batch; settings as for ResNet-18 on CIFAR.

    Takes the loss of each example: ``optimizer.step(lambda: cross_entropy(model(x), y, reduction="none"))``.
    """
    return sam.SAM(base, rho, ascent=Stochastic(beta, seed), descent=Selected(gamma), **sams)


@preset(
    formula="g ‖g_s‖/‖g‖",
    gradients="2",
    memory=3,
    paper="Andriushchenko & Flammarion 2022",
)
def StepSizeSAM(base: Optimizer, rho: Rho = 0.05, **sams: Unpack[_WithAscent]) -> sam.SAM:
    """SAM's step size along the plain gradient: what the direction is worth."""
    return sam.SAM(base, rho, descent=StepSize(), **sams)


# Where the scope differs.


@preset(
    formula="SAM on scales and shifts of normalization layers",
    gradients="2",
    memory=1,
    paper="Mueller et al. 2023, Normalization Layers Are All That Sharpness-Aware Minimization Needs, NeurIPS",
)
def SAMON(base: Optimizer, rho: Rho = 0.5, **sams: Unpack[_WithRules]) -> sam.SAM:
    """SAM-ON; ρ as in the authors' script. It takes larger ones than SAM."""
    return sam.SAM(base, rho, scope=normalization_layers, **sams)


@preset(
    formula="SAM on the last layer",
    gradients="2",
    memory=1,
    paper="Springer, Nagarajan & Raghunathan 2024, Sharpness-Aware Minimization Enhances Feature Quality via Balanced "
    "Learning, ICLR (our reading of the name)",
)
def LSAM(base: Optimizer, rho: Rho = 0.05, **sams: Unpack[_WithRules]) -> sam.SAM:
    """Last-layer SAM; ρ within the paper's grid. The others are frozen while climbing, unless ``freeze=False``."""
    return sam.SAM(base, rho, scope=last_layer, **{"freeze": True} | sams)


# Where the schedule differs.


@preset(
    formula="SAM every k-th step",
    gradients="1 + 1/k",
    memory=1,
    paper="Liu et al. 2022, where it is compared with",
)
def PeriodicSAM(base: Optimizer, rho: float = 0.05, *, k: int = 5, **sams: Unpack[_WithAll]) -> sam.SAM:
    """SAM now and then; k as LookSAM's."""
    return sam.SAM(base, every(k, rho), **sams)


@preset(
    formula="SAM from step s on",
    gradients="1, then 2",
    memory=1,
    paper="Andriushchenko & Flammarion 2022; Zhou et al. 2025, Sharpness-Aware Minimization Efficiently Selects "
    "Flatter Minima Late in Training, ICLR",
)
def LateSAM(base: Optimizer, rho: float = 0.05, *, start: int, **sams: Unpack[_WithAll]) -> sam.SAM:
    """SAM at the end of training."""
    return sam.SAM(base, since(start, rho), **sams)


@preset(
    formula="SAM before step s",
    gradients="2, then 1",
    memory=1,
    paper="Andriushchenko & Flammarion 2022",
)
def EarlySAM(base: Optimizer, rho: float = 0.05, *, end: int, **sams: Unpack[_WithAll]) -> sam.SAM:
    """SAM at the beginning of training."""
    return sam.SAM(base, until(end, rho), **sams)


@preset(
    formula="ε = ρ g, ρ = (E − h)/h², E the edge of the base optimizer (2/η)",
    gradients="2",
    memory=1,
    paper="ours, from the edge of Agarwala & Dauphin 2023, SAM Operates Far From Home: Eigenvalue Regularization as a "
    "Dynamical Phenomenon, ICML",
)
def Dial(
    base: Optimizer,
    sharpness: float | Schedule,
    *,
    largest_rho: float = float("inf"),
    **sams: Unpack[_WithDescent],
) -> sam.SAM:
    """Holds the Hessian norm at ``sharpness``, or where a schedule has it, once training gets there.

    ρ follows from the learning rate and the momentum of `torch.optim.SGD` at each step (`schedule.at_sharpness`).
    Weight decay is not counted: it adds its coefficient to the Hessian. Training that begins far above ``sharpness``
    diverges at once. Come down to it then, from the edge without SAM:
    ``sharpness=lowland.optim.schedule.geometric(2 / lr, 0.5, steps=1000)``.
    """
    return sam.SAM(base, at_sharpness(base, sharpness, largest_rho), ascent=Unnormalized(), **sams)
