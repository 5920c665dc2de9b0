"""Training pairs with their texts and collaborative embeddings: plain arrays and strings, no RecBole.

Legend: P training pairs, D width of the recommender's embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PairTexts:
    """The training pairs of one dataset; users and items are numbered from 0.

    Attributes:
        name: The dataset's name; its soft-token projector is kept under it.
        user_of_pair: User of each training pair, shape ``(P,)``.
        item_of_pair: Item of each training pair, shape ``(P,)``.
        hard_item_of_pair: The teacher's hard negative item of each pair, -1 for none, shape ``(P,)``.
        user_profiles: Text of each user, ``""`` for none.
        item_profiles: Text of each item, ``""`` for none.
        user_vectors: The teacher's user embeddings, shape ``(n_users, D)``.
        item_vectors: The teacher's item embeddings, shape ``(n_items, D)``.
    """

    name: str
    user_of_pair: NDArray[np.int64]
    item_of_pair: NDArray[np.int64]
    hard_item_of_pair: NDArray[np.int64]
    user_profiles: Sequence[str]
    item_profiles: Sequence[str]
    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse parts that do not line up, before any model is loaded."""
        pairs = len(self.user_of_pair)
        if not pairs or len(self.item_of_pair) != pairs or len(self.hard_item_of_pair) != pairs:
            raise ValueError(
                f"{self.name}: {pairs} users, {len(self.item_of_pair)} items and {len(self.hard_item_of_pair)} hard "
                "negatives; expected one of each for every training pair, and at least one"
            )
        if not self.name or "." in self.name:
            raise ValueError(f"dataset name {self.name!r} names parts of a model; give one without a dot")
        for kind, texts, vectors, ids, least in (
            ("user", self.user_profiles, self.user_vectors, self.user_of_pair, 0),
            ("item", self.item_profiles, self.item_vectors, self.item_of_pair, 0),
            ("item", self.item_profiles, self.item_vectors, self.hard_item_of_pair, -1),
        ):
            if vectors.ndim != 2 or len(texts) != len(vectors):
                raise ValueError(f"{self.name}: {len(texts)} {kind} profiles, {kind}_vectors {vectors.shape}; one each")
            if ids.min() < least or ids.max() >= len(texts):
                raise ValueError(
                    f"{self.name}: {kind}s {ids.min()} to {ids.max()} in pairs, expected {least} to {len(texts) - 1}"
                )
            if not np.isfinite(vectors).all():
                raise ValueError(f"{self.name}: {kind}_vectors has NaN or infinity; train the teacher anew")
        if self.user_vectors.shape[1] != self.item_vectors.shape[1]:
            raise ValueError(
                f"{self.name}: user_vectors are {self.user_vectors.shape[1]} wide, item_vectors "
                f"{self.item_vectors.shape[1]}; take both from one teacher"
            )

    def __len__(self) -> int:
        """Number of training pairs, P."""
        return len(self.user_of_pair)

    @property
    def width(self) -> int:
        """Width D of the embeddings."""
        return int(self.user_vectors.shape[1])

    @cached_property
    def text_of_item(self) -> NDArray[np.int64]:
        """A number for each item that items of the same text share; -1 without text."""
        numbers: dict[str, int] = {"": -1}
        return np.array([numbers.setdefault(text, len(numbers)) for text in self.item_profiles], dtype=np.int64)

    @cached_property
    def trainable(self) -> NDArray[np.int64]:
        """Pairs whose hard negative has a text other than the pair's own item."""
        texts = np.append(self.text_of_item, -1)  # the last entry serves -1
        hard = texts[self.hard_item_of_pair]
        return np.flatnonzero((hard >= 0) & (hard != texts[self.item_of_pair]))

    @cached_property
    def _by_user(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.user_of_pair, kind="stable")
        bounds = np.searchsorted(self.user_of_pair[order], np.arange(len(self.user_profiles) + 1))
        return bounds, self.item_of_pair[order]

    def positives(self, user: int) -> NDArray[np.int64]:
        """Training items of a user."""
        bounds, items = self._by_user
        return items[bounds[user] : bounds[user + 1]]

    def sources(self) -> dict[str, str]:
        """What an adapter must have been tuned on to be asked these pairs: digests of pairs and of embeddings."""
        ids, tables = hashlib.sha256(), hashlib.sha256()
        keys = np.sort(self.user_of_pair * len(self.item_profiles) + self.item_of_pair)
        ids.update(np.ascontiguousarray(keys, dtype="<i8").data)
        for vectors in (self.user_vectors, self.item_vectors):
            tables.update(np.ascontiguousarray(vectors, dtype="<f4").data)
        return {"pairs": ids.hexdigest()[:16], "tables": tables.hexdigest()[:16]}

    def digest(self) -> str:
        """sha256 over all that decides the vectors of the pairs: ids, texts, embeddings."""
        found = hashlib.sha256()
        for ids in (self.user_of_pair, self.item_of_pair):
            found.update(np.ascontiguousarray(ids, dtype="<i8").data)
        for texts in (self.user_profiles, self.item_profiles):
            for text in texts:
                data = text.encode()
                found.update(f"{len(data)} ".encode() + data)
        for vectors in (self.user_vectors, self.item_vectors):
            found.update(repr(vectors.shape).encode() + np.ascontiguousarray(vectors, dtype="<f4").tobytes())
        return found.hexdigest()


def split_pairs(
    pairs: PairTexts, share: float, by: str, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Trainable pairs to tune on, and those held out; each at least one.

    Args:
        pairs: The dataset.
        share: Share of its users or pairs that is held out.
        by: ``user`` or ``pair``.
        generator: Draws which.

    Raises:
        ValueError: If there are too few.
    """
    places = pairs.trainable
    groups = pairs.user_of_pair[places] if by == "user" else np.arange(len(places))
    distinct = np.unique(groups)
    if len(distinct) < 2:
        raise ValueError(
            f"{pairs.name}: {len(places)} pairs of {len(distinct)} {by}s have a hard negative with text; "
            "at least two are needed, one to tune on and one to hold out"
        )
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    held = np.isin(groups, generator.choice(distinct, count, replace=False))
    return places[~held], places[held]
