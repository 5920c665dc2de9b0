"""Uniform negatives (RNS), as BPR draws them (Rendle et al., UAI 2009)."""

from __future__ import annotations

from torch import Tensor

from recbole_hnlm.samplers.base import EmbeddingView, Negatives, NegativeSampler


class UniformSampler(NegativeSampler):
    """One item drawn uniformly from those the user has no training interaction with."""

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """The draw itself; the model is not asked anything."""
        return Negatives(candidates)
