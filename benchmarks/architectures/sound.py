"""Networks of sound."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.case import CLASSES, Batch, Case, cross_entropy, over_tokens
from architectures.data import PADDING, VOCABULARY, generator, lengths, signals
from architectures.transformers_models import NO_DROPOUT, PAIRED, WIDTH, named, of_config

SAMPLES = 200
SPEECH = WIDTH | {
    "vocab_size": VOCABULARY,
    "pad_token_id": PADDING,
    "conv_dim": (8, 8),
    "conv_kernel": (8, 4),
    "conv_stride": (4, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "apply_spec_augment": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
}


def classified(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch["x"]).logits, batch["y"])


def sound(title: str, config: str, **settings: Any) -> Case:
    chosen = SPEECH | {"num_labels": CLASSES} | settings
    build = lambda: of_config("AutoModelForAudioClassification", config, chosen)  # noqa: E731
    return Case(title, named(config), build, signals(SAMPLES), classified)


def speech(size: int, number: int) -> Batch:
    """Of several lengths, with three symbols each."""
    seeded = generator(number)
    heard = torch.arange(SAMPLES) < 100 + lengths(size, number, SAMPLES - 100)[:, None]
    x = torch.randn(size, SAMPLES, generator=seeded)
    return {"x": x, "heard": heard.long(), "said": torch.randint(1, VOCABULARY, (size, 3), generator=seeded)}


def aligned(model: nn.Module, batch: Batch) -> Tensor:
    """Connectionist temporal classification."""
    log_p = model(batch["x"], attention_mask=batch["heard"]).logits.log_softmax(-1).transpose(0, 1)
    steps, size = log_p.shape[:2]
    of_input, of_target = torch.full((size,), steps), torch.full((size,), 3)
    return F.ctc_loss(log_p, batch["said"], of_input, of_target, reduction="none")


def spectra(size: int, number: int) -> Batch:
    seeded = generator(number)
    x = torch.randn(size, 8, 20, generator=seeded)
    return {"x": x, "said": torch.randint(3, VOCABULARY, (size, 6), generator=seeded)}


def transcribed(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(input_features=batch["x"], decoder_input_ids=batch["said"][:, :-1], use_cache=False).logits
    said = batch["said"][:, 1:]
    return over_tokens(logits, said, torch.ones_like(said))


WHISPER = PAIRED | {
    "vocab_size": VOCABULARY,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "max_target_positions": 16,
    "pad_token_id": PADDING,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
AST = WIDTH | NO_DROPOUT | {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "num_labels": CLASSES}

CASES = (
    sound("Wav2Vec2", "Wav2Vec2Config"),
    Case(
        "Wav2Vec2, CTC",
        named("Wav2Vec2Config"),
        lambda: of_config("AutoModelForCTC", "Wav2Vec2Config", SPEECH),
        speech,
        aligned,
    ),
    sound("WavLM", "WavLMConfig", num_buckets=8, max_bucket_distance=16),
    Case(
        "Whisper",
        named("WhisperConfig"),
        lambda: of_config("AutoModelForSpeechSeq2Seq", "WhisperConfig", WHISPER),
        spectra,
        transcribed,
    ),
    Case(
        "AST",
        named("ASTConfig"),
        lambda: of_config("AutoModelForAudioClassification", "ASTConfig", AST | {"max_length": 16, "num_mel_bins": 16}),
        signals(16, 16),
        classified,
    ),
)
