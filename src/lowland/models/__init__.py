"""The networks of the papers."""

from lowland.models.cnn import norm_cnn, strided_cnn
from lowland.models.mlp import mlp
from lowland.models.transformer import Transformer

__all__ = ["Transformer", "mlp", "norm_cnn", "strided_cnn"]
