"""Chooses which fields of a feature file are text worth telling a language model."""

from __future__ import annotations

import difflib
import functools
import logging
import re
from collections.abc import Sequence

from recbole_hnlm.artefacts.atomic import AtomicTable, read_atomic

__all__ = ["AtomicTable", "is_text_like", "order_fields", "read_atomic", "select_text_fields"]

logger = logging.getLogger(__name__)
_NEAR_UNIQUE = 0.3
_MOSTLY = 0.9
_SAMPLE = 2000
_URL = re.compile(r"(?i)^(?:https?:|www\.|//)|\.(?:jpe?g|png|gif|html?|php)$")
_NUMBER = re.compile(r"^[-+]?\d[\d.,:/-]*$")
_YEAR = re.compile(r"^(?:1[0-9]|20|21)\d\d(?:\.0)?$")
_WORDS = re.compile(r"[^\W\d_]{2,}\s+\S*[^\W\d_]{2,}")
_ID_NAME = re.compile(r"(?i)(?:^|_)(?:ids?|asin|isbn|uuid|hash|code|zip|postal|phone|urls?|link)(?:$|_)")
_REVIEW = re.compile(r"(?i)(?:^|_)(?:reviews?|comments?|tips?|feedbacks?)(?:$|_)|^review")
_NO_TEXT = re.compile(r"(?i)(?:^|_)(?:ids?|counts?|num|number|time|timestamp|date|stars?|rating|score|votes?)(?:$|_)")
_OPINION = re.compile(r"(?i)(?:^|_)(?:counts?|stars?|ratings?|scores?|votes?|popularity)(?:$|_)")  # held-out ones, too
TITLE_ROLE, MAKER_ROLE, KIND_ROLE, PLACE_ROLE, PLAIN_ROLE, PROSE_ROLE = range(6)
_ROLES = (  # the first that fits: a brand_name is a maker, a book_name a title
    (TITLE_ROLE, r"title|headline|^name$"),
    (MAKER_ROLE, r"brand|author|artist|director|actor|maker|manufacturer|publisher|company|band"),
    (KIND_ROLE, r"genre|categor|class|tag|type|topic|subject|style|keyword"),
    (PLACE_ROLE, r"city|state|country|region|place|location|address"),
    (PROSE_ROLE, r"descri|summary|abstract|plot|overview|review|content|body|text"),
    (TITLE_ROLE, r"name"),
)


def is_review_field(field: str, kind: str) -> bool:
    """Whether a field of type ``kind`` holds what users wrote, by its name.

    >>> [is_review_field(name, "token_seq") for name in ("review", "review_text", "review_id", "title")]
    [True, True, False, False]
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field)  # userReviews
    return kind in ("token", "token_seq") and bool(_REVIEW.search(name)) and not _NO_TEXT.search(name)


def field_role(field: str) -> int:
    """Place of a field in a profile, by its name: titles first, descriptions last."""
    for role, pattern in _ROLES:
        if re.search(pattern, field.lower()):
            return role
    return PLAIN_ROLE


def order_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """``fields`` in the order of a profile: titles first, descriptions last."""
    return tuple(sorted(fields, key=field_role))


def select_text_fields(table: AtomicTable, explicit: Sequence[str] | None = None) -> tuple[str, ...]:
    """The fields that make a profile, in the order of the profile.

    Without ``explicit``, every ``token_seq`` field that is not empty, and every ``token`` field
    that :func:`is_text_like`. Numbers (``float``) and vectors are never chosen, nor are reviews: those of a whole
    catalogue were also written by users of held-out pairs. Reviews of training pairs come from the ``.inter`` file.

    Args:
        table: The feature file.
        explicit: Fields to take instead, of any type, in this order.

    Raises:
        ValueError: If an explicit field does not exist; names the nearest one.
    """
    if explicit is not None:
        for field in explicit:
            if field not in table.types:
                close = difflib.get_close_matches(field, table.types, n=1, cutoff=0.0)
                raise ValueError(f"text field {field!r} is not among {list(table.types)}; did you mean {close[0]!r}?")
        told = tuple(field for field in explicit if is_review_field(field, table.types[field]))
        if told:
            _tell("%s, taken as told, may hold what users wrote of held-out pairs; then metrics say too much", told)
        return tuple(explicit)
    chosen: list[str] = []
    reviews: tuple[str, ...] = ()
    for field, kind in table.types.items():
        if field == table.key or kind not in ("token", "token_seq"):
            continue
        values = [value for value in table.column(field) if value]
        if values and is_review_field(field, kind):
            reviews = (*reviews, field)
        elif values and (kind == "token_seq" or is_text_like(field, values)):
            chosen.append(field)
    if reviews:
        _tell(
            "%s left out of profiles: it may hold what users wrote of held-out pairs; put reviews into .inter, "
            "where only those of training pairs are read, or name the field in llm_text_fields or llm_user_text_fields",
            reviews,
        )
    return order_fields(chosen)


@functools.cache
def _tell(message: str, fields: tuple[str, ...]) -> None:
    """A warning about fields, once a process."""
    logger.warning(message, ", ".join(fields))


def is_text_like(field: str, values: Sequence[str]) -> bool:
    """Whether a ``token`` field holds words or categories, and not ids, addresses or measures.

    A field with one value says nothing; one of numbers that sum up what users said tells of held-out pairs. A field
    whose values nearly all differ is text only where they are words; one whose values recur is a category, unless its
    name says that it is a code.

    Args:
        field: Name of the field.
        values: Its values, without the empty ones.
    """
    distinct = list(dict.fromkeys(values))
    if len(distinct) < 2:
        return False
    sample = distinct[:: max(len(distinct) // _SAMPLE, 1)]

    def share(pattern: re.Pattern[str]) -> float:
        return sum(bool(pattern.search(value)) for value in sample) / len(sample)

    if share(_URL) > 1 - _MOSTLY:
        return False
    if share(_WORDS) > 0.5:
        return True
    if share(_YEAR) >= _MOSTLY:
        return True
    if _ID_NAME.search(field) or (_OPINION.search(field) and share(_NUMBER) >= _MOSTLY):
        return False
    if len(distinct) / len(values) <= _NEAR_UNIQUE:
        return True
    with_digit = sum(any(char.isdigit() for char in value) for value in sample) / len(sample)
    return share(_NUMBER) < 1 - _MOSTLY and with_digit < 0.5
