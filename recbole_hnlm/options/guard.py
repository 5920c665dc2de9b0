"""Options of the guard against false negatives, in the words of sentence-transformers' ``mine_hard_negatives``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GuardOptions:
    """Which candidates of a sampler are too likely to be false negatives to be used. Keys carry ``neg_sampler_``."""

    guard: Literal["none", "score", "text", "tree"] = "none"
    """What a candidate is judged by. ``score`` = the model's score under training, as its ``predict`` gives it: an
    inner product without a fixed scale (BPR, LightGCN), a probability (NeuMF); ``text`` = cosine of the user's text
    (``hnlm_user_text``: mean of the items, or the profile) with the candidate's, under ``neg_sampler: hnlm``; ``tree``
    = the false-negative score in [0, 1] that is made for ``dtl``, with any sampler. A candidate that cannot be judged
    (no text) passes. Judging costs one more look at every candidate."""
    guard_max_score: float | None = None
    """Candidates that score above it are not used; ``None`` = no such limit. In the unit of what judges: a cosine in
    [-1, 1) for ``text``, a probability below 1 for ``tree``; inner products grow in training, so a fixed limit on them
    means something else in every epoch."""
    guard_relative_margin: float | None = None
    """Candidates that score above ``pos_score - abs(pos_score) * relative_margin`` are not used, at least 0; ``None``
    = no such limit. 0.05 keeps what scores at most 95 % of the positive. The knob for ``score``, as it has no scale;
    ``tree`` has no positive to compare with."""
    guard_spares: int = 4
    """Candidates drawn in addition for a pair that has lost one, at least 0. Where they do not suffice, those that
    pass take the free places too; where none passes, the one that scores lowest is used, and counted."""

    def __post_init__(self) -> None:
        limit, margin = self.guard_max_score, self.guard_relative_margin
        if margin is not None and not 0 <= margin < math.inf:
            raise ValueError(f"neg_sampler_guard_relative_margin={margin} must be at least 0, e.g. 0.05")
        if limit is not None and not math.isfinite(limit):
            raise ValueError(f"neg_sampler_guard_max_score={limit} must be a finite number")
        if self.guard_spares < 0:
            raise ValueError(f"neg_sampler_guard_spares={self.guard_spares} is negative; 0 draws none")
        lowest = {"text": -1, "tree": 0}.get(self.guard)
        if lowest is not None and limit is not None and not lowest <= limit < 1:
            raise ValueError(
                f"neg_sampler_guard_max_score={limit} is outside [{lowest}, 1) of guard={self.guard}; 1 refuses nothing"
            )
        if self.guard == "tree" and margin is not None:
            raise ValueError(
                "neg_sampler_guard_relative_margin compares with the positive, which neg_sampler_guard=tree does not "
                "score; set neg_sampler_guard_max_score"
            )
        if self.active and limit is None and margin is None:
            knob = "max_score" if self.guard == "tree" else "relative_margin"
            raise ValueError(f"neg_sampler_guard={self.guard} refuses nothing yet; set neg_sampler_guard_{knob}")

    @property
    def active(self) -> bool:
        """Whether anything is guarded."""
        return self.guard != "none"
