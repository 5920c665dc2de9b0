"""The artefact's text files as pieces of text, each of whole lines, made column by column.

Legend: P pairs, K negatives per pair, S width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import check_tokens, clean_text, header_line
from recbole_hnlm.artefacts.cells import quoted
from recbole_hnlm.artefacts.float_text import format_rows
from recbole_hnlm.artefacts.matrix_text import StoredRows

_CHUNK_ROWS = 8192
_SEPARATORS = "[ \t\n\r]"

ITEM_PROFILE = (("item_id", "token"), ("profile", "token_seq"))
USER_PROFILE = (("user_id", "token"), ("profile", "token_seq"))
ITEM_TEXT = (("item_id", "token"), ("text_emb", "float_seq"))
HNLM = (("user_id", "token"), ("item_id", "token"), ("neg_id", "token_seq"))
HNLM_EMB = (("neg_id", "token"), ("neg_emb", "float_seq"))
TOKENS = (("kind", "token"), ("id", "token"))


def check_neg_ids(neg_ids: Sequence[str]) -> None:
    """Refuse names of vectors that ``NAME.hnlm`` cannot hold.

    Raises:
        ValueError: If a name is empty, contains white space, or occurs twice.
    """
    names = _strings(neg_ids)
    if "" in neg_ids or pc.any(pc.match_substring_regex(names, _SEPARATORS)).as_py():
        check_tokens(neg_ids, "neg_id")
        raise ValueError("neg_ids are expected distinct and without spaces")
    if pc.count_distinct(names).as_py() != len(names):
        raise ValueError("neg_ids are expected distinct and without spaces")


def profile_lines(columns: Sequence[tuple[str, str]], tokens: Sequence[str], profiles: Sequence[str]) -> Iterator[str]:
    """``NAME.item_profile`` or ``NAME.user_profile``."""
    yield header_line(columns)
    for token, profile in zip(tokens, profiles, strict=True):
        yield f"{token}\t{quoted(clean_text(profile))}\n"


def vector_lines(
    columns: Sequence[tuple[str, str]],
    ids: Sequence[str],
    vectors: NDArray[np.floating[Any]] | StoredRows,
    keep: bool = False,
) -> Iterator[str]:
    """``NAME.item_text`` or ``NAME.hnlm_emb``; zero rows only where ``keep``."""
    yield header_line(columns)
    for start in range(0, len(ids), _CHUNK_ROWS):
        half = np.asarray(vectors[start : start + _CHUNK_ROWS]).astype(np.float16)
        there: NDArray[np.bool_] = np.any(half != 0, axis=1)
        for offset, row in enumerate(format_rows(half)):
            if keep or there[offset]:
                yield f"{ids[start + offset]}\t{row}\n"


def token_lines(users: Sequence[str], items: Sequence[str], neg_ids: Sequence[str]) -> Iterator[str]:
    """``NAME.hnlm_tokens``: what the ranks of users and items and the rows of vectors are called."""
    yield header_line(TOKENS)
    for kind, tokens in (("user", users), ("item", items), ("neg", neg_ids)):
        for start in range(0, len(tokens), _CHUNK_ROWS):
            yield _joined(pa.scalar(kind, pa.large_string()), _strings(tokens[start : start + _CHUNK_ROWS]))


def pair_lines(
    users: Sequence[str], items: Sequence[str], neg_ids: Sequence[str], index: NDArray[np.int64]
) -> Iterator[str]:
    """``NAME.hnlm`` from the index of the pairs, shape ``(1 + K, P)``."""
    yield header_line(HNLM)
    user_names, item_names, neg_names = _strings(users), _strings(items), _strings(neg_ids)
    for start in range(0, index.shape[1], _CHUNK_ROWS):
        block = index[:, start : start + _CHUNK_ROWS]
        user_ranks, item_ranks = np.divmod(block[0], len(items))
        rows = block[1:].T  # (B, K), what is there before -1
        ends = np.cumsum((rows >= 0).sum(axis=1), dtype=np.int64)
        lists = pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], ends]), pa.int32()), neg_names.take(pa.array(rows[rows >= 0]))
        )
        names = pc.binary_join(lists, pa.scalar(" ", pa.large_string()))
        yield _joined(user_names.take(pa.array(user_ranks)), item_names.take(pa.array(item_ranks)), names)


def _strings(tokens: Sequence[str]) -> pa.LargeStringArray:
    return pa.array(tokens, pa.large_string())


def _joined(*columns: pa.LargeStringArray | pa.Scalar) -> str:
    """Lines whose cells are those of ``columns``."""
    tab, end, nothing = (pa.scalar(text, pa.large_string()) for text in ("\t", "\n", ""))
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*columns, tab), nothing, end)
    return str(lines.buffers()[2], encoding="utf-8") if len(lines) else ""
