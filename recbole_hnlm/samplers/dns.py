"""Dynamic negative sampling (Zhang et al., SIGIR 2013)."""

from __future__ import annotations

from torch import Tensor

from recbole_hnlm.samplers.base import Selector


class DynamicSelector(Selector):
    """The candidate with the highest score; the first one at ties."""

    def select(self, pos_scores: Tensor | None, cand_scores: Tensor) -> Tensor:
        """Index of the largest score per row, shape ``(B,)``."""
        return cand_scores.argmax(dim=1)
