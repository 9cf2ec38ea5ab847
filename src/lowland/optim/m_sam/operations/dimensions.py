"""Operations along some dimensions, between whose other entries nothing happens."""

from collections.abc import Callable

import torch
from torch import Tensor

from lowland.optim.m_sam.operations.call import Call, Rule, listed, one, rule, same_dim
from lowland.optim.m_sam.operations.owned import picked, put
from lowland.optim.m_sam.places import Along, Owners, Place, owned


@rule(
    "sum nansum mean prod amax amin aminmax max min median nanmedian mode kthvalue argmax argmin any all std std_mean "
    "var var_mean norm linalg_vector_norm logsumexp count_nonzero"
)
def _reduction(call: Call) -> Place | None:
    if len(call.dependent) > 1 or not call.results:
        return None
    x, place = call.dependent[0]
    dims = listed(call.given.get("dim"), x.ndim)
    if dims is None or place.dim in dims:
        return None
    before = 0 if call.given.get("keepdim") else sum(d < place.dim for d in dims)
    return Along(place.dim - before, place.inner)


@rule(
    "_softmax _log_softmax _safe_softmax cumsum cumprod logcumsumexp cummax cummin sort topk argsort flip roll glu "
    "gather scatter scatter_add scatter_reduce index_select index_add index_copy index_fill index_reduce slice_scatter "
    "_fft_r2c _fft_c2c _fft_c2r linalg_cross"
)
def _along(call: Call) -> Place | None:
    """Nothing happens between entries of other dimensions."""
    out = call.results[0] if call.results else call.args[0]
    name = "dims" if "dims" in call.given else "dim"
    dims = listed(call.given.get(name), out.ndim)
    place = same_dim(call.dependent, out)
    if dims is None or place is None or place.dim in dims:
        return None if dims is None else _among_rows(call, *dims)
    index = call.given.get("index")
    if isinstance(index, Tensor) and index.ndim != out.ndim and call.at(index) is not None:
        return None
    others = [index, *(call.given.get(name) for name in ("self", "src", "source"))]
    if any(isinstance(t, Tensor) and _picks_rows(call, t, place, out) for t in others):
        return None
    return place


def _among_rows(call: Call, *dims: int) -> Along | None:
    """Of an operation that takes rows out, or puts them back."""
    of, x, index = call.func._schema.name.partition("::")[2].removesuffix("_"), call.args[0], call.given.get("index")
    if len(dims) > 1 or not isinstance(index, Tensor):
        return None
    if of == "index_select":
        place = call.at(x)
        return None if place is None else picked(call, x, place, [*[None] * dims[0], index])
    if of in ("index_add", "index_copy", "index_reduce", "scatter_add", "scatter_reduce"):
        source = call.given.get("source", call.given.get("src"))
        same = of[:5] == "index" or (isinstance(source, Tensor) and index.shape == source.shape)
        return put(call, x, dims[0], index, source) if same else None
    return None


def _picks_rows(call: Call, t: Tensor, place: Along, out: Tensor) -> bool:
    """Whether ``t`` has another number of rows, of which the first are taken, or is each group's own."""
    return call.labels.by_group(t) or (t.ndim == out.ndim and t.shape[place.dim] != out.shape[place.dim])


@rule("cat concat concatenate")
def _cat(call: Call) -> Place | None:
    out = call.results[0]
    (dim,) = listed(call.given["dim"], out.ndim) or {0}
    if {place.dim for _, place in call.dependent} == {dim}:
        return _one_behind_the_other(call, dim)
    place = same_dim(call.dependent, out)
    return None if place is None or dim == place.dim else place


def _one_behind_the_other(call: Call, dim: int) -> Along | None:
    """Rows that are joined along the dimension where they lie."""
    # Rows that parameters route are there at other weights, even if there are none now.
    tensors = [t for t in call.args[0] if t.numel() or call.at(t) is not None]
    places = [(t, place) for t in tensors if (place := call.at(t)) is not None]
    if len(places) < len(tensors) or len({place.routed for _, place in places}) > 1:
        return None
    of = torch.cat([place.owners(t.shape[dim], call.labels.examples) for t, place in places])
    return owned(dim, Owners(of, routing=object() if places[0][1].routed else None), call.labels.examples)


@rule("stack")
def _stack(call: Call) -> Place | None:
    out = call.results[0]
    (dim,) = listed(call.given["dim"], out.ndim) or {0}
    place = one(place for _, place in call.dependent)
    return None if place is None else Along(place.dim + (dim <= place.dim), place.inner)


@rule("repeat")
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
    rule(_names)(_leading(lambda call, dims=_dims: dims))  # type: ignore[misc]
rule("upsample_linear1d")(_leading(lambda call: 1))
rule("upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa")(_leading(lambda call: 2))
rule("upsample_trilinear3d pixel_shuffle pixel_unshuffle im2col")(_leading(lambda call: 3))
rule("channel_shuffle native_channel_shuffle")(_leading(lambda call: call.args[0].ndim - 1))
rule(
    "col2im tril triu linalg_inv_ex _linalg_det _linalg_slogdet linalg_cholesky_ex linalg_qr _linalg_svd _linalg_eigh"
)(_leading(lambda call: 2))


def _padded(call: Call) -> int:
    """Of the last dimensions, how many up to the first that is padded."""
    pad = call.args[1]
    return max((i // 2 + 1 for i, n in enumerate(pad) if n != 0), default=0)


rule("constant_pad_nd")(_leading(_padded))
rule("native_group_norm")(_leading(lambda call: call.args[0].ndim - 1))
rule("native_layer_norm _fused_rms_norm")(_leading(lambda call: len(call.args[1])))


@rule("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm")
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
            call.labels.set_mixed(running, "running statistics")
    if place.dim != 1:
        return None
    return [place, *(Along(0, place.inner) if out.shape == x.shape[1:2] else None for out in call.results[1:])]


@rule("convolution")
def _convolution(call: Call) -> Place | None:
    place = call.alone(call.args[0])
    return place if place is not None and place.dim == 0 else None
