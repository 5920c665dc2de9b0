"""Options of every run, whatever its sampler: of how it trains, and of how its negatives are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CommonSamplerOptions:
    """Options of every sampler. Keys carry the prefix ``neg_sampler_``."""

    num: int = 1
    """Negatives per pair, ``K``."""
    seed: int | None = None
    """Seed of the draws; ``None`` takes RecBole's ``seed``."""

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"neg_sampler_num={self.num} must be at least 1")


@dataclass(frozen=True)
class GeneralOptions:
    """Options that have nothing to do with negatives. Keys carry no prefix."""

    fast_propagation: bool | None = None
    """Whether graph models multiply over CSR, equal to 1e-6 and up to three times faster. ``None`` = yes, except where
    RecBole's own sampler draws: such a run is the bare model's to the last bit."""
    adam: Literal["fused", "rows", "plain"] | None = None
    """How ``learner: adam`` updates. ``fused`` = torch's fused kernel and one gradient a row for lookup models, equal
    to rounding; ``rows`` = rows that a step did not read are left alone, another optimizer, for very large tables of
    lookup models; ``plain`` = as RecBole. ``None`` = fused, except where RecBole's own sampler draws."""
    torch_threads: int | None = None
    """Threads of torch in this process; ``None`` leaves them. Small models are fastest with one."""
    masked_filename: str | None = None
    """``NAME`` of a file ``DATASET.NAME.inter`` of pairs that evaluation masks beside those of the split, such as true
    pairs that were kept from training."""

    def __post_init__(self) -> None:
        if self.torch_threads is not None and self.torch_threads < 1:
            raise ValueError(f"torch_threads={self.torch_threads} must be at least 1")
