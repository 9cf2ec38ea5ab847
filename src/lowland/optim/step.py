"""One step under way: the pass, the gradients set aside, and what has to be undone."""

from collections.abc import Iterable

from torch import Tensor

from lowland.optim import amp, parallel
from lowland.optim.beside import Beside
from lowland.optim.buffers import Buffers
from lowland.optim.climb import Plan
from lowland.optim.displacement import Displacement
from lowland.optim.parallel import Fsdp
from lowland.optim.sharding import local
from lowland.torch_tools import States, replay


class Evaluation:
    """One pass of a step: begun by `Step.begin`, and undone once, by whoever comes to it first.

    Attributes:
        name: ``"ascent"``, ``"perturbed"`` or ``"plain"``.
        frozen: parameters that require no gradient for its time.
        versions: of the gradients that were there before, where it adds to them; None if none were.
    """

    def __init__(self, name: str, apart: list[Tensor] | None = None, adds_to: Iterable[Tensor] = ()):
        self.name = name
        self._params = [] if apart is None else apart
        self._held = [parallel.set_aside(param.grad) for param in self._params]
        self.frozen: list[Tensor] = []
        self.versions = versions(adds_to)

    def begin(self) -> None:
        """The gradients of ``apart`` are its own from here on."""
        for param in self._params:
            param.grad = None

    def put_back(self) -> None:
        """The gradients that were there before."""
        for param, gradient in zip(self._params, self._held, strict=True):
            param.grad = gradient
        self._params, self._held = [], []

    def thaw(self) -> None:
        """Let the ``frozen`` parameters require gradients again."""
        for param in self.frozen:
            param.requires_grad_(True)
        self.frozen = []


class Step:
    """The passes over one batch, from the first to the last.

    Attributes:
        displacement: of the weights.
        fsdp: the modules that gather weights.
        evaluation: the pass under way.
        plan: where to climb, between the pass that says it and the one that goes there.
        at_w: the gradients at w, for descent rules that take both.
        buffers: of the model.
        states: of random generators, for the same masks in each pass.
        moved: whether the weights are elsewhere, or copies of them were made there.
    """

    def __init__(self, displacement: Displacement, fsdp: Fsdp):
        self.displacement, self.fsdp = displacement, fsdp
        self.evaluation: Evaluation | None = None
        self.plan: Plan | None = None
        self.at_w: list[Tensor | None] = []
        self.buffers: Buffers | None = None
        self.states: States | None = None
        self.moved = False

    def begin(self, evaluation: Evaluation) -> None:
        """Begin ``evaluation`` and note it as the pass under way."""
        self.evaluation = evaluation
        evaluation.begin()

    def close(self, evaluation: Evaluation) -> None:
        """``evaluation`` is over, in whatever way, if it wasn't before."""
        if self.evaluation is evaluation:
            self.undo()

    def leave_w(self, plan: Plan) -> None:
        """Move the weights to w + ε, and reset random generators and buffers for the pass there."""
        self.moved = True  # before the first one moves
        self.displacement.move(plan.weights, plan.directions, plan.rhos, plan.climb)
        plan.directions.clear()  # while new gradients grow
        forget_copies_of_weights(self.fsdp)
        if self.states is not None:
            replay(self.states)
        if plan.evaluated and self.buffers is not None:
            self.buffers.rewind()

    def back_to_w(self) -> None:
        """From wherever the weights are. What an interrupt of this leaves undone, the next call does."""
        if self.moved:
            self.displacement.put_back()
            forget_copies_of_weights(self.fsdp)
            self.moved = False
        if self.buffers is not None and self.buffers.away:
            self.buffers.finish()

    def undo(self) -> None:
        """Whatever a pass has begun: the weights are w, nothing is set aside or frozen, and no pass is under way."""
        try:
            self.undo_once()
        except BaseException:  # an interrupt
            self.undo_once()
            raise

    def undo_once(self) -> None:
        """May be called again after an exception at any point; what it leaves undone then, the next call does."""
        try:
            self.back_to_w()
        finally:
            if self.evaluation is not None:
                self.evaluation.thaw()
            if self.buffers is not None and not self.buffers.settled:  # an exception ended the first evaluation
                self.buffers.undo()
                self.buffers = None
            if self.evaluation is not None:
                self.evaluation.put_back()
            self.evaluation = None


class Pending:
    """What is known of the gradients in ``p.grad``, until the base optimizer's step.

    Attributes:
        evaluated: how many batches they are of.
        cleared: whether they were cleared since the last of them.
        told: whether the passes were told of a GradScaler.
        scaling: that one.
        beside: what is to be subtracted from the weights beside the step.
        run: the `passes` on their way through a batch, if any.
        left: whether the last ones were left between two.
        skipped: whether the last batch that was begun is left out.
        warned: that a step was a plain one.
    """

    def __init__(self) -> None:
        self.evaluated = 0
        self.cleared = self.left = self.skipped = self.warned = False
        self.told = True
        self.scaling, self.beside = amp.Scaling(), Beside()
        self.run: object = None


def forget_copies_of_weights(fsdp: Fsdp) -> None:
    """Made elsewhere, and not of the weights that are there now."""
    amp.clear_caches()
    fsdp.reshard()  # gathered


def versions(params: Iterable[Tensor]) -> list[int] | None:
    """Of the gradients that are there; None if none are."""
    gradients = [param.grad for param in params]
    if all(gradient is None for gradient in gradients):
        return None
    return [-1 if gradient is None else local(gradient)._version for gradient in gradients]
