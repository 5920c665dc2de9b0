"""Reviews out of a dataset's interactions: those of training pairs, and no others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from recbole_hnlm.artefacts.atomic import stream_atomic
from recbole_hnlm.llm.fields import is_review_field
from recbole_hnlm.llm.words import cut_words

logger = logging.getLogger(__name__)


def find_review_field(types: Mapping[str, str]) -> str | None:
    """The field of an ``.inter`` file with the reviews' text, or None; ``token_seq`` goes before ``token``."""
    found = [field for field, kind in types.items() if is_review_field(field, kind)]
    return min(found, key=lambda field: types[field] != "token_seq", default=None)


def read_reviews(
    path: str | Path,
    pairs: tuple[Sequence[str], Sequence[str]],
    keys: tuple[str, str],
    *,
    field: str | None = None,
    separator: str = "\t",
    encoding: str = "utf-8",
) -> list[str] | None:
    """The review of each training pair out of an ``.inter`` file.

    A pair that occurs more often in the file than in training has an interaction that is held out. Which of its reviews
    belongs to training cannot be told, so none is taken; they are counted. Of several training reviews of a pair all
    but the last are passed over. The file is read as a stream: memory holds the reviews of training pairs.

    Args:
        path: The file.
        pairs: User and item token of each training pair, two sequences of length P.
        keys: Names of the user's and the item's field.
        field: The review's field; found by its name by default.
        separator: RecBole's ``field_separator``.
        encoding: RecBole's ``encoding``.

    Returns:
        P texts, ``""`` for none; or None where the file has no such field.

    Raises:
        ValueError: If the file has no field of that name, a row of another length, or another encoding.
    """
    path = Path(path)
    told, seen = dict[tuple[str, str], str](), Counter[tuple[str, str]]()
    wanted = Counter(zip(*pairs, strict=True))
    types, rows = stream_atomic(path, separator=separator, encoding=encoding)
    field = field or find_review_field(types)
    if field is None:
        return None
    for name in (*keys, field):
        if name not in types:
            raise ValueError(f"{path} has no field {name!r}; it has {list(types)}")
    user, item, review = (list(types).index(name) for name in (*keys, field))
    for number, cells in rows:
        if len(cells) < len(types):
            torn = f"line {number} has {len(cells)} columns, expected {len(types)}"
            raise ValueError(f"{path} is no atomic file ({torn}); correct that line")
        pair = (cells[user], cells[item])
        if pair in wanted:
            seen[pair] += 1
            told[pair] = cells[review].strip() or told.get(pair, "")
    unclear = {pair for pair, count in seen.items() if count > wanted[pair]}
    texts = ["" if pair in unclear else told.get(pair, "") for pair in zip(*pairs, strict=True)]
    logger.info(
        "reviews from %s: %d of %d training pairs have one; %d pairs left out that also occur outside training",
        *(field, sum(map(bool, texts)), len(texts), len(unclear)),
    )
    return texts


def latest_reviews(
    owners: Sequence[int], texts: Sequence[str] | None, count: int, limit: int, words: int
) -> list[list[tuple[int, str]]]:
    """Place and text of the last ``limit`` reviews of each owner, latest first, each cut to ``words`` words.

    Args:
        owners: Rank of the item or user of each training pair, in training order.
        texts: Reviews of the pairs, ``""`` for none; None for no reviews at all.
        count: Number of owners.
        limit: Most reviews of an owner.
        words: Most words of each.
    """
    result: list[list[tuple[int, str]]] = [[] for _ in range(count)]
    if texts is None or not limit:
        return result
    for place in range(len(texts) - 1, -1, -1):
        of_owner = result[owners[place]]
        if texts[place] and len(of_owner) < limit:
            of_owner.append((place, cut_words(texts[place], words)))
    return result
