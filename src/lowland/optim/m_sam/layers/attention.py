"""Attention whose masks are learnt, and ``nn.MultiheadAttention``: fully connected layers around it."""

import inspect

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.registry import composed
from lowland.optim.m_sam.watched import Caller, Derived, Watched
from lowland.values import Args, Function, Kwargs, Tree


@composed(F.scaled_dot_product_attention)
def with_a_bias(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """Of rows, with a mask that parameters alone give (a bias by distance, say): one for each row."""
    names = ("query", "key", "value", "attn_mask")
    given = dict(zip(names, args, strict=False)) | kwargs
    mask: Tree = given.get("attn_mask")
    inputs: list[Tree] = [given.get(name) for name in names[:3]]
    if any(type(t) is not Tensor for t in inputs) or not isinstance(mask, Watched | Derived):
        return NotImplemented
    rows = watch.beside(mask, inputs[0], "scaled_dot_product_attention")
    if rows is None:
        return NotImplemented
    return func(*inputs, rows, *args[4:], **{name: value for name, value in kwargs.items() if name not in names})


@composed(F.multi_head_attention_forward)
def multi_head_attention(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """The projections by their rule, examples first; between them torch's own function, projecting by the identity."""
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    inputs = [given[name] for name in ("query", "key", "value")]
    if given["bias_k"] is not None or given["static_k"] is not None or any(t.ndim != 3 for t in inputs):
        raise NotCovered("multi_head_attention_forward has a bias_k, a static_k or inputs without a batch")
    width = given["embed_dim_to_check"]
    q, k, v = _projected(watch, given, *inputs)
    if any(isinstance(t, Watched | Derived) for t in (q, k, v)):
        raise NotCovered("multi_head_attention_forward has a query, key or value that parameters alone give")
    identity = torch.eye(width, dtype=q.dtype, device=q.device)
    own = {
        "query": q, "key": k, "value": v, "in_proj_weight": identity.repeat(3, 1), "in_proj_bias": None,
        "out_proj_weight": identity, "out_proj_bias": None, "use_separate_proj_weight": False,
        "q_proj_weight": None, "k_proj_weight": None, "v_proj_weight": None,
    }  # fmt: skip
    attended, weights = func(**(given | own))
    out = watch.call(F.linear, (attended.transpose(0, 1), given["out_proj_weight"], given["out_proj_bias"]), {})
    # Laid out as torch's own: dropout draws in that order.
    return out.transpose(0, 1).contiguous(), weights


def _projected(watch: Caller, given: Kwargs, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    def call(func: Function, args: Args) -> Tree:
        watched = any(isinstance(arg, Watched | Derived) for arg in args)
        return watch.call(func, args, {}) if watched else func(*args)

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out: Tensor = call(F.linear, (x.transpose(0, 1), weight, bias))
        return out.transpose(0, 1)

    bias = given["in_proj_bias"]
    if not given["use_separate_proj_weight"] and q is k and k is v:
        return list(linear(q, given["in_proj_weight"], bias).chunk(3, -1))
    if given["use_separate_proj_weight"]:
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = call(Tensor.chunk, (given["in_proj_weight"], 3))
    biases = [None] * 3 if bias is None else call(Tensor.chunk, (bias, 3))
    return [linear(x, w, b) for x, w, b in zip((q, k, v), weights, biases, strict=True)]
