"""Negative samplers: vectorised candidate drawing, selection rules, and their registry. Knows neither RecBole nor
text."""

from recbole_hnlm.samplers.base import (
    CandidateOptions,
    CandidateSampler,
    EmbeddingView,
    Negatives,
    NegativeSampler,
    Selector,
)
from recbole_hnlm.samplers.interactions import TrainingInteractions
from recbole_hnlm.samplers.registry import SAMPLERS, sampler_class

__all__ = [
    "SAMPLERS",
    "CandidateOptions",
    "CandidateSampler",
    "EmbeddingView",
    "NegativeSampler",
    "Negatives",
    "Selector",
    "TrainingInteractions",
    "sampler_class",
]
