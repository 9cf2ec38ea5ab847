"""Networks of transformers, by the classes of their configurations; nothing is downloaded."""

from typing import Any

from torch import nn

from architectures.data import PADDING, VOCABULARY

WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = WIDTH | {"vocab_size": VOCABULARY, "max_position_embeddings": 16, "pad_token_id": PADDING}
#: Of decoders with rotary positions and a key for several queries.
GROUPED = TEXT | {"num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
#: Of encoders and decoders in BART's words.
PAIRED = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}


def of_config(task: str, config: str, settings: dict[str, Any]) -> nn.Module:
    """The network for ``task``: a class of transformers, or one of its AutoModels."""
    import transformers

    made = getattr(transformers, config)(**settings)
    model = getattr(transformers, task)
    return model.from_config(made) if task.startswith("AutoModel") else model(made)


def named(config: str) -> str:
    """What the table says of it."""
    return f"transformers `{config}`"
