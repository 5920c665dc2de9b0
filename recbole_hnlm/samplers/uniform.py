"""Uniform negatives (RNS), as BPR draws them (Rendle et al., UAI 2009)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_hnlm.samplers.base import EmbeddingView, Negatives, NegativeSampler
from recbole_hnlm.samplers.candidates import UniformCandidates
from recbole_hnlm.samplers.interactions import TrainingInteractions


class UniformSampler(NegativeSampler):
    """One item drawn uniformly from those the user has no training interaction with."""

    def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
        super().__init__(options, interactions, generator)
        self.drawer = UniformCandidates(interactions, generator)

    def sample(self, users: Tensor, positives: Tensor, view: EmbeddingView) -> Negatives:
        """One draw per pair; the model is not asked anything."""
        return Negatives(self.drawer.draw(users, 1))
