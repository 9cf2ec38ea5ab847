"""The networks of the papers."""

from lowland.models.bottleneck import bottleneck_resnet
from lowland.models.cnn import norm_cnn, strided_cnn
from lowland.models.mlp import mlp
from lowland.models.resnet import preact_resnet, resnet
from lowland.models.transformer import Transformer

__all__ = ["Transformer", "bottleneck_resnet", "mlp", "norm_cnn", "preact_resnet", "resnet", "strided_cnn"]
