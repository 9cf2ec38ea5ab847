"""Encoders of text, that classify whole sequences or tell masked tokens."""

from typing import Any

from torch import Tensor, nn

from architectures.case import CLASSES, Batch, Case, cross_entropy, over_tokens
from architectures.data import tokens
from architectures.transformers_models import NO_DROPOUT, TEXT, named, of_config

CLASSIFIER = "AutoModelForSequenceClassification"


def classified(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(input_ids=batch["ids"], attention_mask=batch["mask"]).logits, batch["y"])


def told(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(input_ids=batch["ids"], attention_mask=batch["mask"]).logits
    return over_tokens(logits, batch["targets"], batch["mask"])


def encoder(title: str, config: str, sizes: dict[str, Any] = TEXT | NO_DROPOUT, **settings: Any) -> Case:
    chosen = sizes | {"num_labels": CLASSES} | settings
    return Case(title, named(config), lambda: of_config(CLASSIFIER, config, chosen), tokens(), classified)


def masked(title: str, config: str, **settings: Any) -> Case:
    chosen = TEXT | NO_DROPOUT | settings
    return Case(title, named(config), lambda: of_config("AutoModelForMaskedLM", config, chosen), tokens(), told)


CASES = (
    encoder("BERT", "BertConfig"),
    masked("BERT, masked tokens", "BertConfig"),
    encoder("RoBERTa", "RobertaConfig", max_position_embeddings=20),
    encoder(
        "DistilBERT",
        "DistilBertConfig",
        dim=16,
        n_layers=2,
        n_heads=2,
        hidden_dim=24,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
    ),
    encoder("ALBERT", "AlbertConfig", embedding_size=8, classifier_dropout_prob=0.0),
    encoder(
        "DeBERTa-v2",
        "DebertaV2Config",
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=4,
        pooler_hidden_size=16,
    ),
    encoder(
        "ModernBERT",
        "ModernBertConfig",
        global_attn_every_n_layers=2,
        local_attention=4,
        embedding_dropout=0.0,
        mlp_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    encoder(
        "XLNet",
        "XLNetConfig",
        sizes={"vocab_size": 30, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
        dropout=0.0,
        summary_last_dropout=0.0,
        pad_token_id=0,
    ),
    encoder("FNet", "FNetConfig"),
    encoder("Longformer", "LongformerConfig", attention_window=[4, 4], max_position_embeddings=24),
)
