"""Losses that aren't those of one example each: no group has a gradient of its own, and m-SAM says so."""

import torch
from torch import Tensor, nn

from architectures.case import Batch, Case, cross_entropy
from architectures.clip import clip, pairs
from architectures.data import images, tokens
from architectures.decoders import EXPERTS, GROUPED, next_tokens
from architectures.images import classified
from architectures.transformers_models import named, of_config

COUPLED = "depends on other examples of the batch"
BALANCED = GROUPED | EXPERTS | {"num_local_experts": 4, "output_router_logits": True}


def contrastive(model: nn.Module, batch: Batch) -> Tensor:
    """Each image is told from those of the batch, and each text."""
    out = model(input_ids=batch["ids"], pixel_values=batch["x"], attention_mask=batch["mask"])
    own = torch.arange(len(batch["x"]))
    return (cross_entropy(out.logits_per_image, own) + cross_entropy(out.logits_per_text, own)) / 2


def balanced(model: nn.Module, batch: Batch) -> Tensor:
    """Experts take equal shares of the batch's tokens."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    found = model(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False, output_router_logits=True)
    return next_tokens(model, batch) + load_balancing_loss_func(found.router_logits, 4, 2, batch["mask"])


def small_images() -> nn.Module:
    import timm

    return timm.create_model("resnet18", num_classes=3, layers=(1, 1, 1, 1), channels=(8, 8, 16, 16))


CASES = (
    Case("CLIP, contrastive", named("CLIPConfig"), clip, pairs, contrastive, COUPLED),
    Case(
        "Mixtral, balanced experts",
        named("MixtralConfig"),
        lambda: of_config("AutoModelForCausalLM", "MixtralConfig", BALANCED),
        tokens(),
        balanced,
        COUPLED,
    ),
    Case(
        "ResNet, one value a channel",
        "timm `resnet18`",
        small_images,
        images(32),
        classified,
        "batches that leave no example over",
    ),
)
