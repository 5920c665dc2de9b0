"""Template profiles: readable text about items and users, filled from the dataset's own fields."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import AtomicTable, clean_text
from recbole_hnlm.artefacts.pairs import ranks_in
from recbole_hnlm.llm.fields import PROSE_ROLE, TITLE_ROLE, field_role
from recbole_hnlm.llm.words import cut_words

logger = logging.getLogger(__name__)
TEMPLATE_VERSION = "template-1"
_NAME_WORDS = 12
_END_MARKS = " .;:,"


@dataclass(frozen=True)
class History:
    """Which training items a user's profile names.

    Attributes:
        user_ranks: User of each training pair, shape ``(P,)``, in training order.
        item_ranks: Item of each training pair, shape ``(P,)``.
        length: Most items to name.
        order: ``recent`` takes the last ones, latest first; ``random`` a seeded draw.
        seed: Seed of the draw.
    """

    user_ranks: NDArray[np.int64]
    item_ranks: NDArray[np.int64]
    length: int = 20
    order: str = "recent"
    seed: int = 2020

    def of_users(self, n_users: int) -> list[list[int]]:
        """Item ranks to name for each user; the draw does not depend on the order of the pairs."""
        if self.order == "random":
            canonical = np.lexsort((self.item_ranks, self.user_ranks))
            draw = np.empty(len(canonical))
            draw[canonical] = np.random.default_rng(self.seed).random(len(canonical))
        elif self.order == "recent":
            draw = -np.arange(len(self.user_ranks), dtype=np.float64)
        else:
            raise ValueError(f"history order {self.order!r}; expected recent or random")
        order = np.lexsort((draw, self.user_ranks))
        users, items = self.user_ranks[order], self.item_ranks[order]
        bounds = np.searchsorted(users, np.arange(n_users + 1)).tolist()
        ranks: list[int] = items.tolist()
        return [
            ranks[start : min(start + self.length, end)] for start, end in zip(bounds[:-1], bounds[1:], strict=True)
        ]


def fill_template(fields: Sequence[str], cells: Sequence[str], words: int) -> str:
    """One profile: ``Title. brand: Maker; genres: One Two. A description``.

    Titles and descriptions stand without their field's name; empty cells leave no trace.

    Args:
        fields: Names, in the order of the profile.
        cells: Their values, ``""`` for none.
        words: Most words of the result.
    """
    titles, named, prose = [], [], []
    for field, cell in zip(fields, cells, strict=True):
        text = clean_text(cell)
        if not text:
            continue
        role = field_role(field)
        if role == TITLE_ROLE:
            titles.append(text)
        elif role == PROSE_ROLE:
            prose.append(text)
        else:
            named.append(f"{field.replace('_', ' ')}: {text.rstrip(_END_MARKS)}")
    parts = [part.rstrip(_END_MARKS) for part in (*titles, "; ".join(named)) if part]
    return cut_words(". ".join([*parts, *prose]), words)


def aligned_cells(table: AtomicTable, fields: Sequence[str], tokens: Sequence[str]) -> list[tuple[str, ...]]:
    """The cells of ``fields`` for each of ``tokens``; empty where the table has no such row.

    Of rows with the same token the first one counts, with a warning.
    """
    keys = pd.Series(table.column(table.key))
    first = ~keys.duplicated()
    if not first.all():
        logger.warning("%d rows repeat a %s; the first row of each counts", int((~first).sum()), table.key)
    places = ranks_in(tokens, keys[first].tolist())
    rows = np.where(places >= 0, np.flatnonzero(first)[places], -1).tolist()
    columns = [[*table.column(field), ""] for field in fields]
    return [tuple(column[row] for column in columns) for row in rows]


def item_profiles(
    table: AtomicTable | None, fields: Sequence[str], item_tokens: Sequence[str], words: int
) -> list[str]:
    """Profile of each item, ``""`` for items without text.

    Args:
        table: The dataset's ``.item`` file, if it has one.
        fields: Fields to tell, in the order of the profile.
        item_tokens: The catalogue.
        words: Most words of a profile.
    """
    if table is None or not fields:
        return [""] * len(item_tokens)
    rows = aligned_cells(table, fields, item_tokens)
    return [fill_template(fields, cells, words) for cells in rows]


def item_names(table: AtomicTable | None, fields: Sequence[str], item_tokens: Sequence[str]) -> list[str]:
    """A short name of each item: its titles, else the first words of its profile."""
    titles = [field for field in fields if field_role(field) == TITLE_ROLE]
    return item_profiles(table, titles or fields, item_tokens, _NAME_WORDS)


def user_profiles(
    table: AtomicTable | None,
    fields: Sequence[str],
    user_tokens: Sequence[str],
    names: Sequence[str],
    history: History,
    words: int,
) -> list[str]:
    """Profile of each user: the user's own fields, then names of training items.

    Args:
        table: The dataset's ``.user`` file, if it has one.
        fields: Fields to tell, in the order of the profile.
        user_tokens: Users by rank.
        names: Short name of each item by rank; items without one are passed over.
        history: Which items to name.
        words: Most words of a profile.
    """
    own = item_profiles(table, fields, user_tokens, words)
    chosen = history.of_users(len(user_tokens)) if history.length else [[]] * len(user_tokens)
    profiles = []
    for text, items in zip(own, chosen, strict=True):
        liked = "; ".join(name for item in items if (name := names[item].rstrip(_END_MARKS)))
        parts = [part for part in (text, f"Chose: {liked}" if liked else "") if part]
        profiles.append(cut_words(". ".join(parts), words))
    return profiles
