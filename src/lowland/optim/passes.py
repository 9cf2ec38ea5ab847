"""What a step does: the evaluations that the rules need, where the weights are in each, and what it leaves.

Textbook SAM is `ascent`, the gradient at w and from it ε, and `perturbed`, the gradient at w + ε and back to w. What
else stands in them sees to several processes, mixed precision, buffers, and to whatever an exception or an interrupt
leaves undone.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from lowland.optim import amp, parallel, penalty
from lowland.optim.ascent import Climb
from lowland.optim.buffers import Buffers
from lowland.optim.climb import Plan, where
from lowland.optim.combine import combine
from lowland.optim.core import Core
from lowland.optim.grad_mode import unrecorded
from lowland.optim.step import Evaluation, Step, versions
from lowland.torch_tools import random_states

_NOTHING: AbstractContextManager[None] = nullcontext()
_NOT_ENTERED = (
    "passes() went on, but its last evaluation was not run: `for evaluation in optimizer.passes():`, and in it "
    "`with evaluation:` around forward and backward"
)


def passes(core: Core, scaler: GradScaler | None, sync: bool) -> Iterator[AbstractContextManager[None]]:
    """The evaluations of one step, in order: see `lowland.SAM.passes`."""
    before = core.pending.evaluated
    core.pending.skipped, core.pending.run = False, (run := object())
    try:
        try:
            if core.radii.stays:
                yield plain(core, scaler)
            elif not core.climbs:
                yield alone(core, scaler)
            else:
                for index in range(core.options.evaluations):
                    yield ascent(core, scaler, sync, onward=index > 0)
                    if core.pending.skipped:
                        return
                    if not core.planned:
                        raise RuntimeError(_NOT_ENTERED)
                yield perturbed(core, scaler)
            if core.pending.evaluated == before and not core.pending.skipped:
                raise RuntimeError(_NOT_ENTERED)
        finally:
            _leave(core, run)
    finally:
        _leave(core, run)  # an interrupt may fall before the first


def _leave(core: Core, run: object) -> None:
    """The passes of ``run`` are over, in whatever way; nothing if others are under way by now."""
    if core.pending.run is run:
        if core.step is not None:
            if core.step.evaluation is not None:
                core.step.undo()
            core.pending.left = core.pending.left or core.step.plan is not None
            core.step.plan = None
        core.pending.run = None


@contextmanager
def ascent(
    core: Core, scaler: GradScaler | None = None, sync: bool = True, onward: bool = False, buffers: bool = True
) -> Iterator[None]:
    """The gradient at w, and from it where to climb.

    Args:
        core: of the optimizer.
        scaler: that the loss is scaled by, if any.
        sync: whether all processes climb together.
        onward: whether the weights are where the climb so far has led.
        buffers: whether it sees to those of the model.
    """
    if onward and not core.planned:
        raise RuntimeError("a pass was left out: run every evaluation of passes() in turn")
    core.ready_for_pass("ascent pass")
    options = core.options
    if not sync and options.combines:
        raise ValueError(f"{options.rules} takes both gradients of the same batch: sync=False can't be")
    params, rhos = core.trainable()
    step = core.step if onward and core.step is not None else core.start()
    before, step.plan = step.plan, None
    if not onward and buffers and options.model is not None:
        step.buffers = Buffers(options.model, core.constants)
    evaluation = Evaluation("ascent", params + core.outside())
    try:
        try:
            step.begin(evaluation)
            with _together(core, sync):
                if before is None and options.same_masks:
                    step.states = random_states(params)
                if before is None and not options.freeze:  # without the price of more contexts
                    yield
                    _penalize(core, scaler)
                else:
                    with _without_the_rest(core, evaluation, params), _at(step, before):
                        yield
                        _penalize(core, scaler)
                _check(core)
            gradients = [param.grad for param in params]
            if step.buffers is not None and not onward:
                step.buffers.settle()
        except RuntimeError as error:
            _explain(error, moved=before is not None)
            raise
        finally:
            step.close(evaluation)
    finally:
        step.close(evaluation)  # an interrupt may fall before the first
    if core.pending.skipped:
        leave_out(core)
        return
    if options.combines and not onward:
        step.at_w = [parallel.set_aside(gradient) for gradient in gradients]
    try:
        step.plan = climb(core, params, gradients, rhos, scaler, sync, before)
        if core.pending.scaling.scaler is not None:
            core.pending.scaling.note()
    except BaseException:
        step.plan = None
        raise


@contextmanager
def perturbed(core: Core, scaler: GradScaler | None = None, share: float = 1.0) -> Iterator[None]:
    """To w + ε, the gradient there, and back to w; ``share`` is that of the pass in the step's loss."""
    options = core.options
    if options.evaluations and not core.in_the_middle:
        raise RuntimeError("perturbed() needs an ascent() before it, to know where to climb")
    core.ready_for_pass("perturbed pass")
    if not options.evaluations:
        params, rhos = core.trainable()
        core.start().plan = climb(core, params, None, rhos, scaler)
    step = core.step
    assert step is not None
    plan, step.plan = step.plan, None
    assert plan is not None
    params = core.trainable()[0] if options.combines else []
    evaluation = Evaluation("perturbed", params, adds_to=() if options.combines else core.params())
    try:
        try:
            with _apart(core, step, evaluation, params) if options.combines else _NOTHING as gradients:
                if not options.combines:
                    step.begin(evaluation)
                step.leave_w(plan)
                yield
                _penalize(core, plan.scaler, share, plan.synchronized)
                step.back_to_w()
        except RuntimeError as error:
            _explain(error)
            raise
        finally:
            step.close(evaluation)
    finally:
        step.close(evaluation)  # an interrupt may fall before the first
    if step.buffers is not None and not step.buffers.away:  # else an interrupt fell into putting them back
        step.buffers = None
    if core.pending.skipped:
        leave_out(core, None if options.combines else evaluation)
        return
    if gradients is not None:
        at_w, step.at_w = step.at_w, []
        _add(core, params, at_w, gradients, plan)
    if plan.scaler is not None or core.pending.beside:
        _pass_on_overflow(core, plan, params)
    _count(core)


@contextmanager
def plain(core: Core, scaler: GradScaler | None) -> Iterator[None]:
    """The only pass of a step that doesn't climb: the gradient at w."""
    core.ready_for_pass("plain pass")
    step = core.start()
    evaluation = Evaluation("plain", adds_to=core.params())
    try:
        step.begin(evaluation)
        yield
        _penalize(core, scaler)
    finally:
        step.close(evaluation)
    if core.pending.skipped:
        leave_out(core, evaluation)
        return
    _count(core)


@contextmanager
def alone(core: Core, scaler: GradScaler | None) -> Iterator[None]:
    """The only pass of a step that reuses what an earlier one learnt."""
    core.ready_for_pass("plain pass")
    step = core.start()
    params, _ = core.trainable()
    evaluation = Evaluation("plain", params)
    try:
        with _apart(core, step, evaluation, params) as gradients:
            yield
            _penalize(core, scaler)
    finally:
        step.close(evaluation)
    if core.pending.skipped:
        leave_out(core)
        return
    _add(core, params, None, gradients)
    _count(core)


@unrecorded
def climb(
    core: Core,
    params: list[Tensor],
    gradients: list[Tensor | None] | None,
    rhos: list[float],
    scaler: GradScaler | None = None,
    sync: bool = True,
    before: Plan | None = None,
) -> Plan:
    """Where to climb from here, and what all processes must agree on; RuntimeError if no gradient says it."""
    plan = where(params, gradients, rhos, core.options, core.surroundings, scaler, before)
    if plan is None:
        raise RuntimeError(" ".join(filter(None, (core.out_of_reach(), core.no_gradient))))
    plan.synchronized = sync
    if not sync and scaler is not None:
        plan.climb = Climb(plan.climb.factor, parallel.anywhere(plan.climb.overflow, core.options.model))
    if before is not None:
        plan.climb = Climb(plan.climb.factor, plan.climb.overflow | before.climb.overflow)
    return plan


def leave_out(core: Core, added: Evaluation | None = None) -> None:
    """The skipped batch is over; its last pass was ``added`` to the gradients, if that is given."""
    if core.step is not None:
        core.step.plan, core.step.at_w = None, []
    params = list(core.params())
    if added is not None and added.versions is None:
        for param in params:
            param.grad = None
    if core.pending.scaling.scaler is not None and all(param.grad is None for param in params):
        # The scaler refuses a step without any gradient.
        smallest = min((p for p in params if p.requires_grad and p.numel()), key=Tensor.numel)
        smallest.grad = torch.zeros_like(smallest)


def skip(core: Core) -> None:
    """Leave the batch whose passes are under way out of the step; see `lowland.SAM.skip`."""
    step, pending = core.step, core.pending
    evaluation = None if step is None else step.evaluation
    if not core.in_the_middle and pending.run is None and not core.displacement.displaced:
        raise RuntimeError(
            "skip() leaves out the batch whose passes are under way, and none is: to drop one that is through, "
            "call optimizer.zero_grad() in place of step()"
        )
    if evaluation is not None and evaluation.versions not in (None, versions(core.params())):
        raise RuntimeError(
            "skip() comes too late: backward() of this pass has added to gradients that were accumulated before. "
            "Call it before backward(), or drop all of them: optimizer.zero_grad()"
        )
    pending.skipped = True
    if evaluation is None:
        core.back_to_w()
        leave_out(core)


@contextmanager
def _at(step: Step, plan: Plan | None) -> Iterator[None]:
    """Inside, the weights are where ``plan`` has led, which is needed once more; for None at w."""
    if plan is None:
        yield
        return
    directions = list(plan.directions)
    step.leave_w(plan)
    yield
    step.back_to_w()  # after an exception whoever closes the pass does it
    plan.directions = directions


def _together(core: Core, sync: bool = True) -> AbstractContextManager[None]:
    """What a pass needs whose gradient the rules take: it is that of all processes, if ``sync`` says so."""
    # The groups of m-SAM climb each for itself, however many a process has.
    search = core.options.m_sam.m is None
    return core.synchronization.ascending(core.options.model, core.params(), sync, search)


def _check(core: Core) -> None:
    """Raise RuntimeError if gradients of such a pass, inside it, are not those of all processes."""
    members = None if core.options.combines else core.options.members
    if not core.pending.skipped:
        core.synchronization.check(lambda: [p for p in core.trainable()[0] if members is None or p in members])


@contextmanager
def _without_the_rest(core: Core, evaluation: Evaluation, params: list[Tensor]) -> Iterator[None]:
    """Inside, parameters out of scope require no gradient. DDP and sharded models count on everybody's."""
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    members = core.options.members
    if alone and core.options.freeze and members is not None and not core.options.combines:
        evaluation.frozen = [param for param in params if param not in members]
    try:
        for param in evaluation.frozen:
            param.requires_grad_(False)
        yield
    except RuntimeError as error:
        if evaluation.frozen and "does not require grad" in str(error):  # torch's, of a loss that is a constant
            raise RuntimeError(core.out_of_reach()) from error
        raise
    evaluation.thaw()  # after an exception whoever closes the pass does it


@contextmanager
def _apart(core: Core, step: Step, evaluation: Evaluation, params: list[Tensor]) -> Iterator[list[Tensor | None]]:
    """Inside, ``backward`` fills gradients of its own; afterwards they are in the list, and the others back.

    After an exception whoever closes the pass brings them back.
    """
    taken: list[Tensor | None] = []
    step.begin(evaluation)
    with _together(core):
        yield taken
        _check(core)
    taken += [param.grad for param in params]
    evaluation.put_back()


@unrecorded
def _add(
    core: Core,
    params: list[Tensor],
    at_w: list[Tensor | None] | None,
    gradients: list[Tensor | None],
    plan: Plan | None = None,
) -> None:
    """Add to ``p.grad`` what the descent rule makes of a pass's gradients."""
    if all(gradient is None for gradient in gradients):
        raise RuntimeError(f"{core.options.rules}: {core.no_gradient}")
    factor = 1.0 if plan is None else plan.climb.factor
    combined = combine(params, at_w, gradients, factor, core.options, core.memory)
    if combined.beside is not None:
        core.pending.beside.add(combined.owners, combined.beside, 1.0 if plan is None else plan.scale)
    torch._foreach_copy_(combined.pieces, combined.values)
    for param, gradient in zip(combined.owners, combined.gradients, strict=True):
        # Into the pass's own memory, where DDP expects it.
        param.grad = gradient if param.grad is None else gradient.add_(param.grad)


def _pass_on_overflow(core: Core, plan: Plan, params: list[Tensor]) -> None:
    """To whoever looks at the gradients: of the ascent to a scaler, of what goes beside the step to all."""
    overflow, beside = plan.climb.overflow if plan.scaler is not None else False, core.pending.beside
    if beside:
        overflow = overflow | beside.overflow(params)
    amp.pass_on_overflow(overflow, [p.grad for p in core.params() if p.grad is not None])
    beside.belong_to_gradients()


def _penalize(core: Core, scaler: GradScaler | None, share: float = 1.0, synchronized: bool = True) -> None:
    """Add the gradient of ½λ‖w‖² to that of the pass under way, before the weights leave.

    Args:
        core: of the optimizer.
        scaler: of the pass's loss, if any.
        share: of the pass in the step's loss.
        synchronized: whether the weights are the same in DDP's processes.
    """
    l2 = core.options.l2
    if not l2 or core.pending.skipped:
        return
    params = core.trainable()[0]
    later = core.under_way == "perturbed" and core.synchronization.fsdp.modules and not core.options.combines
    if not later and all(param.grad is None for param in params):
        return  # backward was forgotten, which others say
    mean = None if synchronized else parallel.averaging(core.options.model)
    penalty.add(params, share * l2, amp.loss_scale(scaler, params[0]), mean)


def _count(core: Core) -> None:
    """The last of a run of passes is done, and with it the step, but for the base optimizer's."""
    core.pending.evaluated += 1
    core.pending.cleared = False
    if core.pending.scaling.scaler is not None:
        core.pending.scaling.note()
    if core.step is not None and core.step.buffers is None:
        core.step = None


def _explain(error: RuntimeError, moved: bool = True) -> None:
    """Raise a better one for a graph that an earlier pass has used, or was made before the weights ``moved``."""
    says = str(error)
    if "backward through the graph a second time" in says or (moved and "modified by an inplace operation" in says):
        raise RuntimeError(
            "backward() went through a graph that was made before this pass, or twice through one. Every pass needs a "
            "forward pass of its own, at its own weights: put forward and backward both inside `with evaluation` (or "
            "the closure, or `with optimizer.ascent()` and `with optimizer.perturbed()`). Autograd says: "
            + says.partition(". ")[0].partition(" (")[0]
        ) from error
