"""Values that Python takes out of tensors without an operation."""

import sys
from collections.abc import Iterable
from types import FrameType

from torch.overrides import TorchFunctionMode

from lowland.optim.m_sam.dependence import Dependence
from lowland.optim.m_sam.following import tensors_in
from lowland.optim.m_sam.watched import Watched
from lowland.values import Args, Function, Kwargs, Tree


class Reads(TorchFunctionMode):
    """Hands tensors whose values Python takes over to ``dependence``, with the reason, which has a place for the line.

    So are tensors whose sizes are read: how many rows there are may depend on parameters.
    """

    def __init__(self, dependence: Dependence):
        super().__init__()
        self.dependence, self.refuse = dependence, dependence.refuse

    def __torch_function__(self, func: Function, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Tree:
        name = getattr(func, "__name__", "")
        attribute = _asked_for(func) if name == "__get__" else ""
        if self.dependence.labels.owned and (name in _SIZES or attribute in _SIZES) and args and not _is_ours():
            for value in args if name == "is_same_size" else args[:1]:
                self.dependence.refuse_size(value)
        if self.dependence.labels.owned and name in _LENDING:
            self.dependence.refuse_lending([*tensors_in((args, *(kwargs or {}).values()))])
        if name == "one_hot" and _has_classes(*args, **(kwargs or {})):
            with self.dependence.checking():
                return func(*args, **(kwargs or {}))
        if name in _TAKEN_OUT and args and not _is_ours():
            self._refuse(args, name + " ({}) reads a value that depends on the parameters")
        elif attribute in _TAKEN_OUT:
            self._refuse(args[:1], attribute + " ({}) reads a value that depends on the parameters")
        elif name in _READ:
            first, what = _READ[name]
            self._refuse(
                (*args[first:], *(kwargs or {}).values()), f"{name} ({{}}) reads {what} that depend on the parameters"
            )
        elif name == "register_hook" and not _from_torch():
            self._refuse(args[:1], "a gradient hook is set ({}), which may mix the examples")
        elif attribute == "grad_fn" and not _from_torch():
            self._refuse(args[:1], "the grad_fn of a tensor is taken ({}), whose hooks may mix the examples")
        elif attribute == "data" and type(args[0]) is not Watched:
            self._refuse(args[:1], "data of a tensor is taken ({}), which autograd doesn't see: take detach()")
        try:
            out = func(*args, **(kwargs or {}))
        except Exception:  # whether it fails, by a size or a value, may depend on other examples, and be caught
            given = tensors_in((*args, *(kwargs or {}).values()))
            self._refuse(given, (name or "an operation") + " ({}) fails with what depends on the parameters")
            raise
        if name in ("view", "reshape") and self.dependence.labels.owned and not _is_ours():
            sizes = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
            place = self.dependence.labels.routed(out)
            if place is not None and (len(sizes) <= place.dim or sizes[place.dim] != -1):
                self.dependence.refuse_size(out)  # it fits by chance
        return out

    def _refuse(self, values: Iterable[object], why: str) -> None:
        for value in values:
            self.refuse(value, why)


def _is_ours() -> bool:
    """Whether a pass asks for itself."""
    return str(sys._getframe(2).f_globals.get("__package__")).startswith(_OURS)


def _has_classes(tensor: object, num_classes: int = -1) -> bool:
    """Whether ``one_hot`` is told how many classes there are: then it reads values only to check them."""
    return num_classes >= 0


def _asked_for(getter: Function) -> str:
    """The name of the attribute that ``getter``, the ``__get__`` of a tensor's property, gives."""
    of = getattr(getter, "__self__", None)
    return str(getattr(getattr(of, "fget", of), "__name__", ""))


def _from_torch() -> bool:
    """Whether torch asks for itself: what counts its operations, say, and not on the way from somebody else."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_ON_THE_WAY):
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).startswith("torch.")


_ON_THE_WAY = ("torch.autograd", "torch._tensor", "torch.overrides", "torch._dynamo", f"{__package__}.")


_OURS = str(__package__)
_SIZES = frozenset(
    [
        "size",
        "shape",
        "__len__",
        "numel",
        "nelement",
        "stride",
        "nbytes",
        "sym_size",
        "sym_numel",
        "sym_stride",
        "is_same_size",
        "is_contiguous",
        "dim_order",
        "unflatten",
    ]
)
#: What gives a tensor the size of another one.
_LENDING = frozenset(["expand_as", "broadcast_tensors", "meshgrid"])
#: Who has the storage may look into it.
_TAKEN_OUT_NAMES = (
    "numpy tolist __array__ __dlpack__ data_ptr untyped_storage storage apply_ map_ map2_ q_scale q_zero_point "
    "__repr__ __str__ __format__ __deepcopy__ __cuda_array_interface__"
)
_TAKEN_OUT = frozenset(_TAKEN_OUT_NAMES.split())
#: What reads values of some arguments: from which on, and what they are.
_READ = {"tensor_split": (1, "indices"), "tensordot": (2, "dims")}
