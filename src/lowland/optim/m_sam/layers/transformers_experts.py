"""Layers of experts of transformers, whose one function it computes in several ways: by a way that the passes know.

A layer is known by texts: that of its ``forward``, which chooses by the configuration's ``experts_implementation``, and
those of the function that is chosen and of what this calls. What isn't known to the letter is called as it is.
"""

import inspect
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from lowland.optim.m_sam.layers.experts import expert_linear
from lowland.optim.m_sam.registry import READ, known, text_of
from lowland.optim.m_sam.watched import Watched
from lowland.values import Function, Tree

#: What chooses, in transformers 5.23.
_CHOOSES = "4f88554e5bc6c667805c18dad533f1845434f6e061c4b33c8c0b7061b6a7139b"
#: The gate between the products where a layer has none of its own.
_GATE = "2d8844be94e54259a808b70bfb74439955fc70bfae35a98203cdb90cde731a72"
#: "eager", an expert at a time; see `READ`.
_ONE_BY_ONE = "1c60625a2da2dfba914faabc2771e8b00983f2549c6fe76189389ed7aa09413f"
#: "grouped_mm", the default, and "batched_mm".
_GROUPED = "54beecae8764c6e99e73d0a6c85f9120c9535d713647d099dd91da6c74e1f15e"
_BATCHED = "8f33abfd2e57fb4b4bb76a4538345c3091cd1ab2ce49d4302f7575be0e0e44f6"
#: What each of them calls, by name, and the text of that.
_CALLS: dict[str, dict[str, str]] = {
    _ONE_BY_ONE: {},
    _GROUPED: {
        "_grouped_linear": "027b89afcacd28ae3cc5a98a36c8ec74e590ff66bf618263f14050adbe27e5e8",
        "_grouped_mm": "48e6d68b0f3bd66f6cf00e0bb85c7a122cb5ad1fdbb641ac0b7920cda41f0378",
    },
    _BATCHED: {"_batched_linear": "11d4a8c01fbeb32d70994015c0d2d9879e411e1a8604ae2c883ba298a64c80fd"},
}
#: Of a layer with a gate, as most are, in this process alone.
_PLAIN = {
    "has_gate": True,
    "is_concatenated": True,
    "has_bias": False,
    "is_transposed": False,
    "has_post_expert_norm": False,
    "_is_expert_parallel": False,
}


@known
def experts(layer: Tree) -> Function | None:
    """What to call for a layer of experts; None if it isn't known.

    Under autocast the functions differ in the type of their products: there the one that is chosen is kept to.
    """
    forward: Function = type(layer).forward
    if not (choices := _choices_of(forward)):
        return None
    one_by_one: Function = choices["original_forward"]
    chosen = choices["experts_interface"].get_interface(layer.config._experts_implementation, one_by_one)
    as_it_is = forward if text_of(chosen) in READ else None
    if not _is_read(chosen) or not _is_plain(layer, dict.values(one_by_one.__globals__.get("ACT2FN", {}))):
        return as_it_is
    alike = not torch.is_autocast_enabled(layer.gate_up_proj.device.type)
    watched = all(type(layer._parameters.get(name)) is Watched for name in ("gate_up_proj", "down_proj"))
    if watched and (alike or text_of(chosen) == _GROUPED):
        return _by_products
    return one_by_one if alike and text_of(one_by_one) == _ONE_BY_ONE else as_it_is


@cache
def _choices_of(forward: Function) -> dict[str, Tree]:
    """What ``forward`` chooses among, if it is known to choose."""
    return dict(inspect.getclosurevars(forward).nonlocals) if text_of(forward) == _CHOOSES else {}


def _is_read(chosen: Function) -> bool:
    """Whether a function, and what it calls, were read."""
    calls = _CALLS.get(text_of(chosen))
    return calls is not None and all(text_of(chosen.__globals__.get(name)) == text for name, text in calls.items())


def _is_plain(layer: Tree, activations: Iterable[Tree]) -> bool:
    """Whether a layer has nothing of its own: ``activations`` are transformers', each entry by entry."""
    own = [kind[0] if isinstance(kind, tuple) else kind for kind in activations]
    gate = None if "_apply_gate" in vars(layer) else getattr(type(layer), "_apply_gate", None)
    plain = all(getattr(layer, name, None) is value for name, value in _PLAIN.items())
    return plain and text_of(gate) == _GATE and type(getattr(layer, "act_fn", None)) in own


def _by_products(layer: Tree, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """What they all compute, in the order of the words. Its arguments are theirs."""
    number, each = top_k_index.flatten(), top_k_index.shape[-1]
    rows = hidden_states.unsqueeze(1).expand(-1, each, -1).flatten(0, 1)
    inner = layer._apply_gate(expert_linear(rows, number, layer.gate_up_proj))
    found = expert_linear(inner, number, layer.down_proj) * top_k_weights.reshape(-1, 1)
    return found.view(*top_k_index.shape, -1).sum(1).to(hidden_states.dtype)
