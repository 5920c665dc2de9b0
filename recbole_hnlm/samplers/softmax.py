"""Softmax-weighted negatives with an adaptive temperature (Shi et al., WWW 2023, arXiv 2302.03472)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recbole_hnlm.samplers.base import CandidateOptions, CandidateSampler, EmbeddingView, Negatives


@dataclass(frozen=True)
class SoftmaxOptions(CandidateOptions):
    """Options of :class:`SoftmaxWeigher`."""

    rho: float = 1.0
    """Radius of the distributionally robust objective, above 0; larger concentrates on harder negatives."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rho < math.inf:
            raise ValueError(f"neg_sampler_rho={self.rho} must be above 0, e.g. 1.0")


class SoftmaxWeigher(CandidateSampler):
    r"""All candidates enter the loss with weights :math:`w = \mathrm{softmax}(Z / T)`.

    :math:`Z_j = -\ln\sigma(s^+ - s_j)` is a candidate's loss and :math:`T = \sqrt{\mathrm{var}(Z) / (2\rho)}` per pair.
    The proposal is uniform, so its log-probability cancels. Weights carry no gradient. Costs ``C`` rows per pair.
    """

    Options = SoftmaxOptions
    weighs = True

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """Every candidate with its weight."""
        with torch.no_grad():
            positive = view.score(users, positives.unsqueeze(1))  # (B, 1)
            weights = self.weigh(positive, view.score(users, candidates))
        return Negatives(candidates, weights=weights)

    def weigh(self, pos_scores: Tensor, cand_scores: Tensor) -> Tensor:
        """Weights over the candidate axis, shapes ``(B, 1), (B, C) -> (B, C)``; equal where all losses are equal."""
        losses = functional.softplus(cand_scores - pos_scores)
        variance = losses.var(dim=1, keepdim=True, correction=0)
        temperature = (variance / (2 * self.options.rho)).sqrt().clamp_min(1e-8)
        return torch.softmax((losses - losses.amax(dim=1, keepdim=True)) / temperature, dim=1)
