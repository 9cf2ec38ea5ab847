"""SAM: an optimizer around an optimizer, for the training loop one already has."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar, overload

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from lowland.assigning import Absent, unassignable
from lowland.checks import radius
from lowland.optim import foreign, layout, m_sam, options, parallel, passes, selected
from lowland.optim.ascent import Ascent
from lowland.optim.buffers import places, warn_of_new
from lowland.optim.core import Core
from lowland.optim.descent import Descent
from lowland.optim.functional import EPS
from lowland.optim.hosting import MSamHost
from lowland.optim.m_sam import saved
from lowland.optim.memory import Memory
from lowland.optim.options import MSam, Options
from lowland.optim.radii import Radii, Rho
from lowland.optim.scope import Scope
from lowland.optim.update import update, update_after
from lowland.optim.wrapper import Wrapper, hooked_load_state_dict, hooked_state_dict, hooked_step, setting, view
from lowland.torch_tools import level_of_caller
from lowland.values import ParameterGroup, StateDict, Tree

T = TypeVar("T")


@unassignable(
    steps="step() counts. Set group['sam_steps'] of the parameter groups, or load_state_dict()",
    under_way="the passes say so; skip() leaves out the batch whose passes are under way",
    is_plain="it follows from ascent_rule, descent_rule and scope",
    is_scheduled="it says whether the constructor was given a function, lowland.SAM(base, rho=function)",
    per_example="it follows from m and descent_rule",
    last="each batch with m leaves it",
    ascent="it is the pass at w. The rule is optimizer.ascent_rule",
)
class SAM(Wrapper):
    """Sharpness-aware minimization: climb to w + ε, take the gradient there, update w with it.

    ε(w) = ρ g / (‖g‖ + eps), with g the gradient at w and its norm over all of the base optimizer's parameters
    (Foret et al. 2021, *Sharpness-Aware Minimization for Efficiently Improving Generalization*, equation 2).

    The three ways to use it compute the same. With torch's own closure convention::

        loss = optimizer.step(closure)           # closure: forward, backward, return the loss

    spelled out, for loops that clip, scale or accumulate::

        for evaluation in optimizer.passes():
            with evaluation:
                loss_fn().backward()
        optimizer.step(); optimizer.zero_grad()

    or each pass by its name, `ascent` and `perturbed`. A loop with ``first_step`` and ``second_step`` runs with
    `lowland.compat.SAM`. Other rules of the family change the formula and the number of passes, not the loop:
    `lowland.optim.presets` has them by name. Everything else (learning-rate schedules, parameter groups, ``zero_grad``)
    works as with the base optimizer, whose state and other attributes this object shares.

    Args:
        base: makes the update: any torch optimizer whose step takes the gradients in ``p.grad``, and no more.
        rho: radius of the ascent, in the units of the parameters; or a function of the number of SAM steps made
            so far that gives it. A ``rho`` key in one of the base optimizer's parameter groups wins over this argument;
            where no function sets it, ``group["rho"]`` may be changed at any time, as ``lr`` may; where one does,
            it is that of the last pass. Where rho is 0 everywhere, a step takes a single pass and is the base
            optimizer's own.
        model: if given, its buffers (batch-norm statistics, spectral norm's vectors, codebooks, counters) move once a
            step, in the first evaluation: that at w, or at w + ε with a rule that has no other. Every evaluation begins
            with them as they were before. Under DDP give the wrapper, which ``sync=False`` and ``m`` need. Without it
            the first ascent looks for the wrapper. In the middle of ``no_sync`` the ascent is synchronized, too.
        m: how many examples share a perturbation (m-SAM), or `lowland.optim.MSam`, which has that number and the
            arguments ``audit``, ``memory_limit`` and ``perturbed_norms`` in one. Then ``step`` takes a closure that
            returns the loss of each example and calls no ``backward``; `backward` does the same for accumulation. Needs
            ``model``.
            All groups are computed together, in two passes over the batch, for what `lowland.optim.m_sam` covers;
            else by a loop over the groups, right and slow for small m, with a warning that says why. Batch norm in
            training mode takes the statistics of each group; its running statistics move once a step, along those
            at w, averaged over the batch. SyncBatchNorm is refused.
        l2: λ of ½λ‖w‖², which both passes see as a part of the loss: the ascent climbs along ∇L(w) + λw, the descent
            goes along ∇L(w + ε) + λ(w + ε). That is not the base optimizer's weight decay, which no ascent sees. ‖w‖ is
            over all trainable parameters, those included that are out of scope or that the loss doesn't reach. One
            number for all parameter groups; not part of the `state_dict`, and ``optimizer.l2`` may be changed between
            steps. Each run through the passes counts it once, whatever number of ``backward`` calls a pass has, and so
            does each `backward` with ``m``: where the gradients of k micro-batches that climb each for itself add up to
            a mean, with their losses divided by k, give λ/k. Losses that are returned leave it out.
        ascent: where to climb: a rule of `lowland.optim.ascent`, by default that of the formula above.
        descent: what to descend along: a rule of `lowland.optim.descent`, by default the gradient at w + ε.
        scope: which parameters climb: a function of the model that gives them (`lowland.optim.scope` has some), one
            of its modules, or parameters; by default all. The norm is over those.
        eps: added to the gradient norm.
        same_masks: whether the perturbed pass draws the same random numbers as the ascent, so that dropout leaves
            out the same units. By default it draws its own: that is how the published values of rho were found,
            and nothing touches torch's generators.
        freeze: whether parameters out of scope require no gradient while climbing, which saves their part of that
            backward pass. Not with reentrant activation checkpointing, which would cut others off, too; nothing is
            frozen where there are several processes.
        keep_on: where w lies during the perturbed pass: ``"device"``, or ``"cpu"`` (pinned) for models that don't
            leave room for one more copy. The weights come back bit for bit either way.
        audit: with ``m``, whether two groups are checked against the definition, in the first step, wherever parameters
            are used in a new way, and at batches 10, 100, 1,000, ...: seven evaluations of the batch more. A model that
            the one pass is wrong for goes by the loop then.
        memory_limit: with ``m``, how many bytes the groups' gradients may take between the passes; a batch that takes
            more goes in several parts, each with two passes of its own. None for no limit.
        perturbed_norms: with ``m``, whether `last` has the norms of the groups' gradients at w + e, too: about another
            weight gradient.

    Settings may be changed between steps by assigning them: each takes effect from the next step on, checked as here.
    The rules are ``optimizer.ascent_rule`` and ``optimizer.descent_rule``, rho is ``group["rho"]``. What can't be
    assigned raises AttributeError and says what to do.

    A gradient that is zero or not finite gives a zero perturbation, without waiting for the device. Memory
    beyond the base optimizer's: one copy of the perturbed parameters (the process's own part of sharded ones), and what
    a rule keeps.

    Raises:
        TypeError: if ``base`` is no torch optimizer, ``model`` no module, or a rule no rule.
        ValueError: for a negative or non-finite rho or l2; a ``base`` that already is a SAM, LBFGS or Adadelta, whose
            step needs more than gradients (a closure, or their derivatives, as AdaHessian's does, as far as its source
            shows it), a parameter group with ``maximize=True``, now or later, or with l2 SparseAdam or one that has l2
            in its parameter groups; ``m`` without ``model``, or with parameters that are not the model's; rules that
            don't go together, with ``m`` or with ``base``; a scope that has none of the parameters.
        RuntimeError: for passes out of order, a pass in which no parameter received a gradient, or settings that are
            assigned in the middle of a step.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, model=model)
        >>> def closure():
        ...     loss = model(torch.ones(5, 3)).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
    """

    _own: Core
    model = setting(lambda own: own.options.model)
    m = setting(lambda own: own.options.m_sam.m)
    l2 = setting(lambda own: own.options.l2)
    eps = setting(lambda own: own.options.eps)
    ascent_rule = setting(lambda own: own.options.ascent_rule)
    descent_rule = setting(lambda own: own.options.descent_rule)
    scope: Scope = setting(lambda own: own.options.scope)
    same_masks = setting(lambda own: own.options.same_masks)
    freeze = setting(lambda own: own.options.freeze)
    keep_on = setting(lambda own: own.options.keep_on)
    audit = setting(lambda own: own.options.m_sam.audit)
    memory_limit = setting(lambda own: own.options.m_sam.memory_limit)
    perturbed_norms = setting(lambda own: own.options.m_sam.perturbed_norms)
    rho = Absent(
        "rho stands in the parameter groups, for group in optimizer.param_groups: group['rho'] = 0.1; a function of "
        "the number of steps goes to the constructor, lowland.SAM(base, rho=function)"
    )
    descent = Absent("the rule is optimizer.descent_rule")
    steps = view(
        lambda own: own.radii.steps,
        "SAM steps made so far; those that a scaler skips don't count, unless a fused base optimizer skips them.",
    )
    under_way = view(
        lambda own: own.under_way,
        """The name of the pass under way, ``"ascent"`` or ``"perturbed"`` say; else None, and the weights are w.""",
    )
    is_plain = view(
        lambda own: own.options.is_plain,
        """Whether a step is that of Foret et al.: along the gradient of all parameters, and down that at w + ε.

        With ``l2`` it is that on the loss with the term.
        """,
    )
    is_scheduled = view(lambda own: own.radii.schedule is not None, "Whether a function gives rho.")
    per_example = view(
        lambda own: own.options.per_example,
        "Whether the rules take the loss of each example, and run backward themselves: `SAM.backward`.",
    )
    last = view(
        lambda own: None if own.engine is None else own.engine.last,
        "With ``m``, losses and gradient norms of the groups of the last batch; None where the loop was taken.",
    )

    def __init__(
        self,
        base: Optimizer,
        rho: Rho = 0.05,
        *,
        model: nn.Module | None = None,
        m: int | MSam | None = None,
        l2: float = 0.0,
        ascent: Ascent | None = None,
        descent: Descent | None = None,
        scope: Scope = None,
        eps: float = EPS,
        same_masks: bool = False,
        freeze: bool = False,
        keep_on: str = "device",
        audit: bool = True,
        memory_limit: float | None = None,
        perturbed_norms: bool = False,
    ):
        options.check_base(base, SAM)
        if isinstance(rho, nn.Module):
            raise TypeError("the second argument is rho: hand the network over by its name, model=model")
        asked = Options(
            model=model,
            m_sam=MSam.given(m, audit, memory_limit, perturbed_norms),
            l2=l2,
            eps=eps,
            ascent_rule=Ascent() if ascent is None else ascent,
            descent_rule=descent,
            scope=scope,
            same_masks=same_masks,
            freeze=freeze,
            keep_on=keep_on,
        )
        asked = options.checked(asked, base)
        radii = Radii.asked(base, rho)
        if radii.used_before:
            warnings.warn(
                "this base optimizer was in a SAM before: its parameter groups keep the rho they have, which wins over "
                "the argument. Make a new base optimizer, or set group['rho'] or delete it first.",
                stacklevel=level_of_caller(),
            )
        super().__init__(Core(base, id(self), asked, radii, Memory(asked.remembered)))
        self._complete_groups()

    def add_param_group(self, param_group: ParameterGroup) -> None:
        """As torch's; the parameter group's ``rho`` is this optimizer's unless it brings one."""
        if "rho" in param_group:
            radius(param_group["rho"])
        if param_group.get("maximize"):
            raise ValueError(options.MAXIMIZES)
        added = param_group["params"]
        if isinstance(added, Iterable) and not isinstance(added, Tensor | set):
            param_group["params"] = added = list(added)  # it may be read once only
            options.refuse_twice(param[1] if isinstance(param, tuple) else param for param in added)
        own = self._own
        own.base.add_param_group(param_group)
        own.options = options.resolved(own.options, own.base)
        self._complete_groups()

    def _complete_groups(self) -> None:
        self._own.radii.complete()

    # The passes.

    def passes(self, scaler: GradScaler | None = None, sync: bool = True) -> Iterator[AbstractContextManager[None]]:
        """The evaluations that one step takes, in order; run forward and backward inside each.

        As many as the rules need: two for SAM; one where rho is 0 everywhere. Parameters that another optimizer
        updates get the gradients of all passes added, so clear theirs between. Gradients accumulated so far are kept,
        and the last pass adds to them.

        Args:
            scaler: as in `ascent`.
            sync: as in `ascent`.
        """
        self._own.refuse_per_example("passes()")
        self._complete_groups()
        self._own.tell(scaler, self)
        yield from passes.passes(self._own, scaler, sync)

    def ascent(self, scaler: GradScaler | None = None, sync: bool = True) -> AbstractContextManager[None]:
        """The pass at w: inside, ``backward`` fills the ascent gradient.

        Gradients accumulated so far are set aside and are back afterwards. After an exception inside, the
        optimizer is as it was before.

        Args:
            scaler: the ``GradScaler`` by which the loss is scaled in both passes. Then ``eps`` is meant for the
                gradient proper, and an overflow makes the scaler skip the step and back off. Without it, an
                ascent that overflows makes the step the base optimizer's own. Rules that need the gradient proper
                need it.
            sync: whether DDP averages the ascent gradient over its processes. If not, each climbs along its own:
                m-SAM, with m the batch of one process. False needs ``model``, the DDP wrapper.

        Raises:
            RuntimeError: inside another pass, if no parameter received a gradient, if the rules need other passes
                than these two, or if gradients were not synchronized inside: ``no_sync`` of DDP inside the pass, or
                synchronization of FSDP2 that is off, also of some modules alone.
            ValueError: for ``sync=False`` without DDP, or with a descent rule that needs both gradients of a batch.
        """
        own = self._own
        own.refuse_per_example("ascent()")
        if own.options.evaluations != 1 or not own.climbs:
            raise RuntimeError(f"{own.options.rules} takes other passes than ascent() and perturbed(): use passes()")
        self._complete_groups()
        own.tell(scaler, self)
        return passes.ascent(own, scaler, sync)

    def perturbed(self) -> AbstractContextManager[None]:
        """The pass at w + ε: inside, the weights are w + ε, and ``backward`` adds to ``p.grad``.

        On the way out the weights are w again, bit for bit, exception or not, and the buffers of ``model`` are what
        the evaluation at w has made of them. Inside, they begin as they did there.

        Raises:
            RuntimeError: inside another pass, or without an `ascent` since the last time.
        """
        return passes.perturbed(self._own)

    def skip(self) -> None:
        """Leave the batch whose passes are under way out of the step: for a guard against a loss that isn't finite.

        Call it inside a pass or between two, then leave by ``continue`` or ``break``. The weights are w again, bit for
        bit; gradients are those of before the batch, of micro-batches accumulated earlier, say. A `SAM.step` that has
        nothing else to go along then does nothing: weights, momenta and the count of steps stay. Batch-norm statistics
        count the batch, as in plain training, if its forward pass at w was run; so does what a rule learns at w. A
        ``GradScaler`` that the passes were told of takes the batch for one of zero gradients: ``scaler.step`` and
        ``scaler.update`` may follow.

        Under DDP and FSDP2 all processes must skip the same batches, and call this before ``backward``.

        Raises:
            RuntimeError: if no passes are under way; with ``m`` or ESAM, which run the passes themselves; after
                ``backward`` of a pass that adds to gradients accumulated before.
        """
        if self.per_example:
            raise RuntimeError(
                "skip() is for passes(): m-SAM and ESAM run theirs by themselves. To leave a batch out, raise an "
                "exception in the closure and catch it around the call"
            )
        passes.skip(self._own)

    # The step.

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], T]) -> T: ...

    def step(self, closure: Callable[[], Tree] | None = None) -> Tree:
        """Update the weights with the gradient in ``p.grad``, or with that of ``closure``'s passes.

        Without passes before it that is the base optimizer's step along what is there: ``l2`` is not added.

        Args:
            closure: runs forward and backward and returns the loss. It may clear the gradients or not; they
                are cleared before the first pass. With ``m`` it returns the loss of each example, and runs no
                backward.

        Returns:
            What ``closure`` returned in its first call, with ``m`` the mean of that; None without a closure. The
            first call is at w, but at w + ε with a rule that takes no gradient to climb (`ascent.Random`, `Previous`,
            `Momentum`) while it climbs: its only evaluation is there, and the loss at w would cost another.

        Raises:
            RuntimeError: inside a pass, or after an `ascent` that no `perturbed` pass followed.
            TypeError: for a closure that can't be called, a loss, say.

        Warns:
            UserWarning: if gradients are there but no pass was run since the last step: that is a plain step.
        """
        # A subclass's own step is wrapped by torch, which then calls the hooks.
        return hooked_step(self, closure, self._step) if type(self).step is SAM.step else self._step(closure)

    # Not to be wrapped by torch: hooks are seen to, and the profiler sees the base optimizer's step.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Tree] | None) -> Tree:
        own, losses = self._own, list[Tree]()
        own.ready("step()")
        if closure is not None:
            foreign.check_closure(closure, "step()")
            own.refuse_in_scaler()
            if own.pending.evaluated and not own.pending.cleared and any(p.grad is not None for p in own.params()):
                return update_after(own, closure)
            own.step, own.pending.left = None, False
            self.zero_grad()
            if own.options.per_example:
                losses.append(self.backward(closure))
            else:
                grad = torch.is_grad_enabled()
                try:
                    with torch.enable_grad():
                        for evaluation in self.passes():
                            with evaluation:
                                losses.append(closure())
                except BaseException:
                    own.abandon(grad)
                    raise
        if own.planned or own.pending.left:
            raise RuntimeError(
                "step() after ascent() without perturbed(): the gradient at w + e is missing. To leave a batch out, "
                "call optimizer.skip() before leaving its passes"
            )
        skipped, own.pending.skipped = own.pending.skipped, False
        if own.pending.evaluated or not skipped:
            update(own)
        return losses[0] if losses else None

    def backward(self, closure: Callable[[], Tensor], scaler: GradScaler | None = None) -> Tensor:
        """With ``m``, or a rule that chooses examples: add the gradient of a batch to ``p.grad``; no base step.

        That is of the batch's mean loss and, once, of ``l2``.

        Args:
            closure: returns the loss of each example, shape (batch,), and runs no backward. Its loss is not scaled.
            scaler: the ``GradScaler`` that is to scale it, if any.

        Returns:
            The mean loss at w, a 0-d tensor.

        Raises:
            RuntimeError: without ``m`` or such a rule.
            ValueError: if ``closure`` returns something else, or, with ``m``, the model couples the groups of a batch,
                or batch norm in training mode has one value a channel in one of them; under DDP, with ``m``, if
                ``closure`` runs another wrapper than ``model``.
        """
        own, model = self._own, self._own.options.model
        if not own.options.per_example:
            raise RuntimeError("backward() is for m-SAM and ESAM: give SAM an m, or run backward in passes()")
        foreign.check_closure(closure, "backward()")
        self._complete_groups()
        own.tell(scaler, self)
        grad = torch.is_grad_enabled()
        try:
            if own.options.m_sam.m is None:
                return selected.backward(own, closure, scaler)
            own.ready_for_pass("m-SAM pass")
            assert model is not None
            before = None
            if own.engine is None:
                own.engine = saved.resume(m_sam.Engine(MSamHost(own)), own.memory.numbers)
                before = places(model)
            try:
                with parallel.no_other_ddp(model):
                    mean = own.engine.backward(closure, scaler)
            finally:
                own.memory.numbers = saved.numbers(own.engine)
            # The loop comes after an evaluation, which may have registered some.
            if before is not None and own.engine.reason is not None:
                warn_of_new(before, places(model))
        except BaseException:
            own.abandon(grad)
            raise
        own.pending.cleared = False
        own.pending.scaling.note()
        return mean

    def plan(self) -> None:
        """Print how the last step with ``m`` held the groups' gradients, and what that took."""
        if self.m is None:
            raise RuntimeError("plan() is for m-SAM: give SAM an m")
        print((m_sam.Engine(MSamHost(self._own)) if self._own.engine is None else self._own.engine).plan())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients as torch's optimizers do, and what SAM keeps beside them."""
        pending = self._own.pending
        pending.beside.clear()
        pending.scaling.forget()
        pending.cleared = True
        self._own.base.zero_grad(set_to_none)

    # State.

    def state_dict(self) -> StateDict:  # type: ignore[override]
        """All that a resume needs: the base optimizer's state_dict, with ``rho`` and the number of steps.

        These stand in each parameter group, and so do, with ``m``, up to three numbers that batches have taught: how
        many groups a memory limit leaves in a part of a batch, say. Where the base optimizer's has a layout of its
        own, it is the entry ``"base"``, and SAM's part the entry ``"sam"``.

        Raises:
            RuntimeError: between `ascent` and `perturbed`, whose perturbation is not part of it.
        """
        own = self._own
        if own.in_the_middle:
            raise RuntimeError("state_dict() in the middle of a step: finish its passes first")
        own.back_to_w()
        return hooked_state_dict(self, lambda: layout.save(own))

    def load_state_dict(self, state_dict: StateDict) -> None:  # type: ignore[override]
        """Load a `state_dict`, or one of the bare base optimizer: then rho and the number of steps stay."""
        own = self._own

        def load(state_dict: StateDict) -> None:
            own.refuse_inside("load_state_dict()")
            if own.displacement.overwritten:  # the weights were loaded first
                own.displacement.forget()
            own.back_to_w()
            self._complete_groups()
            layout.load(own, state_dict)
            if own.radii.schedule is None and own.radii.rho > 0 and own.radii.stays:
                warnings.warn(
                    "rho is 0 in this checkpoint, as a schedule may have left it, and this SAM has no schedule: until "
                    "you set group['rho'], its steps are the base optimizer's",
                    stacklevel=level_of_caller(),
                )
            own.forget()

        hooked_load_state_dict(self, state_dict, load)

    def __getstate__(self) -> StateDict:
        """For copying and pickling: as torch's optimizers, without hooks and without a pass under way."""
        radii, asked = self._own.radii, self._own.options
        return {name: getattr(self, name) for name in ("base", *_SETTINGS)} | {
            "_memory": self._own.memory, "_scope": asked.members,
            "_rho": radii.rho, "_schedule": radii.schedule, "_scheduled": radii.scheduled,
        }  # fmt: skip

    def __setstate__(self, state: StateDict) -> None:
        """Rebuild a copied or unpickled optimizer from what `__getstate__` returned."""
        given = {name: state[name] for name in _SETTINGS}
        of_m = MSam(*(given.pop(name) for name in MSam.__dataclass_fields__))
        radii = Radii(state["base"], state["_rho"], state["_schedule"], state["_scheduled"])
        asked = Options(m_sam=of_m, members=state["_scope"], **given)
        super().__init__(Core(state["base"], id(self), asked, radii, state["_memory"]))

    def __repr__(self) -> str:
        own = self._own
        rules = "" if self.is_plain else f", {own.options.rules}" + (", scope" if self.scope is not None else "")
        schedule = ", scheduled" if self.is_scheduled else ""
        radii = [group.get("rho", own.radii.rho) for group in self.param_groups]
        others = "".join(f", {name}={getattr(self, name)!r}" for name in _SHOWN if getattr(self, name) != _USUAL[name])
        return f"SAM(rho={radii}{schedule}{others}{rules}, base={self.base!r})"


_SETTINGS = (
    "model", "m", "l2", "ascent_rule", "descent_rule", "eps", "same_masks", "freeze", "audit", "memory_limit",
    "perturbed_norms", "scope", "keep_on",
)  # fmt: skip
_SHOWN = ("m", "l2", "eps", "same_masks", "freeze", "audit", "memory_limit", "perturbed_norms", "keep_on")
_USUAL = {name: parameter.default for name, parameter in inspect.signature(SAM).parameters.items()}


@contextmanager
def made_elsewhere(optimizer: SAM) -> Iterator[None]:
    """Inside, something else makes a whole step of ``optimizer``, the base optimizer's included; it counts then."""
    own = optimizer._own
    own.ready("step()")
    own.step = None
    own.radii.complete()
    yield
    own.radii.count()


def backward_by_definition(optimizer: SAM, closure: Callable[[], Tensor], scaler: GradScaler | None = None) -> Tensor:
    """`SAM.backward` with ``m``, by the loop over groups."""
    return m_sam.loop.backward(MSamHost(optimizer._own), closure, scaler)
