"""The networks that the papers train."""

from lowland.models.bottleneck import bottleneck_resnet, freeze_batch_norm
from lowland.models.cnn import group_norm_cnn, norm_cnn, strided_cnn
from lowland.models.mlp import mlp
from lowland.models.resnet import preact_resnet, resnet
from lowland.models.transformer import Transformer

__all__ = [
    "Transformer",
    "bottleneck_resnet",
    "freeze_batch_norm",
    "group_norm_cnn",
    "mlp",
    "norm_cnn",
    "preact_resnet",
    "resnet",
    "strided_cnn",
]
