"""What a SAM and whatever stands in for it have in common."""

from collections.abc import Iterator

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from lowland.optim import amp
from lowland.optim.buffers import modules
from lowland.optim.climb import Surroundings
from lowland.optim.constants import Constants
from lowland.optim.displacement import Displacement
from lowland.optim.grad_mode import recording
from lowland.optim.m_sam.engine import Engine
from lowland.optim.memory import Memory
from lowland.optim.options import Options, assigned
from lowland.optim.radii import Radii
from lowland.optim.scope import describe
from lowland.optim.step import Pending, Step
from lowland.optim.synchronization import FSDP2, Synchronization

#: Settings that nobody may assign in the middle of a step; for others of them m-SAM's engine is made anew.
_BETWEEN_STEPS = ("model", "m", "memory_limit", "ascent_rule", "descent_rule", "scope")


class Core:
    """The options, what is remembered from step to step, and the step under way.

    Attributes:
        base: the base optimizer.
        known_as: the number of the SAM, by which a GradScaler may know it.
        options: what was asked for.
        radii: ρ of each parameter group.
        memory: what the rules keep.
        displacement: has the memory for w while the weights are elsewhere.
        engine: of m-SAM, once it was used.
        synchronization: of the gradients, by DDP or FSDP2.
        constants: which buffers need no copy, as far as is known.
        pending: what is known of the gradients in ``p.grad``.
        step: under way, or the last one.
    """

    def __init__(self, base: Optimizer, known_as: int, options: Options, radii: Radii, memory: Memory):
        self.base, self.known_as = base, known_as
        self.options, self.radii, self.memory = options, radii, memory
        self.displacement = Displacement(options.keep_on)
        self.forget()

    def forget(self) -> None:
        """No pass is under way, and none was."""
        self.engine: Engine | None = None
        self.synchronization, self.constants = Synchronization(), Constants()
        self.pending = Pending()
        self._names: dict[Tensor, str] = {}
        self.step: Step | None = None

    def assign(self, name: str, value: object) -> None:
        """The option of this ``name`` is another from the next step on; raises an error for what can't be."""
        if name == "model" and value is self.options.model:
            return
        if self.in_the_middle if name in _BETWEEN_STEPS else name == "keep_on" and self.under_way:
            raise RuntimeError(f"{name} assigned in the middle of a step: finish its passes first")
        options = assigned(self.options, self.base, name, value)
        if name == "keep_on":
            self.displacement = Displacement(options.keep_on)
        self.options = options
        if name in _BETWEEN_STEPS:
            self.engine, self._names, self.memory.numbers = None, {}, {}
            # What is remembered under the same name is the same: a rule with another number goes on with it.
            self.memory.rename(self.options.remembered)

    # The parameters.

    def params(self) -> Iterator[Tensor]:
        """All of the base optimizer's."""
        return (param for group in self.base.param_groups for param in group["params"])

    def trainable(self) -> tuple[list[Tensor], list[float]]:
        """The parameters that may get a gradient, and the radius of each."""
        params, rhos = [], []
        for group in self.base.param_groups:
            rho = group["rho"]
            for param in group["params"]:
                if param.requires_grad:
                    params.append(param)
                    rhos.append(rho)
        return params, rhos

    def outside(self) -> list[Tensor]:
        """The model's parameters that another optimizer has: their gradient is that at w + ε."""
        if self.options.model is None:
            return []
        known, found = set(self.params()), list[Tensor]()
        for module in modules(self.options.model):
            for param in module._parameters.values():
                if param is not None and param.requires_grad and param not in known:
                    known.add(param)
                    found.append(param)
        return found

    def name(self, param: Tensor) -> str:
        """What the model calls it."""
        model = self.options.model
        assert model is not None
        if param not in self._names:
            self._names = {p: name for name, p in model.named_parameters()}
        if param not in self._names:
            raise ValueError(
                f"{self.options.rules} tells parameters apart by their names, and a parameter of shape "
                f"{tuple(param.shape)} is not the model's"
            )
        return self._names[param]

    @property
    def surroundings(self) -> Surroundings:
        """What rules may ask for."""
        return Surroundings(self.base, self.radii.steps, self.name, self.memory)

    # The step under way.

    @property
    def under_way(self) -> str | None:
        """The name of the pass under way; ``"perturbed"`` too while the weights are displaced; else None."""
        if self.step is not None and self.step.evaluation is not None:
            return self.step.evaluation.name
        return "perturbed" if self.displacement.displaced else None

    @property
    def climbs(self) -> bool:
        """Whether the descent rule lets this step climb."""
        descent = self.options.descent_rule
        return descent is None or descent.climbs(self.radii.steps)

    @property
    def planned(self) -> bool:
        """Whether it is known where to climb, and nobody has been there yet."""
        return self.step is not None and self.step.plan is not None

    @property
    def in_the_middle(self) -> bool:
        """Whether a pass is under way, or another is to come."""
        return self.step is not None and (self.step.evaluation is not None or self.step.plan is not None)

    def start(self) -> Step:
        """What holds for all passes over a batch, looked for anew; nothing is left of the batch before."""
        self.pending.skipped = self.pending.left = False
        self.pending.beside.forget_if_gradients_went()
        self.synchronization.start(self.options.model, self.params())
        self.step = Step(self.displacement, self.synchronization.fsdp)
        return self.step

    def refuse_inside(self, what: str) -> None:
        """Raise RuntimeError for ``what`` if a pass is under way."""
        if self.step is not None and self.step.evaluation is not None:
            raise RuntimeError(f"{what} inside the {self.step.evaluation.name} pass: leave its `with` block first")

    def ready(self, what: str) -> None:
        """For ``what``: no pass is under way, and no interrupted one left the weights elsewhere."""
        self.refuse_inside(what)
        if self.step is not None:
            self.step.undo_once()

    def ready_for_pass(self, what: str) -> None:
        """As `ready`, and the gradients that are there are scaled as its own will be."""
        self.ready(what)
        if self.pending.scaling.scaler is not None:
            there = [p.grad for p in self.params()]
            if self.options.combines and self.step is not None and self.step.plan is not None:
                there = self.step.at_w
            self.pending.scaling.check_pass(there)

    def back_to_w(self) -> None:
        """From wherever the weights are."""
        if self.step is not None:
            self.step.back_to_w()

    def tell(self, scaler: GradScaler | None, optimizer: object) -> None:
        """The passes of the loss that ``scaler`` scales, if any, begin; it may know ``optimizer``."""
        self.pending.told = scaler is not None
        self.pending.scaling.tell(scaler, {id(optimizer), id(self.base), self.known_as})

    def abandon(self, grad: bool) -> None:
        """The batch whose passes an exception ended: as before it, with gradients recorded if ``grad`` says so."""
        try:
            if self.step is not None:
                self.step.undo()
        finally:
            if self.step is not None:
                self.step.plan = None
            self.pending.run = None
            recording(grad)  # an interrupt may keep torch's own contexts from doing it

    # What to say.

    @property
    def no_gradient(self) -> str:
        """Of a pass without one."""
        return (
            "no parameter that climbs received a gradient in this pass: was backward() called? To leave a batch out, "
            "one whose loss isn't finite say, call optimizer.skip() before `continue` or `break`."
        ) + (FSDP2 if self.synchronization.fsdp.modules else "")

    def out_of_reach(self) -> str | None:
        """Of losses that depend on no parameter that climbs, if there is a scope."""
        if self.options.members is None:
            return None
        chosen = describe(self.options.scope, self.options.members, self.options.model)
        return (
            f"the loss of this pass depends on none of the parameters in scope: {chosen}. Hand scope= the layer that "
            "is meant, scope=model.classifier say."
        )

    def refuse_per_example(self, what: str) -> None:
        """Raise RuntimeError for ``what`` if the rules take the loss of each example."""
        if self.options.m_sam.m is not None:
            raise RuntimeError(f"{what} has one perturbation for all: with m use step(closure) or backward(closure)")
        if self.options.per_example:
            raise RuntimeError(f"{what} sees no losses: {self.options.rules} takes step(closure) or backward(closure)")

    def refuse_in_scaler(self) -> None:
        """Raise RuntimeError for a closure in a scaler's step, which unscales before it."""
        if amp.inside_scaler():
            how = "optimizer.backward(closure, scaler=scaler)" if self.options.per_example else _PASSES_WITH_SCALER
            raise RuntimeError(
                "scaler.step(optimizer, closure) unscales before the closure runs: the update would be as much too "
                f"large as the loss is scaled. Instead: {how}, then scaler.step(optimizer)"
            )


_PASSES_WITH_SCALER = (
    "`for evaluation in optimizer.passes(scaler=scaler): with evaluation: scaler.scale(loss_fn()).backward()`"
)
