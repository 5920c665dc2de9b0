"""AHNS: negatives whose hardness adapts to the positive's score (Lai et al., AAAI 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from recbole_hnlm.samplers.base import CandidateOptions, Selector

_LEAST_BASE = 1e-4  # s(u,i) + shift below this makes the published power negative or infinite


@dataclass(frozen=True)
class AdaptiveOptions(CandidateOptions):
    """Options of :class:`AdaptiveHardnessSelector`, named after their part in ``slope * (s + shift) ** (exponent +
    1)``."""

    exponent: float = -2.0
    """``p`` of the paper, below -1 so that a well-ranked positive meets easier negatives."""
    shift: float = 1.0
    """``alpha`` of the paper, added to the positive's score."""
    slope: float = 0.1
    """``beta`` of the paper, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.slope < math.inf:
            raise ValueError(f"neg_sampler_slope={self.slope} must be above 0, e.g. 0.1")
        if not -math.inf < self.exponent < -1:
            raise ValueError(f"neg_sampler_exponent={self.exponent} must be below -1; -2 is as published")


class AdaptiveHardnessSelector(Selector):
    """The candidate whose score is nearest to ``slope * (s(u, i) + shift) ** (exponent + 1)``.

    Where ``s(u, i) + shift`` is not positive the power has no meaning; it is held at a small positive base, so that a
    badly ranked positive meets the hardest candidate, as the rule intends.
    """

    Options = AdaptiveOptions
    needs_positive_score = True

    def select(self, pos_scores: Tensor | None, cand_scores: Tensor) -> Tensor:
        """Index of the candidate nearest to the pair's target score, shape ``(B,)``."""
        assert pos_scores is not None
        base = (pos_scores + self.options.shift).clamp_min(_LEAST_BASE)
        target = (self.options.slope * base ** (self.options.exponent + 1)).unsqueeze(1)
        least, greatest = cand_scores.aminmax(dim=1, keepdim=True)
        target = target.clamp(least, greatest)  # from far beyond the scores their differences would round away
        return (cand_scores - target).abs().argmin(dim=1)
