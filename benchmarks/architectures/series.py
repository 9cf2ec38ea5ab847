"""Networks of series in time."""

import torch
from torch import Tensor, nn

from architectures.case import CLASSES, Batch, Case, cross_entropy
from architectures.data import generator
from architectures.transformers_models import PAIRED, named, of_config

STEPS, AHEAD, CHANNELS = 24, 4, 2
PATCHES = {
    "num_input_channels": CHANNELS,
    "context_length": STEPS,
    "prediction_length": AHEAD,
    "patch_length": 6,
    "patch_stride": 6,
    "num_hidden_layers": 2,
    "d_model": 16,
    "num_attention_heads": 2,
    "ffn_dim": 24,
    "num_targets": CLASSES,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "positional_dropout": 0.0,
    "path_dropout": 0.0,
    "ff_dropout": 0.0,
    "head_dropout": 0.0,
    "loss": "mse",
}
INFORMER = PAIRED | {
    "prediction_length": AHEAD,
    "context_length": 8,
    "lags_sequence": [1, 2],
    "num_time_features": 1,
    "num_parallel_samples": 2,
}


def series(size: int, number: int) -> Batch:
    seeded = generator(number)
    past, future = (torch.randn(size, steps, CHANNELS, generator=seeded) for steps in (STEPS, AHEAD))
    return {"past": past, "future": future, "y": torch.randint(CLASSES, (size,), generator=seeded)}


def classified(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(past_values=batch["past"]).prediction_logits, batch["y"])


def forecast(model: nn.Module, batch: Batch) -> Tensor:
    return (model(past_values=batch["past"]).prediction_outputs - batch["future"]).square().mean((1, 2))


def timed(size: int, number: int) -> Batch:
    """One number a step, with a feature of its time."""
    seeded = generator(number)
    shapes = {
        "past_values": (10,),
        "past_time_features": (10, 1),
        "future_values": (4,),
        "future_time_features": (4, 1),
    }
    return {name: torch.randn(size, *shape, generator=seeded) for name, shape in shapes.items()}


def likely(model: nn.Module, batch: Batch) -> Tensor:
    """Minus the log-likelihood of what comes."""
    out = model(**batch, past_observed_mask=torch.ones_like(batch["past_values"]))
    predicted = model.output_distribution(out.params, loc=out.loc, scale=out.scale)
    return -predicted.log_prob(batch["future_values"]).mean(1)


CASES = (
    Case(
        "PatchTST",
        named("PatchTSTConfig"),
        lambda: of_config("PatchTSTForClassification", "PatchTSTConfig", PATCHES),
        series,
        classified,
    ),
    Case(
        "PatchTSMixer",
        named("PatchTSMixerConfig"),
        lambda: of_config("PatchTSMixerForPrediction", "PatchTSMixerConfig", PATCHES | {"num_layers": 2}),
        series,
        forecast,
    ),
    Case(
        "Informer",
        named("InformerConfig"),
        lambda: of_config("InformerForPrediction", "InformerConfig", INFORMER),
        timed,
        likely,
    ),
)
