"""What the text pipeline knows of a dataset: tokens by rank, training pairs, fields and reviews.

Legend: P training pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import AtomicTable, clean_text
from recbole_hnlm.llm.fields import TITLE_ROLE, field_role, is_review_field
from recbole_hnlm.llm.profiles import History, aligned_cells, item_names, item_profiles, user_profiles
from recbole_hnlm.llm.words import cut_words

_FIELD_WORDS = 1000


@dataclass(frozen=True)
class Corpus:
    """A dataset's text, by rank; what is derived from it is made once.

    Attributes:
        users: Users with a training pair, sorted.
        items: The catalogue, sorted.
        history: The training pairs by rank, each once and in training order, and which of them a profile names.
        item_table: The ``.item`` file, if there is one.
        item_fields: Its fields to tell, in the order of a profile.
        user_table: The ``.user`` file, if there is one.
        user_fields: Its fields to tell.
        reviews: What was written at each training pair, ``""`` for nothing, P texts; or None.
        template_words: Most words of a template profile.
    """

    users: Sequence[str]
    items: Sequence[str]
    history: History
    item_table: AtomicTable | None = None
    item_fields: Sequence[str] = ()
    user_table: AtomicTable | None = None
    user_fields: Sequence[str] = ()
    reviews: Sequence[str] | None = None
    template_words: int = 200

    def __post_init__(self) -> None:
        """Refuse reviews that do not line up with the pairs, and repeated pairs, which would be asked for twice."""
        if self.reviews is not None and len(self.reviews) != len(self.history.user_ranks):
            raise ValueError(f"{len(self.reviews)} reviews for {len(self.history.user_ranks)} training pairs")
        distinct = len(np.unique(self.pair_users * max(len(self.items), 1) + self.pair_items))
        if distinct != len(self.pair_users):
            raise ValueError(f"{len(self.pair_users) - distinct} training pairs are repeated; pass each once")

    @property
    def pair_users(self) -> NDArray[np.int64]:
        """User rank of each training pair, shape ``(P,)``."""
        return self.history.user_ranks

    @property
    def pair_items(self) -> NDArray[np.int64]:
        """Item rank of each training pair, shape ``(P,)``."""
        return self.history.item_ranks

    @cached_property
    def names(self) -> list[str]:
        """A short name of each item, ``""`` for items without text."""
        return item_names(self.item_table, self._told_fields, self.items)

    @cached_property
    def attributes(self) -> list[list[str]]:
        """``field: value`` for each field of each item that is neither its title nor a review."""
        fields = [field for field in self._told_fields if field_role(field) != TITLE_ROLE]
        return field_lines(self.item_table, fields, self.items)

    @cached_property
    def item_reviews(self) -> list[list[str]]:
        """What the ``.item`` file itself holds of reviews."""
        fields = [field for field in self.item_fields if field not in self._told_fields]
        if self.item_table is None or not fields:
            return [[] for _ in self.items]
        rows = aligned_cells(self.item_table, fields, self.items)
        return [[clean_text(cell) for cell in cells if cell.strip()] for cells in rows]

    @cached_property
    def user_attributes(self) -> list[list[str]]:
        """``field: value`` for each field of each user."""
        return field_lines(self.user_table, self.user_fields, self.users)

    @cached_property
    def item_templates(self) -> list[str]:
        """Profiles of the items that need no model."""
        return item_profiles(self.item_table, self._told_fields, self.items, self.template_words)

    @cached_property
    def user_templates(self) -> list[str]:
        """Profiles of the users that need no model."""
        table, fields, words = self.user_table, self.user_fields, self.template_words
        return user_profiles(table, fields, self.users, self.names, self.history, words)

    @cached_property
    def _told_fields(self) -> list[str]:
        types = {} if self.item_table is None else self.item_table.types
        return [field for field in self.item_fields if not is_review_field(field, types[field])]


def field_lines(table: AtomicTable | None, fields: Sequence[str], tokens: Sequence[str]) -> list[list[str]]:
    """``field: value`` of each field that has a value, for each of ``tokens``; values are cut at 1,000 words."""
    if table is None or not fields:
        return [[] for _ in tokens]
    return [
        [
            f"{field.replace('_', ' ')}: {cut_words(clean_text(cell), _FIELD_WORDS)}"
            for field, cell in zip(fields, cells, strict=True)
            if cell
        ]
        for cells in aligned_cells(table, fields, tokens)
    ]
