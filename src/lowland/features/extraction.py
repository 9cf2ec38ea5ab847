"""Features: the output of a layer for each example."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lowland.errors import suggestion
from lowland.features.evaluation import check_batches, evaluated
from lowland.torch_tools import refuse_other_models, unwrapped


def extract(
    model: nn.Module, batches: Iterable[Any], layer: str | None = None, *, show_progress: bool = True
) -> Tensor:
    """The features of all examples, in the order of the batches: the flattened output of a layer of ``model``.

    The model runs in evaluation mode and without gradients. Its modes, its buffers and the global random state are
    unchanged afterwards. Of a model that is compiled or wrapped by DDP, the model inside runs.

    Args:
        model: the network, called with ``x`` alone.
        batches: ``x``, ``(x, y)`` or ``(x, y, groups)``. Only ``x`` is used, a tensor ``(examples, ...)``, which is
            moved to the model's device. They must be iterable many times; a generator is refused.
        layer: name of a layer in ``model.named_modules()``, whose **output** is taken. By default the **input** of the
            last registered linear layer is taken. For most networks that layer is the classifier, and its input is the
            last hidden layer after its nonlinearity.
        show_progress: whether to show a bar on a terminal, after two seconds.

    Returns:
        ``(n, features)``, on the model's device and in the layer's type.

    Raises:
        TypeError: if ``batches`` is a generator or a tensor, or an ``x`` isn't a tensor.
        ValueError: if there is no such layer (the message has the nearest name), or by default no linear layer; if the
            layer doesn't run, runs more than once, or doesn't return a tensor with a row for each example; if there
            are no examples.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> x = torch.randn(5, 2)
        >>> bool((extract(model, [x]) == extract(model, [(x, None)], "0").relu()).all())
        True
    """
    refuse_other_models("model", model)
    check_batches(batches)
    model = unwrapped(model)
    name, module = _layer(model, layer)
    caught: list[Any] = []

    def catch(value: Any) -> None:
        caught.append(value.clone() if isinstance(value, Tensor) else value)  # the next layer may work in place

    if layer is None:
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs: catch(args[0] if args else kwargs.get("input")), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(lambda _, args, output: catch(output))
    features = []
    try:
        with torch.no_grad(), evaluated(model, batches, "extracting", show_progress) as inputs:
            for x, _ in inputs:
                caught.clear()
                model(x)
                features.append(_rows(caught, len(x), name))
    finally:
        handle.remove()
    return torch.cat(features)


def _layer(model: nn.Module, name: str | None) -> tuple[str, nn.Module]:
    modules = dict(model.named_modules(remove_duplicate=False))
    if name is None:
        linear = [item for item in modules.items() if isinstance(item[1], nn.Linear)]
        if not linear:
            raise ValueError("the model has no linear layer, before which features would be taken: name one, layer=")
        return linear[-1]
    if name not in modules:
        raise ValueError(f"the model has no layer {name!r}.{suggestion(name, filter(None, modules))}")
    return name, modules[name]


def _rows(caught: list[Any], n: int, name: str) -> Tensor:
    if len(caught) != 1:
        raise ValueError(
            f"the layer {name!r} runs {len(caught)} times when the model is called, so that it has no features of its "
            "own: name one that runs once"
        )
    (value,) = caught
    if not isinstance(value, Tensor):
        raise ValueError(f"the layer {name!r} gives a {type(value).__name__}, not a tensor: name one in or after it")
    if value.dim() == 0 or len(value) != n:
        raise ValueError(f"the layer {name!r} gives {tuple(value.shape)} for {n} examples: it needs a row for each")
    return value[:, None] if value.dim() == 1 else value.flatten(1)
