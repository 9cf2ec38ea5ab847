"""What operations of torch do with the examples in their arguments.

A rule says where the examples are in each result, or None where the operation mixes them or picks among them. It may
say None for what it can't tell; it may never say a place that is wrong.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from lowland.optim.m_sam.places import Along, Place

T = TypeVar("T")


@dataclass
class Call:
    """An operation that was called with tensors that depend on parameters, none of them mixed.

    Attributes:
        func: of ``torch.ops``.
        args: by position.
        kwargs: by name.
        results: tensors that it gave.
        dependent: arguments that depend on parameters, each with where its examples are.
        follow: what else is known of tensors, a `dependence.Dependence`.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Tensor]
    dependent: list[tuple[Tensor, Along]]
    follow: Any

    @cached_property
    def given(self) -> dict[str, Any]:
        """Arguments by name, defaults included."""
        names = self.func._schema.arguments
        values = {a.name: a.default_value for a in names if a.has_default_value()}
        return values | dict(zip((a.name for a in names), self.args)) | self.kwargs  # noqa: B905

    def at(self, value: Any) -> Along | None:
        """Where the examples are in an argument; None if it doesn't depend on parameters."""
        return next((place for t, place in self.dependent if t is value), None)

    def only(self, *allowed: Any) -> bool:
        """Whether no other arguments depend on parameters; one that is given twice counts twice."""
        left = [value for value in allowed if isinstance(value, Tensor)]
        for t, _ in self.dependent:
            found = [i for i, value in enumerate(left) if value is t]
            if not found:
                return False
            del left[found[0]]
        return True

    def alone(self, value: Any) -> Along | None:
        """Where the examples are in an argument, if no other depends on parameters."""
        return self.at(value) if self.only(value) else None


Rule = Callable[[Call], "Place | list[Place | None] | None"]
_RULES: dict[str, Rule] = {}


def rule_for(func: Any) -> Rule | None:
    """The rule of an operation; those that write in place have that of their namesakes."""
    if func.namespace != "aten":
        return None
    name = func._schema.name.partition("::")[2]
    in_place = name.endswith("_") and not name.endswith("__")
    name = name[:-1] if in_place else name
    if name in _RULES:
        return _RULES[name]
    # torch marks not all that write in place.
    like = getattr(getattr(torch.ops.aten, name, func), func._overloadname, func) if in_place else func
    return entrywise if torch.Tag.pointwise in like.tags else None


def _rule(names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names.split():
            _RULES[name] = rule
        return rule

    return register


def _one(values: Iterable[T]) -> T | None:
    """What all of them are; None if they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _aligned(dependent: list[tuple[Tensor, Along]], result: Tensor) -> Along | None:
    """Where examples are after broadcasting: they must meet in one dimension, counted from the last."""
    found = _one((t.ndim - place.dim, place.inner, t.shape[place.dim]) for t, place in dependent)
    if found is None:
        return None
    back, inner, size = found
    dim = result.ndim - back
    return Along(dim, inner) if dim >= 0 and result.shape[dim] == size else None


def _same_dim(dependent: list[tuple[Tensor, Along]], result: Tensor) -> Along | None:
    """The same, with dimensions counted from the first."""
    found = _one((place.dim, place.inner, t.shape[place.dim]) for t, place in dependent)
    if found is None:
        return None
    dim, inner, size = found
    return Along(dim, inner) if dim < result.ndim and result.shape[dim] == size else None


def _listed(dims: Any, ndim: int) -> set[int] | None:
    """Dimensions as an operation takes them, from 0 on; None for all."""
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return None
    return {d % max(ndim, 1) for d in (dims if isinstance(dims, list | tuple) else [dims])}


# Entry by entry.


@_rule(
    "_to_copy copy clone fill masked_fill zero where native_dropout _prelu_kernel hardswish polar complex ldexp "
    "log_sigmoid_forward bernoulli normal real imag angle special_expit floor_divide"
)
def entrywise(call: Call) -> Place | None:
    """Where its arguments have them, which must meet after broadcasting."""
    out = call.results[0] if call.results else call.args[0]
    return _aligned(call.dependent, out)


@_rule("mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits")
def _entrywise_loss(call: Call) -> Place | None:
    return _aligned(call.dependent, call.results[0]) if call.given["reduction"] == 0 else None


@_rule("bucketize")
def _bucketize(call: Call) -> Place | None:
    return _aligned(call.dependent, call.results[0]) if call.only(call.given["self"]) else None


# Along some dimensions.


@_rule(
    "sum nansum mean prod amax amin aminmax max min median nanmedian mode kthvalue argmax argmin any all std std_mean "
    "var var_mean norm linalg_vector_norm logsumexp count_nonzero"
)
def _reduction(call: Call) -> Place | None:
    if len(call.dependent) > 1 or not call.results:
        return None
    x, place = call.dependent[0]
    dims = _listed(call.given.get("dim"), x.ndim)
    if dims is None or place.dim in dims:
        return None
    before = 0 if call.given.get("keepdim") else sum(d < place.dim for d in dims)
    return Along(place.dim - before, place.inner)


@_rule(
    "_softmax _log_softmax _safe_softmax cumsum cumprod logcumsumexp cummax cummin sort topk argsort flip roll glu "
    "gather scatter scatter_add scatter_reduce index_select index_add index_copy index_fill index_reduce slice_scatter "
    "_fft_r2c _fft_c2c _fft_c2r linalg_cross"
)
def _along(call: Call) -> Place | None:
    """Nothing happens between entries of other dimensions."""
    out = call.results[0] if call.results else call.args[0]
    name = "dims" if "dims" in call.given else "dim"
    dims = _listed(call.given.get(name), out.ndim)
    place = _same_dim(call.dependent, out)
    if dims is None or place is None or place.dim in dims:
        return None
    index = call.given.get("index")
    if isinstance(index, Tensor) and index.ndim != out.ndim and call.at(index) is not None:
        return None
    others = [index, *(call.given.get(name) for name in ("self", "src", "source"))]
    if any(isinstance(t, Tensor) and _picks_rows(call, t, place, out) for t in others):
        return None
    return place


def _picks_rows(call: Call, t: Tensor, place: Along, out: Tensor) -> bool:
    """Whether ``t`` has another number of rows, of which the first are taken, or is each group's own."""
    return call.follow.by_group(t) or (t.ndim == out.ndim and t.shape[place.dim] != out.shape[place.dim])


@_rule("cat concat concatenate")
def _cat(call: Call) -> Place | None:
    out = call.results[0]
    (dim,) = _listed(call.given["dim"], out.ndim) or {0}
    place = _same_dim(call.dependent, out)
    return None if place is None or dim == place.dim else place


@_rule("stack")
def _stack(call: Call) -> Place | None:
    out = call.results[0]
    (dim,) = _listed(call.given["dim"], out.ndim) or {0}
    place = _one(place for _, place in call.dependent)
    return None if place is None else Along(place.dim + (dim <= place.dim), place.inner)


@_rule("repeat")
def _repeat(call: Call) -> Place | None:
    x, place = call.dependent[0]
    out, times = call.results[0], call.given["repeats"]
    dim = place.dim + out.ndim - x.ndim
    return Along(dim, place.inner) if times[dim] == 1 else None


# Only the last dimensions are touched.


def _leading(touched: Callable[[Call], int]) -> Rule:
    """Of an operation whose first argument has examples, and that works on its last ``touched`` dimensions."""

    def rule(call: Call) -> list[Place | None] | None:
        x = call.args[0]
        place = call.alone(x)
        if place is None or place.dim >= x.ndim - touched(call):
            return None
        found: list[Place | None] = []
        for out in call.results:
            kept = out.ndim > place.dim and out.shape[place.dim] == x.shape[place.dim]
            found.append(place if kept else None)
        return found if found and all(found) else None

    return rule


for _dims in (1, 2, 3):
    _names = f"""
    avg_pool{_dims}d _adaptive_avg_pool{_dims}d adaptive_avg_pool{_dims}d max_pool{_dims}d_with_indices
    max_pool{_dims}d adaptive_max_pool{_dims}d reflection_pad{_dims}d replication_pad{_dims}d
    upsample_nearest{_dims}d _upsample_nearest_exact{_dims}d
    """
    _rule(_names)(_leading(lambda call, dims=_dims: dims))  # type: ignore[misc]
_rule("upsample_linear1d")(_leading(lambda call: 1))
_rule("upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa")(_leading(lambda call: 2))
_rule("upsample_trilinear3d pixel_shuffle pixel_unshuffle im2col")(_leading(lambda call: 3))
_rule("channel_shuffle native_channel_shuffle")(_leading(lambda call: call.args[0].ndim - 1))
_rule(
    "col2im tril triu linalg_inv_ex _linalg_det _linalg_slogdet linalg_cholesky_ex linalg_qr _linalg_svd _linalg_eigh"
)(_leading(lambda call: 2))


def _padded(call: Call) -> int:
    """Of the last dimensions, how many up to the first that is padded."""
    pad = call.args[1]
    return max((i // 2 + 1 for i, n in enumerate(pad) if n != 0), default=0)


_rule("constant_pad_nd")(_leading(_padded))
_rule("native_group_norm")(_leading(lambda call: call.args[0].ndim - 1))
_rule("native_layer_norm _fused_rms_norm")(_leading(lambda call: len(call.args[1])))


@_rule("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm")
def _batch_norm(call: Call) -> list[Place | None] | None:
    """Each channel, the second dimension, by itself: examples may be there, as in instance norm."""
    x = call.args[0]
    place = call.alone(x)
    if place is None:
        return None
    rest: list[Place | None] = [None] * (len(call.results) - 1)
    if not call.given.get("training", call.func._schema.name == "aten::_native_batch_norm_legit"):
        return [place, *rest]
    for name in ("running_mean", "running_var"):  # which are written to, though the schema doesn't say so
        if isinstance(running := call.given.get(name), Tensor):
            call.follow.set_mixed(running, "running statistics")
    if place.dim != 1:
        return None
    return [place, *(Along(0, place.inner) if out.shape == x.shape[1:2] else None for out in call.results[1:])]


@_rule("convolution")
def _convolution(call: Call) -> Place | None:
    place = call.alone(call.args[0])
    return place if place is not None and place.dim == 0 else None


# Products.


@_rule("addmm addbmm baddbmm addmv")
def _added_product(call: Call) -> Place | None:
    if call.func._schema.name.startswith("aten::addbmm"):
        return None
    added, a, b = call.args[:3]
    out = call.results[0] if call.results else added
    places = [call.at(t) for t in (a, b)]
    found = _product(call, a, b) if any(places) else None
    if any(places) and found is None:
        return None
    if (at := call.at(added)) is None:
        return found
    place = _aligned([(added, at)], out)
    return place if found is None or found == place else None


@_rule("mm bmm mv dot vdot")
def _product_alone(call: Call) -> Place | None:
    return _product(call, call.args[0], call.args[1])


def _product(call: Call, a: Tensor, b: Tensor) -> Along | None:
    """Of matrices, of vectors, or of as many matrices on either side."""
    at, bt = call.at(a), call.at(b)
    batch = a.ndim - 2  # dimensions that stand beside each other
    if (
        batch < 0
        or (at is not None and at.dim == a.ndim - 1)
        or (bt is not None and bt.dim == max(b.ndim - 2, 0) >= batch)
    ):
        return None  # summed over
    if at is not None and bt is not None:
        return at if at == bt and at.dim < batch and a.shape[at.dim] == b.shape[bt.dim] else None
    return at if at is not None else bt


@_rule("linear")
def _linear(call: Call) -> Place | None:
    x = call.args[0]
    place = call.alone(x)
    return place if place is not None and place.dim < x.ndim - 1 else None


@_rule("_cdist_forward")
def _cdist(call: Call) -> Place | None:
    a, b = call.args[:2]
    place = _one(place for _, place in call.dependent)
    if place is None or a.ndim != b.ndim:
        return None
    return place if place.dim < a.ndim - 2 and call.results[0].shape[place.dim] == a.shape[place.dim] else None


@_rule(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_fused_attention_overrideable"
)
def _attention(call: Call) -> list[Place | None] | None:
    """Examples may be among the batch or the heads, the first two dimensions."""
    query, key, value = call.args[:3]
    mask = call.given.get("attn_mask", call.given.get("attn_bias"))
    inputs = [(t, place) for t, place in call.dependent if any(t is x for x in (query, key, value))]
    if not call.only(query, key, value, mask) or not inputs:
        return None
    place = _same_dim(inputs, call.results[0])
    if place is None or place.dim > 1 or any(t.shape[place.dim] != query.shape[place.dim] for t in (key, value)):
        return None
    of_mask = [(t, at) for t, at in call.dependent if t is mask]
    if of_mask and _aligned(of_mask, call.results[0]) != place:
        return None
    rest = [place if out.ndim == 3 and out.shape[:2] == query.shape[:2] else None for out in call.results[1:]]
    return [place, *rest]


@_rule("grid_sampler_2d grid_sampler_3d")
def _grid_sampler(call: Call) -> Place | None:
    place = _same_dim(call.dependent, call.results[0])
    return place if place is not None and place.dim == 0 else None


# By index.


@_rule("embedding")
def _embedding(call: Call) -> Place | None:
    return call.alone(call.given["indices"])


@_rule("index")
def _index(call: Call) -> Place | None:
    x, indices = call.args[:2]
    place = call.at(x)
    if place is None:  # values of parameters alone, picked by what examples say
        return _by_indices(call, indices, call.results[0])
    if not call.only(x):
        return None
    return _indexed(call, x, place, indices, call.results[0])


@_rule("index_put _index_put_impl _unsafe_index_put")
def _index_put(call: Call) -> Place | None:
    x, indices, values = call.args[:3]
    if not call.only(x, values):
        return None
    place, of_values = call.at(x), call.at(values)
    if of_values is None:
        return place  # what is written depends on nothing
    shape = x.detach()[tuple(slice(None) if i is None else i for i in indices)]
    for dim in range(x.ndim) if place is None else [place.dim]:
        here = Along(dim, of_values.inner)
        if not _untouched(dim, indices) or (place is not None and place != here):
            continue
        found = _indexed(call, x, here, indices, shape)
        if found is not None and _aligned([(values, of_values)], shape) == found:
            return here
    return None


def _untouched(dim: int, indices: Any) -> bool:
    """Whether no index is along ``dim``."""
    return _plain(indices) and (dim >= len(indices) or indices[dim] is None)


def _plain(indices: Any) -> bool:
    """Whether each index is for one dimension: masks of several dimensions are not."""
    return all(i is None or i.dtype not in (torch.bool, torch.uint8) or i.ndim == 1 for i in indices)


def _indexed(call: Call, x: Tensor, place: Along, indices: Any, out: Tensor) -> Along | None:
    """Where the examples of ``x`` are in ``x[indices]``."""
    if not _plain(indices):
        return None
    used = [d for d, i in enumerate(indices) if i is not None]
    if not used:
        return place
    together = used[-1] - used[0] == len(used) - 1
    new = max(1 if i.dtype in (torch.bool, torch.uint8) else i.ndim for i in indices if i is not None)
    start = used[0] if together else 0
    if place.dim not in used:
        before = sum(d < place.dim for d in range(x.ndim) if d not in used)
        dim = before + (new if not together or place.dim > used[0] else 0)
        return Along(dim, place.inner) if out.shape[dim] == x.shape[place.dim] else None
    index = indices[place.dim]
    # 0, 1, 2, ... takes the examples as they are.
    if not call.follow.counts(index) or index.numel() != x.shape[place.dim]:
        return None
    (along,) = [d for d, n in enumerate(index.shape) if n > 1] or [0]
    if index.stride(along) != 1:
        return None
    dim = start + new - index.ndim + along
    return Along(dim, place.inner) if out.shape[dim] == x.shape[place.dim] else None


def _by_indices(call: Call, indices: Any, out: Tensor) -> Along | None:
    """Where examples are in what indices pick that depend on parameters."""
    used = [d for d, i in enumerate(indices) if i is not None]
    given = [indices[d] for d in used]
    if not _plain(indices) or any(i.dtype in (torch.bool, torch.uint8) for i in given):
        return None
    start = used[0] if used[-1] - used[0] == len(used) - 1 else 0
    shape = torch.broadcast_shapes(*(i.shape for i in given))
    place = _aligned(call.dependent, torch.empty(shape, device="meta"))
    return None if place is None else Along(start + place.dim, place.inner)


# Losses.


@_rule("nll_loss_forward nll_loss2d_forward")
def _nll_loss(call: Call) -> list[Place | None] | None:
    x = call.args[0]
    place = call.alone(x)
    if call.given["reduction"] != 0 or place is None or x.ndim < 2 or place.dim == 1:
        return None
    return [Along(place.dim - (place.dim > 1), place.inner), None]


@_rule("_ctc_loss")
def _ctc_loss(call: Call) -> list[Place | None] | None:
    x = call.args[0]
    place = call.alone(x)
    if place is None or place.dim != 1 or x.ndim != 3:
        return None
    return [Along(0, place.inner), Along(0, place.inner)]
