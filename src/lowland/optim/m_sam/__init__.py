"""Exact m-SAM in one pass: one small file per layer type, in a registry.

``SAM(base, rho=..., model=model, m=...)`` uses it. A layer of one's own gets a rule by the decorator `rule`::

    @m_sam.rule(MyLayer)
    class MyRule(m_sam.Rule):
        arguments = ("x", "gain")  # of forward, then the parameters

        def first(self, use, watch):  # at w: copies of the parameter, whose gradients are taken up
            return use.x * watch.rows(use.gain, len(use.x))

        perturbed = first  # at w + e: each row with what its group has

    lowland.optim.verify_rule(MyLayer(), torch.randn(5, 3))
"""

from lowland.optim.m_sam.engine import Engine
from lowland.optim.m_sam.gradients import Built, Factors
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.layers import (
    attention,
    convolution,
    embedding,
    experts,
    linear,
    normalization,
    products,
    recurrent,
    transformers_experts,
)
from lowland.optim.m_sam.layers.experts import expert_linear
from lowland.optim.m_sam.registry import RULES, routing, row_wise, rule
from lowland.optim.m_sam.report import Last, Row
from lowland.optim.m_sam.rule import Rule, Use
from lowland.optim.m_sam.sliced import Sliced

__all__ = [
    "RULES",
    "Built",
    "Engine",
    "Factors",
    "Groups",
    "Last",
    "Row",
    "Rule",
    "Sliced",
    "Use",
    "attention",
    "convolution",
    "embedding",
    "expert_linear",
    "experts",
    "linear",
    "normalization",
    "products",
    "recurrent",
    "routing",
    "row_wise",
    "rule",
    "transformers_experts",
]
