"""What a rule is: how a kind of layer uses its parameters, and what it may ask of either pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from lowland.optim.m_sam.gradients import Piece
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.perturbation import Perturbation
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.watched import Watched
from lowland.values import Kwargs, Tree


class EitherPass(Protocol):
    """What a rule needs of both passes."""

    @property
    def groups(self) -> Groups:
        """Those of the batch, or of the part of it that the pass is for."""

    @property
    def names(self) -> Mapping[Tensor, str]:
        """What the model calls its parameters, for messages."""

    def stack(self, param: Tensor) -> Tensor:
        """``(groups, *shape)``: a parameter as each group has it."""

    def rows(self, param: Tensor, rows: int) -> Tensor:
        """``(rows, *shape)``: a parameter as the group of each row has it."""


class AtW(EitherPass, Protocol):
    """What a rule needs of the first pass. The gradients at what `stack` and `rows` give are taken up."""

    def tap(self, use: "Use", output: Tensor, activations: Tensor) -> Tensor:
        """``output``, whose gradient goes to the rule's `Rule.pieces` together with ``activations``."""


class AtPerturbed(EitherPass, Protocol):
    """What a rule needs of the second pass."""

    @property
    def perturbations(self) -> Mapping[Tensor, Perturbation]:
        """Those of the parameters that are perturbed."""

    def covered(self, use: "Use") -> Tensor:
        """A call of another rule, as a part of one's own."""

    def factors(self, param: Tensor) -> Perturbation | None:
        """What is added to ``param``, if it isn't written out."""

    def constant(self, param: Tensor) -> Tensor:
        """As `stack`, and no gradient goes through it."""

    def moved(self, param: Tensor, dtype: torch.dtype) -> Tensor:
        """``(groups, *shape)``: what is added to the weights, for types in which w + e would be w again."""


@dataclass
class Use:
    """A call of a function with parameters.

    Attributes:
        rule: that covers it.
        func: the function.
        arguments: by name; parameters are as the model has them.
        owners: those arguments that are watched parameters.
        leading: all dimensions of the output but the last, where the tapped one has them flattened.
        inputs: those arguments that have rows.
        dim: along which dimension of the first input they are.
    """

    rule: "Rule"
    func: Callable[..., Tensor]
    arguments: Kwargs
    owners: dict[str, Tensor]
    leading: torch.Size | None = None
    inputs: tuple[str, ...] = ()
    dim: int = 0

    def __getattr__(self, name: str) -> Tree:
        try:
            return self.__dict__["arguments"][name]
        except KeyError:
            raise AttributeError(name) from None

    def at_w(self) -> Kwargs:
        """The arguments with watched parameters detached."""
        return self.arguments | {name: p.detach() for name, p in self.owners.items()}

    def run(self, **changed: Tree) -> Tensor:
        """The function, with some arguments changed."""
        return self.func(*(self.arguments | changed).values())


class Rule:
    """How a function of rows uses its parameters; a subclass for each kind of layer.

    A rule gives the gradient of each group's summed loss from the function's input and the gradient at its output,
    and the function with weights that differ from group to group. The examples are along the first dimension of
    input and output.
    """

    #: Names of the function's arguments in order; the first is the input.
    arguments: ClassVar[tuple[str, ...]] = ("input", "weight", "bias")
    #: What arguments are that are left out.
    defaults: ClassVar[dict[str, object]] = {"bias": None}
    #: Whether `perturbed` is made of calls of other rules.
    composite: ClassVar[bool] = False
    #: Whether each row, along the `leading` dimensions, is computed by itself.
    by_row: ClassVar[bool] = False
    #: Which of them are parameters.
    parameters: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def refuses(self, use: Use) -> str | None:
        """Why this call isn't covered, if it isn't."""
        return None

    def leading(self, use: Use) -> int:
        """How many of the input's first dimensions only stand side by side: examples may be along any of them."""
        return 1

    def unread(self, use: Use) -> tuple[str, ...]:
        """Arguments whose values don't count: they are written to, say."""
        return ()

    def first(self, use: Use, watch: AtW) -> Tensor:
        """The output at w; ``watch``, the first pass, is to learn of the gradient there."""
        return watch.tap(use, use.run(**use.at_w()), use.arguments[self.arguments[0]])

    def prepared(self, use: Use) -> Tensor:
        """The activations that `pieces` gets."""
        x: Tensor = use.arguments[self.arguments[0]]
        return x

    def pieces(self, use: Use, activations: Tensor, output_gradients: Tensor, groups: Groups) -> dict[str, Piece]:
        """For each parameter the gradient of each group's summed loss.

        Args:
            use: the call, without its input; of its owners those whose gradients are asked for.
            activations: the input, ``(rows, ...)``.
            output_gradients: the gradient at the output, ``(rows, ...)``.
            groups: of the rows.
        """
        raise NotImplementedError

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The output with each group's own weights, differentiable by input and parameters."""
        raise NotImplementedError

    def unmoved(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The output where none of the parameters is perturbed."""
        return use.run()

    def bind(self, func: Callable[..., Tensor], args: Sequence[Tree], kwargs: Kwargs) -> Use | None:
        """The call as a `Use`; None where the rule isn't for it, whatever the input is."""
        if len(args) > len(self.arguments) or any(name not in self.arguments for name in kwargs):
            return None
        given = dict(zip(self.arguments, args))  # noqa: B905
        arguments = {n: (given | kwargs).get(n, self.defaults.get(n)) for n in self.arguments}
        owners: dict[str, Tensor] = {name: value for name, value in arguments.items() if type(value) is Watched}
        use = Use(self, func, arguments, owners, inputs=self.arguments[:1])
        x = arguments[self.arguments[0]]
        rows = type(x) is Tensor and x.ndim > 0
        others = [v for name, v in arguments.items() if name not in owners and name != self.arguments[0]]
        derived = any(isinstance(v, Tensor) and type(v) not in (Tensor, nn.Parameter) for v in others)
        misplaced = any(name not in self.parameters for name in owners)
        return None if not rows or derived or misplaced or self.refuses(use) else use

    def bind_layer(self, module: nn.Module, args: Sequence[Tree]) -> Use:
        """A call of a whole layer as a `Use`."""
        params = dict(module.named_parameters())
        inputs = [name for name in self.arguments if name not in params]
        if len(args) != len(inputs) or len(inputs) + len(params) != len(self.arguments):
            raise NotCovered(
                f"the rule for {type(module).__name__} has the arguments {', '.join(self.arguments)}, and the layer "
                f"was called with {len(args)} inputs and has the parameters {', '.join(params)}"
            )
        arguments = dict(zip(inputs, args, strict=True)) | params
        owners: dict[str, Tensor] = {name: p for name, p in params.items() if type(p) is Watched}

        def call(*values: Tree) -> Tensor:
            given = dict(zip(arguments, values, strict=True))
            weights = {name: given.pop(name) for name in params}
            ours = module.__dict__.pop("forward")
            try:
                return torch.func.functional_call(module, weights, tuple(given.values()))
            finally:
                module.__dict__["forward"] = ours

        return Use(self, call, arguments, owners, inputs=tuple(inputs))
