"""transformers: networks of images and video."""

from typing import Any

import torch
from torch import Tensor, nn

from architectures.case import CLASSES, Batch, Case, cross_entropy
from architectures.data import generator, images, signals
from architectures.transformers_models import NO_DROPOUT, WIDTH, named, of_config

PIXELS, FRAMES = 16, 4
VIT = WIDTH | NO_DROPOUT | {"image_size": PIXELS, "patch_size": 8, "num_labels": CLASSES}
MAE = VIT | {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24,
    "mask_ratio": 0.5,
}


def classified(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(pixel_values=batch["x"]).logits, batch["y"])


def vision(title: str, config: str, **settings: Any) -> Case:
    build = lambda: of_config("AutoModelForImageClassification", config, VIT | settings)  # noqa: E731
    return Case(title, named(config), build, images(PIXELS), classified)


def video(title: str, config: str, **settings: Any) -> Case:
    build = lambda: of_config("AutoModelForVideoClassification", config, VIT | {"num_frames": FRAMES} | settings)  # noqa: E731
    return Case(title, named(config), build, signals(FRAMES, 3, PIXELS, PIXELS), classified)


def with_noise(size: int, number: int) -> Batch:
    """Which patches are masked follows from the noise."""
    seeded = generator(number)
    return {"x": torch.randn(size, 3, PIXELS, PIXELS, generator=seeded), "noise": torch.rand(size, 4, generator=seeded)}


def restored(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error of the masked patches of each image."""
    out = model(batch["x"], noise=batch["noise"])
    each = (out.logits - model.patchify(batch["x"])).square().mean(-1)
    return (each * out.mask).sum(1) / out.mask.sum(1)


CASES = (
    vision("DINOv2", "Dinov2Config", drop_path_rate=0.0),
    vision("BEiT, its own positions", "BeitConfig", use_relative_position_bias=True, drop_path_rate=0.0),
    Case(
        "ViTMAE",
        named("ViTMAEConfig"),
        lambda: of_config("AutoModelForPreTraining", "ViTMAEConfig", MAE),
        with_noise,
        restored,
    ),
    video("TimeSformer", "TimesformerConfig", drop_path_rate=0),
    video("VideoMAE", "VideoMAEConfig", tubelet_size=2),
)
