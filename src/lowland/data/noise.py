"""Label noise, drawn reproducibly."""

from dataclasses import replace

import torch
from torch import Tensor

from lowland.data.batches import seeded
from lowland.data.registry import source
from lowland.data.split import Split
from lowland.errors import SettingError

# Patrini et al. 2017, *Making Deep Neural Networks Robust to Label Noise*, section 5: classes that look alike.
_ALIKE = {
    "cifar-10": {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"},
}
_NEXT = ("cifar-100",)  # each class becomes the one after it, the last the first


def flip_labels(split: Split, fraction: float, kind: str, dataset: str, seed: int) -> tuple[Split, Tensor]:
    """Give a random ``fraction`` of the examples a wrong label.

    Args:
        split: with targets.
        fraction: of the examples that are chosen, in [0, 1]; their number is rounded.
        kind: ``"symmetric"``: a chosen example gets any of the other classes, each as likely. ``"asymmetric"``: it
            gets the class that its own is taken for; if there is none it keeps its own, so that fewer are wrong.
        dataset: whose classes they are.
        seed: of the draw, which depends on it and the number of examples alone.

    Returns:
        The split with its new targets, and the indices of the examples whose label is wrong, ascending, int64, on the
        CPU.

    Raises:
        SettingError: for a fraction out of range, an unknown kind, a split without targets, or a dataset without
            asymmetric noise.
    """
    if not 0 <= fraction <= 1:
        raise SettingError(f"The fraction of wrong labels must lie between 0 and 1; it is {fraction}.")
    if split.targets is None:
        raise SettingError("Text has no labels to make wrong.")
    generator = seeded(seed, 2**30)  # not the draws of orders and images, whose numbers are small
    classes = len(source(dataset).classes)
    targets = split.targets.cpu()
    chosen = torch.randperm(len(split), generator=generator)[: round(fraction * len(split))].sort().values
    if kind == "symmetric":
        shifts = torch.randint(1, classes, (len(chosen),), generator=generator)
        wrong = (targets[chosen] + shifts) % classes
    elif kind == "asymmetric":
        wrong = _taken_for(dataset, classes)[targets[chosen]]
    else:
        raise SettingError(f"Labels are made wrong in a symmetric or asymmetric way, not {kind!r}.")
    noisy = targets.clone()
    noisy[chosen] = wrong
    return replace(split, targets=noisy.to(split.targets.device)), (noisy != targets).nonzero().flatten()


def _taken_for(dataset: str, classes: int) -> Tensor:
    """Class → the class that it is taken for, int64 ``(classes,)``."""
    if dataset in _NEXT:
        return (torch.arange(classes) + 1) % classes
    if dataset not in _ALIKE:
        known = ", ".join((*_ALIKE, *_NEXT))
        raise SettingError(f"There is no asymmetric noise for {dataset}: it is defined for {known}.")
    names = list(source(dataset).classes)
    return torch.tensor([names.index(_ALIKE[dataset].get(name, name)) for name in names])
