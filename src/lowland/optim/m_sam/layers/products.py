"""Products with a parameter that are a fully connected layer, written otherwise."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.layers.linear import Linear
from lowland.optim.m_sam.registry import composed, rule
from lowland.optim.m_sam.watched import Caller, Watched
from lowland.values import Args, Function, Kwargs, Tree


def product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight + bias``, the weight as ``(inputs, outputs)``."""
    z = input @ weight
    return z if bias is None else z + bias


@rule(product)
class Product(Linear):
    """A fully connected layer whose weight is written ``(inputs, outputs)``."""

    turned = True


def outer_product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``weight``, ``(outputs, n, k)``, times products of two inputs, ``(..., n · k)``, plus ``bias``."""
    return F.linear(input, weight.flatten(1), bias)


@rule(outer_product)
class OuterProduct(Linear):
    """A fully connected layer of products of two inputs."""

    def matrix(self, weight: Tensor) -> Tensor:
        """One weight, or those of all groups, as ``(..., outputs, n · k)``."""
        return weight.flatten(-2)


@composed(torch.addmm, Tensor.addmm)
def addmm(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """``bias + x @ weight``, unless it has factors or a matrix is added."""
    if kwargs or len(args) != 3:
        return NotImplemented
    bias, x, weight = args
    if not _is_layer(x, weight) or bias.ndim != 1:
        return NotImplemented
    return watch.call(product, (x, weight, bias), {})


@composed(torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
def matmul(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """``x @ weight``."""
    if kwargs or len(args) != 2 or not _is_layer(*args):
        return NotImplemented
    return watch.call(product, args, {})


@composed(F.bilinear)
def bilinear(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """xᵀ W y + b: a fully connected layer of all products of an entry of x and one of y."""
    given = dict(zip(("input1", "input2", "weight", "bias"), args, strict=False)) | kwargs
    x, y, weight, bias = (given.get(name) for name in ("input1", "input2", "weight", "bias"))
    if type(x) is not Tensor or type(y) is not Tensor or type(weight) is not Watched:
        return NotImplemented
    products = (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(-2)
    return watch.call(outer_product, (products, weight, bias), {})


def _is_layer(x: Tree, weight: Tree) -> bool:
    return type(x) is Tensor and x.ndim > 1 and type(weight) is Watched and weight.ndim == 2


def weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """The product g · v/‖v‖, the norms over all dimensions but ``dim``; over all if that is -1.

    It lies in memory as what torch gives: in order, and for the first dimension and the last with the strides of that.
    """
    others = [d for d in range(v.ndim) if dim == -1 or d != dim % v.ndim]
    w = v.contiguous() * (g / torch.linalg.vector_norm(v, dim=others, keepdim=True))
    return w.view(-1).view(v.shape) if dim in (0, v.ndim - 1) else w


@composed(F.normalize)
def normalized(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """A step of spectral norm's power iteration, written to a buffer."""
    if (out := kwargs.get("out")) is None:
        return NotImplemented
    value = watch.call(func, args, {name: given for name, given in kwargs.items() if name != "out"})
    return watch.written(out, value, "normalize of what parameters give")


@composed(torch._weight_norm)
def normed(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """In operations that stand side by side for many groups."""
    bound = dict(zip(("v", "g", "dim"), args, strict=False)) | kwargs
    return watch.call(weight_norm, (bound["v"], bound["g"], bound.get("dim", 0)), {})
