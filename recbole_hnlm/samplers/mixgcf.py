"""MixGCF: positive-mixed, hop-wise synthesised negatives (Huang et al., KDD 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_hnlm.samplers.base import CandidateOptions, CandidateSampler, EmbeddingView, Negatives
from recbole_hnlm.samplers.hops import hardest_per_hop


@dataclass(frozen=True)
class MixOptions(CandidateOptions):
    """Options of :class:`MixGCFSynthesizer`."""

    mix: float = 1.0
    """Upper end of the uniform share of the positive; 1 as published, 0 leaves the chosen candidates unmixed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mix <= 1:
            raise ValueError(f"neg_sampler_mix={self.mix} is outside [0, 1]; 1 is as published")


class MixGCFSynthesizer(CandidateSampler):
    """Per hop the hardest candidate, mixed with the positive, hops pooled by their mean.

    The share ``l`` is one draw per (pair, hop), so the candidate that maximises ``<e_u, l e_i + (1-l) e_j>`` is the
    one that maximises ``<e_u, e_j>``: mixed candidates never need to be built, only the chosen row is.
    """

    Options = MixOptions
    synthesizes = True

    def choose(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> Negatives:
        """Synthetic rows with gradient to the positive and to the chosen candidate of every hop."""
        chosen = self.hardest(users, positives, candidates, view)
        size = (users.numel(), 1)
        pooled: Tensor | None = None
        for hop, ids in enumerate(chosen):
            share = self.options.mix * torch.rand(size, generator=self.generator, device=users.device)
            share = self.positive_share(users, ids, share)
            mixed = share * view.item_hop_rows(hop, positives) + (1 - share) * view.item_hop_rows(hop, ids)
            pooled = mixed if pooled is None else pooled + mixed
        assert pooled is not None
        return Negatives(chosen[0].unsqueeze(1), rows=pooled / view.n_hops)

    def hardest(self, users: Tensor, positives: Tensor, candidates: Tensor, view: EmbeddingView) -> list[Tensor]:
        """The candidate of each hop, ``H`` tensors ``(B,)``."""
        return hardest_per_hop(users, candidates, view)

    def positive_share(self, users: Tensor, ids: Tensor, share: Tensor) -> Tensor:
        """The share of the positive in one hop's row, ``(B, 1)``, when ``ids`` are mixed with it by ``share``."""
        return share
