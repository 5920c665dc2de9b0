"""DINS: dimension-independent mixing of the hardest candidate with the positive (Wu et al., CIKM 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_hnlm.samplers.base import CandidateOptions, CandidateSampler, EmbeddingView, Negatives
from recbole_hnlm.samplers.hops import hardest_per_hop


@dataclass(frozen=True)
class BoundaryOptions(CandidateOptions):
    """Options of :class:`DimensionMixSynthesizer`."""

    boundary: float = 0.5
    """``alpha`` of the paper, above 0: how much the positive weighs in each dimension."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.boundary < math.inf:
            raise ValueError(f"neg_sampler_boundary={self.boundary} must be above 0, e.g. 0.5")


class DimensionMixSynthesizer(CandidateSampler):
    r"""Per hop and dimension ``n' = (1-w) i + w n`` with :math:`w_d = \sigma(u_d (n_d - i_d) - \ln a)`.

    ``n`` is the hardest candidate of the hop. The gradient flows through ``w``, as published.
    """

    Options = BoundaryOptions
    synthesizes = True
    needs_user_rows = True

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """Synthetic rows, hops pooled by their mean."""
        chosen = hardest_per_hop(users, candidates, view)
        user = view.user_rows(users)  # (B, D)
        pooled: Tensor | None = None
        for hop, ids in enumerate(chosen):
            mixed = self.mix(user, view.item_hop_rows(hop, positives), view.item_hop_rows(hop, ids))
            pooled = mixed if pooled is None else pooled + mixed
        assert pooled is not None
        return Negatives(chosen[0].unsqueeze(1), rows=pooled / view.n_hops)

    def mix(self, user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The synthetic negative of three rows of shape ``(B, D)``."""
        weight = torch.sigmoid(user * (negative - positive) - math.log(self.options.boundary))
        return positive + weight * (negative - positive)
