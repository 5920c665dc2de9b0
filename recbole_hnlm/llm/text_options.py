"""Options of the text pipeline: what is told to the language model, and how pairs share a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Grouping = Literal["pair", "user", "cluster"]


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
    ``cluster`` = pairs alike in user and item, which get the answer of the one in their middle."""
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
        choices = {"pair_grouping": ("pair", "user", "cluster"), "item_vectors": ("fields", "profiles")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"llm_{name}={getattr(self, name)!r} is not one of {list(known)}")
