"""Options of the text pipeline: what the language model is told, how pairs share a request, how texts are grounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Grouping = Literal["pair", "user", "cluster", "none"]


@dataclass(frozen=True)
class TextOptions:
    """What a language model is asked for. Keys carry the prefix ``llm_``."""

    PREFIX: ClassVar[str] = "llm_"

    domain: Literal["auto", "products", "places", "media", "generic"] = "auto"
    """Set of prompts; ``auto`` decides by the names of the item's fields."""
    prompts: str | None = None
    """YAML file with prompts of the user's own, which go before ``domain``."""
    item_words: int = 200
    """Most words of an item's profile, after HNLMRec."""
    user_words: int = 100
    """Most words of a user's profile, after HNLMRec."""
    negative_words: int = 20
    """Most words of a hard negative's name, after HNLMRec."""
    reviews: int = 5
    """Most reviews told of an item or user, the latest ones of the training pairs; 0 tells none."""
    review_words: int = 60
    """Most words told of each review."""
    history_words: int = 40
    """Most words told of each item where several stand in one prompt."""
    pair_grouping: Grouping = "pair"
    """Who shares a request for hard negatives: ``pair`` = nobody, ``user`` = pairs of a user, each answered,
    ``cluster`` = pairs alike in user and item, which get the answer of the one in their middle, ``none`` = no hard
    negatives are asked for, which is all that alignment and a start from text need; the default beside a comparator."""
    pairs_per_request: int = 10
    """Most pairs in a request under ``pair_grouping: user``."""
    pair_clusters: int = 1000
    """Clusters, hence requests, under ``pair_grouping: cluster``."""

    item_vectors: Literal["fields", "profiles"] = "fields"
    """What an item's text vector is made of: its own fields, which is what names of negatives look like, or the profile
    that the model has written."""

    def __post_init__(self) -> None:
        least = {"reviews": 0}
        for name in (
            *("item_words", "user_words", "negative_words", "reviews", "review_words", "history_words"),
            *("pairs_per_request", "pair_clusters"),
        ):
            value, bound = getattr(self, name), least.get(name, 1)
            if value < bound:
                raise ValueError(f"llm_{name}={value} must be at least {bound}")
        choices = {"pair_grouping": ("pair", "user", "cluster", "none"), "item_vectors": ("fields", "profiles")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"llm_{name}={getattr(self, name)!r} is not one of {list(known)}")


@dataclass(frozen=True)
class GroundingOptions:
    """How texts become catalogue items. Keys carry the prefix ``llm_``."""

    PREFIX: ClassVar[str] = "llm_"

    ground_items: int = 1
    """Catalogue items of each negative text, nearest first."""
    ground_duplicates_above: float = 0.95
    """Cosine to the positive from which an item counts as its near-duplicate and is no negative, in (0, 1]. On
    amazon-office 17 % of the items have another at 0.95, most often in another size or colour, and 32 % at 0.9."""
    ground_min_similarity: float = 0.0
    """Least cosine of a text and its item, in [-1, 1]; texts without an item so near stay ungrounded."""
    ground_search: Literal["auto", "exact", "faiss"] = "auto"
    """How neighbours are found: ``auto`` = exact, but faiss from 200,000 items on where that is installed."""

    def __post_init__(self) -> None:
        if self.ground_items < 1:
            raise ValueError(f"llm_ground_items={self.ground_items} must be at least 1")
        if not 0 < self.ground_duplicates_above <= 1:
            raise ValueError(f"llm_ground_duplicates_above={self.ground_duplicates_above} is outside (0, 1]")
        if not -1 <= self.ground_min_similarity <= 1:
            raise ValueError(f"llm_ground_min_similarity={self.ground_min_similarity} is outside [-1, 1]")
        if self.ground_search not in ("auto", "exact", "faiss"):
            raise ValueError(f"llm_ground_search={self.ground_search!r} is not one of ['auto', 'exact', 'faiss']")
