"""Which rule is for which function or layer, and what a rule is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lowland.optim.m_sam.watch import NotCovered, Watched

if TYPE_CHECKING:
    from lowland.optim.m_sam.gradients import Piece
    from lowland.optim.m_sam.groups import Groups
    from lowland.optim.m_sam.passes import FirstPass, SecondPass


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
    """

    rule: "Rule"
    func: Callable[..., Tensor]
    arguments: dict[str, Any]
    owners: dict[str, Tensor]
    leading: torch.Size | None = None
    inputs: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["arguments"][name]
        except KeyError:
            raise AttributeError(name) from None

    def at_w(self) -> dict[str, Any]:
        """The arguments, watched parameters detached."""
        return self.arguments | {name: p.detach() for name, p in self.owners.items()}

    def run(self, **changed: Any) -> Tensor:
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
    defaults: ClassVar[dict[str, Any]] = {"bias": None}
    #: Which of them are parameters.
    parameters: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def refuses(self, use: Use) -> str | None:
        """Why this call isn't covered, if it isn't."""
        return None

    def unread(self, use: Use) -> tuple[str, ...]:
        """Arguments whose values don't count: they are written to, say."""
        return ()

    def first(self, use: Use, watch: "FirstPass") -> Tensor:
        """The output at w; ``watch`` is to learn of the gradient there."""
        return watch.tap(use, use.run(**use.at_w()), use.arguments[self.arguments[0]])

    def prepared(self, use: Use) -> Tensor:
        """What `pieces` gets as the input."""
        x: Tensor = use.arguments[self.arguments[0]]
        return x

    def pieces(self, use: Use, a: Tensor, d: Tensor, groups: "Groups") -> dict[str, "Piece"]:
        """For each parameter the gradient of each group's summed loss.

        Args:
            use: the call, without its input; of its owners those whose gradients are asked for.
            a: the input, ``(rows, ...)``.
            d: the gradient at the output, ``(rows, ...)``.
            groups: of the rows.
        """
        raise NotImplementedError

    def perturbed(self, use: Use, watch: "SecondPass") -> Tensor:
        """The output with each group's own weights, differentiable by input and parameters."""
        raise NotImplementedError

    def unmoved(self, use: Use, watch: "SecondPass") -> Tensor:
        """The output where none of the parameters is perturbed."""
        return use.run()

    def bind(self, func: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Use | None:
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

    def bind_layer(self, module: nn.Module, args: Sequence[Any]) -> Use:
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

        def call(*values: Any) -> Tensor:
            given = dict(zip(arguments, values, strict=True))
            weights = {name: given.pop(name) for name in params}
            ours = module.__dict__.pop("forward")
            try:
                return torch.func.functional_call(module, weights, tuple(given.values()))
            finally:
                module.__dict__["forward"] = ours

        return Use(self, call, arguments, owners, inputs=tuple(inputs))


RULES: dict[Any, Rule] = {}


def rule(*functions: Any) -> Callable[[type[Rule]], type[Rule]]:
    """Register a `Rule` for functions of torch (``F.linear``) or classes of layers.

    Of a layer, ``arguments`` are those of ``forward`` and after them the names of all its parameters.
    """

    def register(kind: type[Rule]) -> type[Rule]:
        for function in functions:
            RULES[function] = kind()
        return kind

    return register


#: Functions of autograd's own whose gradients keep examples apart.
ROW_WISE: set[type[torch.autograd.Function]] = set()


def row_wise(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Say that the backward of a ``torch.autograd.Function`` keeps the rows of examples apart, as its forward does.

    What operations of torch do in forward is followed; what a function does in backward can't be seen. It must be
    linear in the gradient that it gets: one that clips each row goes by the loop. A decorator::

        @lowland.optim.m_sam.row_wise
        class ReverseGradient(torch.autograd.Function): ...
    """
    ROW_WISE.add(function)
    return function


#: Functions of torch's that are several layers: what to call instead, with the pass before their own arguments.
COMPOSED: dict[Any, Callable[..., Any]] = {}


def composed(function: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a way to call ``function`` that hands its layers to the pass one by one."""

    def register(way: Callable[..., Any]) -> Callable[..., Any]:
        COMPOSED[function] = way
        return way

    return register


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on where ``x`` is."""
    return torch.is_autocast_enabled(x.device.type)


def laid_out(y: Tensor, x: Tensor) -> Tensor:
    """``y`` with channels last if ``x`` has them there: dropout draws in the order of memory."""
    last = x.ndim == y.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last) if last else y


def rows_of(t: Tensor, size: int, what: str) -> None:
    """Raise NotCovered unless the first dimension of ``t`` is that of ``size`` examples."""
    if len(t) % size:
        raise NotCovered(
            f"{what} sees a tensor of shape {tuple(t.shape)}, whose first dimension isn't that of the {size} examples"
        )
