"""What is measured of a network on images: errors, losses, sharpness, and how the two gradients of SAM agree."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

from lowland.curvature import Objective, sharpness
from lowland.data import Split, scale
from lowland.optim.functional import perturbation
from lowland.papers.andriushchenko2022.settings import ImageSettings
from lowland.papers.images import error_and_loss
from lowland.torch_tools import evaluating

MANY = 20  # steps of the longer ascent


@dataclass(frozen=True)
class ImageSets:
    """Training, validation and test images with their classes, uint8, on the device."""

    train: Split
    validation: Split
    test: Split


class ImageCheck:
    """Errors and losses in evaluation mode, without augmentation; sharpness on the first training images.

    Records of:

    - ``train_``, ``validation_`` and ``test_`` ``error`` and ``loss`` (cross-entropy, without the ℓ2 term);
    - ``averaged_validation_error`` and ``averaged_test_error`` of the weights' exponential average, whose batch-norm
      statistics are computed anew from the training images; from the first step on;
    - ``sharpness`` and ``sharpness_20``: the mean over batches of the largest rise of the loss within ρ =
      ``sharpness_rho`` that one step of ascent finds, and twenty of a tenth of ρ (`lowland.curvature.sharpness`);
    - ``cosine`` of the gradients at w and at w + ε, and ``gradient_norm`` at w, over the same images.
    """

    def __init__(self, model: nn.Module, average: AveragedModel, sets: ImageSets, settings: ImageSettings):
        self.model, self.average, self.sets, self.settings = model, average, sets, settings

    def __call__(self, step: int, batch: tuple[Any, Any]) -> dict[str, Any]:
        """A record; FloatingPointError if the training loss is not finite."""
        with evaluating(self.model):
            record: dict[str, Any] = {"epoch": step * self.settings.trained_epochs / max(self.settings.steps, 1)}
            for name in ("train", "validation", "test"):
                error, loss = error_and_loss(self.model, batches_of(getattr(self.sets, name)))
                record |= {f"{name}_error": error, f"{name}_loss": loss}
            if not record["train_loss"] < float("inf"):
                raise FloatingPointError
            record |= self._curvature()
        return record | (self._averaged() if step else {})

    def _curvature(self) -> dict[str, float]:
        settings, inputs = self.settings, self.sets.train.take(torch.arange(self._measured()))
        batches = list(batches_of(inputs, settings.batch_size))
        objective = Objective(self.model, F.cross_entropy, batches)
        _, gradient = objective.loss_and_gradient()
        _, climbed = objective.loss_and_gradient(perturbation(gradient, settings.sharpness_rho))

        def worst(steps: int) -> float:
            return sharpness(self.model, F.cross_entropy, batches, settings.sharpness_rho, steps=steps).value

        return {
            "sharpness": worst(1),
            f"sharpness_{MANY}": worst(MANY),
            "cosine": F.cosine_similarity(gradient, climbed, dim=0).item(),
            "gradient_norm": gradient.norm().item(),
        }

    def _measured(self) -> int:
        return min(self.settings.sharpness_examples, len(self.sets.train))

    def _averaged(self) -> dict[str, float]:
        averaged = self.average.module
        update_bn((x for x, _ in batches_of(self.sets.train, self.settings.batch_size)), averaged)
        with evaluating(averaged):
            return {
                f"averaged_{name}_error": error_and_loss(averaged, batches_of(getattr(self.sets, name)))[0]
                for name in ("validation", "test")
            }

    def state_dict(self) -> dict[str, Any]:
        """Empty: no record builds on the one before."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does nothing: the check keeps no state."""


def error(output: Tensor, target: Tensor) -> Tensor:
    """The share of examples that are classified wrongly."""
    return (output.argmax(1) != target).float().mean()


def batches_of(split: Split, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
    """``split`` in order: float32 images in [0, 1], and their classes."""
    assert split.targets is not None
    for images, targets in zip(split.inputs.split(size), split.targets.split(size), strict=True):
        yield scale(images, 255), targets
