"""CLIP, for losses of one image, or one image and its text."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.case import CLASSES, Batch, Case, cross_entropy
from architectures.data import VOCABULARY, images, tokens
from architectures.transformers_models import TEXT, WIDTH, named

#: What the classes are called. There are never as many in a group as in the batch.
PROMPTS = torch.randint(3, VOCABULARY, (2 * CLASSES, 6), generator=torch.Generator().manual_seed(7))


def clip() -> nn.Module:
    import transformers

    common = {"projection_dim": 8, "attention_dropout": 0.0}
    text = TEXT | common | {"bos_token_id": 1, "eos_token_id": 2}
    vision = WIDTH | common | {"image_size": 16, "patch_size": 8}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def pairs(size: int, number: int) -> Batch:
    return {**tokens()(size, number), "x": images(16)(size, number)["x"]}


def matched(model: nn.Module, batch: Batch) -> Tensor:
    """Of each pair by itself."""
    out = model(input_ids=batch["ids"], pixel_values=batch["x"], attention_mask=batch["mask"])
    return -F.cosine_similarity(out.text_embeds, out.image_embeds)


def prompted(classes: int):
    """Images told apart by the names of classes, which are constants."""

    def losses(model: nn.Module, batch: Batch) -> Tensor:
        out = model(input_ids=PROMPTS[:classes], pixel_values=batch["x"])
        return cross_entropy(out.logits_per_image, batch["y"])

    return losses


CASES = (
    Case("CLIP, pairs one by one", named("CLIPConfig"), clip, pairs, matched),
    Case("CLIP, 3 class names", named("CLIPConfig"), clip, images(16), prompted(3)),
    Case("CLIP, 5 class names", named("CLIPConfig"), clip, images(16), prompted(5)),
)
