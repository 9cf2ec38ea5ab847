"""Decoders of text, that tell the next token: Transformers, mixtures of experts, recurrences."""

from typing import Any

from torch import Tensor, nn

from architectures.case import Batch, Case, over_tokens
from architectures.data import VOCABULARY, tokens
from architectures.transformers_models import GROUPED, TEXT, named, of_config

GPT2 = {"vocab_size": VOCABULARY, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
STATES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 4}
EXPERTS = {"num_experts_per_tok": 2}


def next_tokens(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False).logits
    return over_tokens(logits[:, :-1], batch["ids"][:, 1:], batch["mask"][:, 1:])


def recurrent(model: nn.Module, batch: Batch) -> Tensor:
    """Padding comes last, and needs no mask."""
    logits = model(input_ids=batch["ids"], use_cache=False).logits
    return over_tokens(logits[:, :-1], batch["ids"][:, 1:], batch["mask"][:, 1:])


def decoder(title: str, config: str, sizes: dict[str, Any] = GROUPED, losses=next_tokens, **settings: Any) -> Case:
    chosen = sizes | settings
    return Case(title, named(config), lambda: of_config("AutoModelForCausalLM", config, chosen), tokens(), losses)


CASES = (
    decoder(
        "GPT-2", "GPT2Config", GPT2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2
    ),
    decoder("GPT-NeoX", "GPTNeoXConfig", TEXT, bos_token_id=1, eos_token_id=2),
    decoder("OPT", "OPTConfig", TEXT, ffn_dim=24, word_embed_proj_dim=8, dropout=0.0, bos_token_id=1, eos_token_id=2),
    decoder(
        "BLOOM",
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2},
        n_head=2,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    ),
    decoder("Llama", "LlamaConfig"),
    decoder("Mistral", "MistralConfig", sliding_window=4),
    decoder("Qwen3", "Qwen3Config"),
    decoder("Gemma 3", "Gemma3TextConfig", query_pre_attn_scalar=8, sliding_window=4),
    decoder("Mixtral", "MixtralConfig", num_local_experts=4, **EXPERTS),
    decoder(
        "Mixtral, experts one by one", "MixtralConfig", num_local_experts=4, experts_implementation="eager", **EXPERTS
    ),
    decoder("Qwen3-MoE", "Qwen3MoeConfig", num_experts=4, moe_intermediate_size=12, **EXPERTS),
    decoder(
        "DeepSeek-V3",
        "DeepseekV3Config",
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=12,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        num_key_value_heads=2,
        **EXPERTS | {"head_dim": 4},
    ),
    decoder("Mamba", "MambaConfig", STATES, state_size=4, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    decoder(
        "Mamba-2",
        "Mamba2Config",
        STATES,
        state_size=4,
        num_heads=4,
        head_dim=8,
        n_groups=1,
        chunk_size=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    decoder("Bamba", "BambaConfig", GROUPED, attn_layer_indices=[1], **MAMBA2),
    decoder("RWKV", "RwkvConfig", STATES, recurrent, attention_hidden_size=16, context_length=16),
)
