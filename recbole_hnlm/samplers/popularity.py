"""Popularity-proportional negatives (PNS), counted on the training split alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_hnlm.samplers.base import EmbeddingView, Negatives, NegativeSampler
from recbole_hnlm.samplers.candidates import PopularityCandidates
from recbole_hnlm.samplers.interactions import TrainingInteractions


@dataclass(frozen=True)
class PopularityOptions:
    """Options of :class:`PopularitySampler`."""

    power: float = 0.75
    """Exponent of the training count; 0.75 after word2vec, 0 is uniform over items seen in training."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.power):
            raise ValueError(f"neg_sampler_power={self.power} must be a finite number, e.g. 0.75")


class PopularitySampler(NegativeSampler):
    """One item drawn with p(j) proportional to (training count of j) ** power, never a training positive.

    RecBole's own popularity sampler counts validation and test interactions too; this one does not.
    """

    Options = PopularityOptions

    def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
        super().__init__(options, interactions, generator)
        self.drawer = PopularityCandidates(interactions, generator, options.power)

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """The draw itself; the model is not asked anything."""
        return Negatives(candidates)
