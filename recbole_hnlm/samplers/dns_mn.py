"""DNS(M, N): uniform among the top M of N candidates (Shi et al., WWW 2023, arXiv 2302.03472)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_hnlm.samplers.base import CandidateOptions, Selector
from recbole_hnlm.samplers.candidates import FEWEST


@dataclass(frozen=True)
class TopMOptions(CandidateOptions):
    """Options of :class:`TopMSelector`."""

    top_m: int = 5
    """How many of the highest-scored candidates the draw is among; 1 is plain DNS."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_m < 1:
            raise ValueError(f"neg_sampler_top_m={self.top_m} must be at least 1")
        candidates = FEWEST if self.candidates is None else self.candidates
        if self.top_m > candidates:
            raise ValueError(
                f"neg_sampler_top_m={self.top_m} exceeds the {candidates} candidates per pair; "
                "lower neg_sampler_top_m or raise neg_sampler_candidates"
            )


class TopMSelector(Selector):
    """One of the ``top_m`` highest-scored candidates, each with the same chance."""

    Options = TopMOptions

    def select(self, pos_scores: Tensor | None, cand_scores: Tensor) -> Tensor:
        """Index of a candidate among each row's best ``top_m``, shape ``(B,)``."""
        best = cand_scores.topk(self.options.top_m, dim=1, sorted=False).indices  # (B, M)
        size = (cand_scores.shape[0], 1)
        draw = torch.randint(self.options.top_m, size, generator=self.generator, device=cand_scores.device)
        return best.gather(1, draw).squeeze(1)
