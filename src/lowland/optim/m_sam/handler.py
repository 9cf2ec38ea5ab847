"""What becomes of functions of parameters in a pass: they go by their rule, or else by `torch.vmap`."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from lowland.optim.m_sam.autograd_functions import by_turns
from lowland.optim.m_sam.by_vmap import ENTRYWISE, by_vmap, name_of
from lowland.optim.m_sam.checkpoints import checkpointed
from lowland.optim.m_sam.filling import Filling, replaced, rows_in
from lowland.optim.m_sam.layout import more_rows
from lowland.optim.m_sam.passing import Pass
from lowland.optim.m_sam.places import Along
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.registry import COMPOSED, RULES
from lowland.optim.m_sam.rows import rows_of
from lowland.optim.m_sam.rule import Use
from lowland.optim.m_sam.watched import Watched, is_followed_here, of_parameters
from lowland.values import Args, Function, Kwargs, Tree


class Handler(Pass):
    """Computes what is called with watched parameters, with weights of their own for each group."""

    def call(self, func: Function, args: Args, kwargs: Kwargs) -> Tree:
        """The result of a function that is called with watched parameters."""
        if self.closure.in_closure and not is_followed_here():
            self.closure.cannot("a parameter is used in another thread ({}), where nothing is followed")
            return func(*args, **kwargs)
        return self.closure.or_plain(partial(self._call, func, args, kwargs), partial(func, *args, **kwargs))

    def layer(self, module: nn.Module, args: Args) -> Tensor:
        """The result of a module that has a rule of its own."""
        return self.closure.or_plain(partial(self._layer, module, args), partial(type(module).forward, module, *args))

    def function(self, cls: type[torch.autograd.Function], args: Args, apply: Function) -> Tree:
        """The result of a function of autograd's own, which ``apply`` calls."""
        closure = self.closure
        if closure.stopped is not None or not (closure.in_closure or closure.recomputing):
            return apply(*args)
        if cls is CheckpointFunction:
            return checkpointed(closure, args, apply)
        if of_parameters(args):
            return closure.or_plain(partial(by_turns, self, cls, args, apply), partial(apply, *args))
        out = apply(*args)
        if of_parameters(out):
            closure.cannot(f"{cls.__name__}, a function of autograd's own, gives what parameters alone give ({{}})")
        return out

    def _call(self, func: Function, args: Args, kwargs: Kwargs) -> Tree:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise NotCovered("the closure uses torch.func")
        if func is Tensor.to and type(args[0]) is Watched:
            with self.closure.dependence.paused():
                if func(*args, **kwargs) is args[0]:
                    return args[0]
        seen = self.closure.seen
        seen.autocast |= torch.is_autocast_enabled(next(iter(self.side.names)).device.type)
        if func in COMPOSED and (found := COMPOSED[func](self, func, args, kwargs)) is not NotImplemented:
            return found
        tensors = [t for t in (*args, *kwargs.values()) if type(t) is Tensor]
        what = f"{name_of(func)} of what parameters give"
        if tensors and (place := self.closure.owned(tensors, what)) is not None:
            return self._by_row(func, args, kwargs, place, what)
        rule = RULES.get(func)
        use = None if rule is None else rule.bind(func, args, kwargs)
        if use is not None and self._goes_by_rule(use):
            return self._covered(use)
        return by_vmap(self, func, args, kwargs)

    def _by_row(self, func: Function, args: Args, kwargs: Kwargs, place: Along, what: str) -> Tensor:
        """The result for rows that are owned as data says, which are filled up."""
        closure = self.closure
        x = rows_in(func, args, kwargs, place, name_of(func) in ENTRYWISE, what)
        with closure.dependence.paused():
            filling = Filling.of(place, closure.examples)
            filled = filling.fill(x)
        filled = closure.own(filled.movedim(place.dim, 0)).movedim(0, place.dim)
        out = self._call(func, *replaced(args, kwargs, x, filled))
        with torch._C.DisableTorchFunctionSubclass():
            dim = closure.rows_along(out, what)
            if dim is None:
                raise NotCovered(f"{what} gives no rows")
            with closure.dependence.paused():
                out = filling.taken(out, dim)
            return closure.own(out, Along(dim, place.inner))

    def _layer(self, module: nn.Module, args: Args) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            use = RULES[type(module)].bind_layer(module, args)
            if use.owners:
                for name in use.inputs:
                    if isinstance(use.arguments[name], Tensor):
                        self.closure.has_rows(use.arguments[name], f"{type(module).__name__}")
            return self._covered(use)

    def _goes_by_rule(self, use: Use) -> bool:
        """Whether the input has rows, and nothing else depends on examples."""
        x = use.arguments[use.inputs[0]]
        if not x.numel():
            return True
        known = {*use.owners, *use.inputs, *use.rule.unread(use)}
        others = [t for n, t in use.arguments.items() if n not in known]
        what = self.side.names[next(iter(use.owners.values()))] if use.owners else type(use.rule).__name__
        dim = self.closure.rows_along(x, what)
        if dim is None or dim >= use.rule.leading(use) or not self.closure.are_alone(others, what):
            return False
        if not use.rule.composite and any(
            self.closure.rows_along(use.arguments[n], what) != dim for n in use.inputs[1:]
        ):
            return False
        use.dim = dim
        return True

    def _covered(self, use: Use) -> Tensor:
        if not use.owners:
            return use.run()
        side, closure, groups = self.side, self.closure, self.side.groups
        first, *others = use.inputs
        if not use.arguments[first].numel():
            with closure.dependence.paused():
                return side.without_rows(use)
        owners = [side.names[p] for p in use.owners.values()]
        self.uses(type(use.rule).__name__, owners)
        if dim := use.dim:
            use.arguments[first] = use.arguments[first].movedim(dim, 0)
        rows_of(use.arguments[first], groups.whole, owners[0])
        with closure.dependence.paused():
            if groups.size == groups.whole:
                out = side.covered(use)
            else:
                rows = [n for n in others if closure.has_rows(use.arguments[n], owners[0])]
                use.arguments |= {name: groups.own(use.arguments[name]) for name in (first, *rows)}
                out = side.covered(use)
                out = more_rows(groups.among(out), out)
        out = closure.own(out)
        # Laid out as without the pass: dropout draws in that order.
        return out.movedim(0, dim).contiguous() if dim else out
