"""Encoders with decoders, from text to text."""

from typing import Any

import torch
from torch import Tensor, nn

from architectures.case import Batch, Case, over_tokens
from architectures.data import PADDING, VOCABULARY, tokens
from architectures.transformers_models import PAIRED, named, of_config

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
TASK = "AutoModelForSeq2SeqLM"
WORDS = {"vocab_size": VOCABULARY, "pad_token_id": PADDING, "bos_token_id": 1, "eos_token_id": 2}


def translated(model: nn.Module, batch: Batch) -> Tensor:
    heard = {"input_ids": batch["ids"], "attention_mask": batch["mask"]}
    logits = model(**heard, decoder_input_ids=batch["targets"][:, :-1], use_cache=False).logits
    said = batch["targets"][:, 1:]
    return over_tokens(logits, said, torch.ones_like(said))


def both(title: str, config: str, sizes: dict[str, Any], build=of_config, **settings: Any) -> Case:
    chosen = WORDS | {"decoder_start_token_id": 1} | sizes | settings
    return Case(title, named(config), lambda: build(TASK, config, chosen), tokens(), translated)


def in_float64(task: str, config: str, settings: dict[str, Any]) -> nn.Module:
    """The routers cast to a type of their own."""
    model = of_config(task, config, settings)
    for module in model.modules():
        if type(module).__name__ == "SwitchTransformersTop1Router":
            module.dtype = torch.float64
    return model


CASES = (
    both("T5", "T5Config", T5),
    both("LongT5", "LongT5Config", T5, local_radius=3),
    both(
        "SwitchTransformers",
        "SwitchTransformersConfig",
        T5,
        in_float64,
        num_experts=2,
        expert_capacity=64,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        router_jitter_noise=0.0,
    ),
    both("BART", "BartConfig", PAIRED, max_position_embeddings=16),
    both("M2M100", "M2M100Config", PAIRED, max_position_embeddings=16),
    both(
        "LED",
        "LEDConfig",
        PAIRED,
        attention_window=4,
        max_encoder_position_embeddings=16,
        max_decoder_position_embeddings=16,
    ),
)
