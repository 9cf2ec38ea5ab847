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
    """The projections by their rule, examples first; between them what torch's own function does."""
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    inputs = [given[name] for name in ("query", "key", "value")]
    if given["bias_k"] is not None or given["static_k"] is not None or any(t.ndim != 3 for t in inputs):
        raise NotCovered("multi_head_attention_forward has a bias_k, a static_k or inputs without a batch")
    q, k, v = _projected(watch, given, *inputs)
    if any(isinstance(t, Watched | Derived) for t in (q, k, v)):
        raise NotCovered("multi_head_attention_forward has a query, key or value that parameters alone give")
    if given["add_zero_attn"] or isinstance(given["attn_mask"], Watched | Derived):
        attended, weights = _by_identity(func, given, q, k, v)
    else:
        attended, weights = _attend(given, *(t.transpose(0, 1) for t in (q, k, v)))
    out = watch.call(F.linear, (attended, given["out_proj_weight"], given["out_proj_bias"]), {})
    # Laid out as torch's own: dropout draws in that order.
    return out.transpose(0, 1).contiguous(), weights


def _attend(given: Kwargs, *projected: Tensor) -> tuple[Tensor, Tensor | None]:
    """What torch's own function does between its projections.

    Args:
        given: its arguments.
        projected: queries, keys and values, ``(rows, times, width)``.

    Returns:
        The same shape as queries; the weights, if they are asked for.
    """
    q, k, v = (t.unflatten(-1, (given["num_heads"], -1)).transpose(1, 2) for t in projected)
    mask, padding = given["attn_mask"], given["key_padding_mask"]
    dropout = given["dropout_p"] if given["training"] else 0.0
    causal = bool(given["is_causal"] and padding is None and not given["need_weights"])
    masks = []
    if mask is not None and not causal:
        masks.append(_added(mask if mask.ndim == 2 else mask.unflatten(0, q.shape[:2]), q.dtype))
    if padding is not None:
        masks.append(_added(padding[:, None, None], q.dtype))
    added = sum(masks[1:], masks[0]) if masks else None
    if not given["need_weights"]:
        attended = F.scaled_dot_product_attention(q, k, v, added, dropout, causal)
        return attended.transpose(1, 2).flatten(2), None
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    weights = F.dropout((scores if added is None else scores + added).softmax(-1), dropout)
    attended = (weights @ v).transpose(1, 2).flatten(2)
    return attended, weights.mean(1) if given["average_attn_weights"] else weights


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: minus infinity where a mask of truth values says so."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf) if mask.dtype == torch.bool else mask


def _by_identity(func: Function, given: Kwargs, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
    """The same by torch's own function, projecting by the identity."""
    width = given["embed_dim_to_check"]
    identity = torch.eye(width, dtype=q.dtype, device=q.device)
    own = {
        "query": q, "key": k, "value": v, "in_proj_weight": identity.repeat(3, 1), "in_proj_bias": None,
        "out_proj_weight": identity, "out_proj_bias": None, "use_separate_proj_weight": False,
        "q_proj_weight": None, "k_proj_weight": None, "v_proj_weight": None,
    }  # fmt: skip
    attended, weights = func(**(given | own))
    return attended.transpose(0, 1), weights


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
