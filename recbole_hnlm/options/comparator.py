"""Options of the LLM-enhanced methods that ours is compared with; ``hnlm_comparator`` names one.

A field ``mask_share`` is the configuration key ``comparator_mask_share``. A comparator's run holds nothing of ours: the
model's own start, no mixing, no alignment; ``hnlm_base_sampler`` draws its negatives, ``uniform`` as published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from recbole_hnlm.options.requiring import require

COMPARATOR_KEY = "hnlm_comparator"
"""The key that names a comparator."""
COMPARATOR_PREFIX = "comparator_"
"""Prefix of a comparator's own keys."""
PUBLISHED_SAMPLER = "uniform"
"""Who draws a comparator's negatives unless told otherwise."""
WITHOUT_OURS: Mapping[str, Any] = {"hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
"""Our options in a comparator's run; no key may say otherwise."""
KEPT_KEYS = frozenset(
    {COMPARATOR_KEY, "hnlm_base_sampler", "hnlm_control", "hnlm_artefact_dir", "hnlm_rebuild"}
    | {"hnlm_log_false_negatives", "hnlm_user_text"}
)
"""Keys of ours that mean something beside a comparator."""


@dataclass(frozen=True)
class RLMRecConOptions:
    """RLMRec's contrastive alignment (WWW'24): final embeddings near their own projected text."""

    merges: ClassVar[bool] = False

    weight: float = 0.01
    """Factor of the term, at least 0; 0 leaves the model as it is. Default as published."""
    temperature: float = 0.2
    """Temperature of InfoNCE, above 0. Default as published."""
    negatives: int = 16_384
    """Most users whose text a user is contrasted with. Up to so many users all of them take part, as published; of more
    so many are drawn in every step, which bounds a step's time and memory."""

    def __post_init__(self) -> None:
        _check_contrast(self.weight, self.temperature, self.negatives)


@dataclass(frozen=True)
class RLMRecGenOptions:
    """RLMRec's generative alignment (WWW'24): text found again from neighbours where a node's own row is masked."""

    merges: ClassVar[bool] = False

    weight: float = 0.1
    """Factor of the term; 0 leaves the model as it is and masks nothing. Published between 0.01 and 0.1."""
    temperature: float = 0.2
    """Temperature of InfoNCE, above 0. Published between 0.1 and 0.5."""
    mask_share: float = 0.1
    """Share of users and items that are masked in a step, above 0 and below 1. Published between 0.05 and 0.15."""
    negatives: int = 4_096
    """Most masked nodes that the term reads, a new draw in every step; each is contrasted with all the others."""

    def __post_init__(self) -> None:
        _check_contrast(self.weight, self.temperature, self.negatives)
        require(
            0 < self.mask_share < 1, f"comparator_mask_share={self.mask_share} is outside (0, 1); take 0.05 to 0.15"
        )


@dataclass(frozen=True)
class KAROptions:
    """KAR (RecSys'24) in its form for collaborative filtering: experts over text join a node's own row."""

    merges: ClassVar[bool] = True

    shared_experts: int = 2
    """Experts that users and items share, at least 0. Default as published."""
    own_experts: int = 2
    """Experts of users alone, and as many of items alone, at least 0. The paper leaves the number open."""
    hidden_width: int = 128
    """Hidden width of an expert. Default as published."""
    expert_width: int = 32
    """Width of what the experts add to a row before it is projected back. Default as published."""

    def __post_init__(self) -> None:
        for name in ("shared_experts", "own_experts"):
            require(getattr(self, name) >= 0, f"comparator_{name}={getattr(self, name)} is negative; 0 has none")
        require(
            self.shared_experts + self.own_experts > 0,
            "comparator_shared_experts and comparator_own_experts are both 0, so nobody reads text; raise one",
        )
        for name in ("hidden_width", "expert_width"):
            require(getattr(self, name) > 0, f"comparator_{name}={getattr(self, name)} must be above 0")


@dataclass(frozen=True)
class LLMRecOptions:
    """The text part of LLMRec (WSDM'24): projected text on top of the rows, and extra triples.

    The extra triples are a term of their own here, with a weight of 0.012, and only the largest of their own losses are
    left out. The authors' code appends them to the batch at full weight and leaves out the largest losses of all
    triples of the batch; its factor of 0.012 stands before another term, BPR on projected profiles and attributes,
    which is not part of this form. ``comparator_weight`` times the triples' mean loss joins the batch's mean loss, so
    under ``user_share`` 0.1 a weight of 0.1 lets an extra triple count as much as a pair of the batch where none is
    left out.
    """

    merges: ClassVar[bool] = True

    text_weight: float = 0.1
    """Length of the text vector that is added to a row, at least 0. The public settings go from 0.003 to 2.8 by dataset
    and side, so it is to be tuned."""
    weight: float = 0.012
    """Factor of the extra triples' mean loss, at least 0. Default by this project's plan of the comparison, not as
    published: in the authors' code 0.012 weighs another term, and extra triples count as much as pairs of the batch."""
    user_share: float = 0.1
    """Share of a batch's rows whose users bring their extra triple, in (0, 1]. The public settings of Netflix; those of
    MovieLens have 0.0036."""
    drop_share: float = 0.71
    """Share of the extra triples, those of the largest loss, that a step leaves out as noise, in [0, 1). The public
    settings of Netflix, where it is a share of all triples of a batch; those of MovieLens have 0.4."""
    top_items: int = 10
    """Best items of the reference model that a like and a dislike are picked from, at least 2. Default as published.
    A user with fewer unseen items has those; with fewer than two, or without text, no extra triple."""

    def __post_init__(self) -> None:
        for name in ("text_weight", "weight"):
            require(
                0 <= getattr(self, name) < math.inf,
                f"comparator_{name}={getattr(self, name)} should be at least 0, and finite; 0 turns it off",
            )
        require(0 < self.user_share <= 1, f"comparator_user_share={self.user_share} is outside (0, 1]")
        require(0 <= self.drop_share < 1, f"comparator_drop_share={self.drop_share} is outside [0, 1); 0 keeps all")
        require(self.top_items >= 2, f"comparator_top_items={self.top_items} leaves no like and dislike; take 10")

    @property
    def has_triples(self) -> bool:
        """Whether likes and dislikes are read at all."""
        return self.weight > 0


def _check_contrast(weight: float, temperature: float, negatives: int) -> None:
    require(0 <= weight < math.inf, f"comparator_weight={weight} should be at least 0, and finite; 0 turns it off")
    require(0 < temperature < math.inf, f"comparator_temperature={temperature} must be above 0, e.g. 0.2")
    require(negatives >= 2, f"comparator_negatives={negatives} leaves nothing to contrast with; take 4096")


ComparatorOptions = RLMRecConOptions | RLMRecGenOptions | KAROptions | LLMRecOptions
"""Options of any comparator."""
COMPARATORS: Mapping[str, type[ComparatorOptions]] = {
    "rlmrec_con": RLMRecConOptions,
    "rlmrec_gen": RLMRecGenOptions,
    "kar": KAROptions,
    "llmrec": LLMRecOptions,
}
"""Values of ``hnlm_comparator`` beside ``none``, and their options."""


def useless_comparator_keys(options: ComparatorOptions | None) -> dict[str, str]:
    """Keys of a comparator that change nothing beside the values of the others, mapped to the reason."""
    if not isinstance(options, LLMRecOptions) or options.has_triples:
        return {}
    keys = (f"{COMPARATOR_PREFIX}{name}" for name in ("user_share", "drop_share", "top_items"))
    return dict.fromkeys(keys, f"{COMPARATOR_PREFIX}weight=0 leaves the extra triples out")


def comparator_of(values: Mapping[str, Any]) -> str | None:
    """The comparator that a configuration names, unchecked; None for ``none`` and where there is none."""
    name = values.get(COMPARATOR_KEY)
    return None if name in (None, "none", "None") else name
