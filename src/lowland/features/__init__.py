"""What a network has learned: features, probes of them, accuracy by group, and importance weights of examples."""

from lowland.features.extraction import extract
from lowland.features.groups import (
    accuracy_by_group,
    adjusted_average_accuracy,
    group_balanced_accuracy,
    worst_group_accuracy,
)
from lowland.features.importance import ImportanceWeights, importance_weights
from lowland.features.inequality import gini, lorenz
from lowland.features.probing import Probe, probe, wilson
from lowland.features.reweighting import deep_feature_reweighting

__all__ = [
    "ImportanceWeights",
    "Probe",
    "accuracy_by_group",
    "adjusted_average_accuracy",
    "deep_feature_reweighting",
    "extract",
    "gini",
    "group_balanced_accuracy",
    "importance_weights",
    "lorenz",
    "probe",
    "wilson",
    "worst_group_accuracy",
]
