"""The weights of a trained network, from a run directory or a file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lowland.errors import RunError, SettingError
from lowland.saved import tensors_in
from lowland.training.files import read_bytes
from lowland.values import State, StateDict


def read_weights(path: str | Path, arm: str | None = None, key: str | None = None) -> dict[str, Tensor]:
    """The ``state_dict`` at ``path``, on the CPU wherever it was saved.

    Args:
        path: a run directory, or a .pt or .pth file. The file holds a ``state_dict``, or a dictionary of several by
            name, as the code of Andriushchenko & Flammarion 2022 writes them: ``last``, ``best``, ``swa_last`` and
            ``swa_best``. The prefix ``module.`` that DataParallel puts before all names is taken off.
        arm: of the run; may be left out if there is one.
        key: which of a file's several; by default ``last``.

    Raises:
        RunError: if the file is missing, damaged, or holds something else.
        SettingError: for an arm or a key that is not there, or that goes with the other kind of file.
    """
    path = Path(path)
    file = path / "checkpoint.pt" if path.is_dir() else path
    content = _load(file)
    if isinstance(content, dict) and isinstance(content.get("arms"), dict):
        if key is not None:
            raise SettingError(f"{file} is of a run and has arms, no keys: leave the key {key} out")
        return dict(_of_arm(file, content, arm))
    if arm is not None:
        raise SettingError(f"{file} is not of a run and has no arms: leave the arm {arm} out")
    weights = _of_key(file, content, key)
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return dict(weights)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str | Path) -> None:
    """Copy ``weights``, all of them and nothing else, into ``model``; on an error the model is as it was.

    Args:
        model: on any device.
        weights: a ``state_dict``, as `read_weights` gives it.
        where: they come from, for the message.

    Raises:
        RunError: if they are another network's, for another number of classes, of another kind of numbers (integers for
            real ones, say), or not finite.
    """
    network = model.state_dict()
    missing = [name for name in network if name not in weights]
    unexpected = [name for name in weights if name not in network]
    misshapen = [name for name in network if name in weights and weights[name].shape != network[name].shape]
    differences = []
    if missing:
        differences.append(f"{len(missing)} missing, first {missing[0]}")
    if unexpected:
        differences.append(f"{len(unexpected)} unexpected, first {unexpected[0]}")
    if misshapen:
        there, here = weights[misshapen[0]].shape, network[misshapen[0]].shape
        if not differences and _is_last_layer(misshapen, weights, network):
            raise RunError(
                f"{where}: the file has {_classes(there)} classes, the network {_classes(here)}: take a network of "
                f"{_classes(there)}, or another file"
            )
        shapes = f"{tuple(there)} in the file, {tuple(here)} in the network"
        differences.append(f"{len(misshapen)} of another shape, first {misshapen[0]}: {shapes}")
    if differences:
        raise RunError(
            f"{where} holds another network's weights ({'; '.join(differences)}): take the network that was saved "
            "(at the command line: the --scale and --set of its training), or another file"
        )
    kinds = [name for name in network if _kind(weights[name]) != _kind(network[name])]
    if kinds:
        dtypes = f"{weights[kinds[0]].dtype} in the file, {network[kinds[0]].dtype} in the network"
        raise RunError(
            f"{where} holds numbers of another kind in {len(kinds)} tensors, first {kinds[0]}: {dtypes}: take another "
            "file"
        )
    bad = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if bad:
        raise RunError(f"{where} holds NaN or infinity in {len(bad)} tensors, first {bad[0]}: take another file")
    model.load_state_dict(weights)


def load_pretrained(model: nn.Module, path: str | Path) -> None:
    """Copy the weights in the file ``path`` into ``model``, to train it further: those of ImageNet, say.

    A last layer of the model with another number of classes keeps its own weights; all others must be in the file. How
    many batches a batch norm has seen may be missing there, as in files from before it was counted.

    Raises:
        RunError: if the file is missing or damaged, or its weights are another network's or not finite.
    """
    weights, network = read_weights(path), model.state_dict()
    misshapen = [name for name in network if name in weights and weights[name].shape != network[name].shape]
    if misshapen and _is_last_layer(misshapen, weights, network):
        weights |= {name: network[name] for name in misshapen}
    counts = {name: count for name, count in network.items() if name.endswith(".num_batches_tracked")}
    load_weights(model, counts | weights, path)


def _load(file: Path) -> State:
    try:
        content = read_bytes(file)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"there is no {file}: give a run directory, or a .pt or .pth file of weights") from None
    except OSError as error:
        raise RunError(f"{file} can't be read: {error.strerror or error}") from None
    try:
        return tensors_in(content, "cpu", old=True)
    except ValueError as error:
        raise RunError(
            f"{file} is damaged, or holds objects that are no tensors: copy it again, or save the state_dict alone"
        ) from error


def _of_arm(file: Path, content: StateDict, arm: str | None) -> dict[str, Tensor]:
    arms = content["arms"]
    if arm is None and len(arms) != 1:
        raise SettingError(f"{file} holds several arms: choose one of {', '.join(map(str, arms))}")
    arm = next(iter(arms)) if arm is None else arm
    if arm not in arms:
        raise SettingError(f"{file} has no arm {arm}: choose one of {', '.join(map(str, arms))}")
    if not isinstance(arms[arm], dict) or not _is_state(arms[arm].get("model", {"": torch.empty(0)})):
        raise RunError(f"{file} holds no weights of {arm}, though it has that arm: another version of Lowland wrote it")
    if "model" not in arms[arm]:
        why = (
            "it was trained as one program with others"
            if "stacks" in content
            else "it diverged before the first checkpoint"
        )
        raise RunError(f"{file} has no weights of {arm}, as {why}: train it with lowland run, or choose another arm")
    return arms[arm]["model"]


def _of_key(file: Path, content: State, key: str | None) -> dict[str, Tensor]:
    if _is_state(content):
        if key is not None:
            raise SettingError(f"{file} holds one state_dict: leave the key {key} out")
        return content
    states = {k: value for k, value in content.items() if _is_state(value)} if isinstance(content, dict) else {}
    if not states:
        raise RunError(f"{file} holds no weights: save model.state_dict() in it, or take another file")
    key = "last" if key is None else key
    if key not in states:
        raise SettingError(f"{file} has no key {key}: choose one of {', '.join(map(str, states))}")
    return states[key]


def _is_state(content: State) -> bool:
    return isinstance(content, dict) and bool(content) and all(_is_entry(*entry) for entry in content.items())


def _is_entry(name: object, tensor: object) -> bool:
    """Whether it is a name with a tensor that has all its numbers in memory."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        return False
    plain = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_nested)
    return plain and tensor.device.type != "meta"


def _kind(tensor: Tensor) -> str:
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "integer"


def _is_last_layer(names: list[str], weights: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> bool:
    """Whether ``names`` are of the network's last layer, and differ in the number of outputs alone."""
    last = list(network)[-1].rpartition(".")[0]
    pairs = [(weights[name], network[name]) for name in names if name.rpartition(".")[0] == last]
    return len(pairs) == len(names) and all(a.dim() == b.dim() and a.shape[1:] == b.shape[1:] for a, b in pairs)


def _classes(shape: torch.Size) -> int:
    return max(2, shape[0])  # one output tells two classes apart
