"""The pairs of ``NAME.hnlm`` as numbers, read block by block.

Legend: P pairs, K vectors per pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recbole_hnlm.artefacts.blocks import TextBlock, text_blocks


@dataclass(frozen=True)
class PairText:
    """What ``NAME.hnlm`` says.

    Attributes:
        users: The distinct users, in the order of the file.
        items: The distinct items.
        user_codes: Place in ``users`` of each pair's user, shape ``(P,)``.
        item_codes: Place in ``items`` of each pair's item, shape ``(P,)``.
        neg_rows: Vectors of each pair, -1 after the last, shape ``(P, K)``.
    """

    users: list[str]
    items: list[str]
    user_codes: NDArray[np.int64]
    item_codes: NDArray[np.int64]
    neg_rows: NDArray[np.int64]


def read_pair_text(path: Path, neg_ids: list[str], least_per_pair: int) -> PairText | None:
    """The pairs of a file and the places of their vectors in ``neg_ids``.

    Args:
        path: The file.
        neg_ids: Names of the vectors.
        least_per_pair: Least K; a pair with more vectors raises it.

    Returns:
        The pairs; None where a line has another form, a pair occurs twice, or a vector has no name in ``neg_ids``.
    """
    blocks: list[tuple[pa.Array, pa.Array, pa.Array, NDArray[np.int64]]] = []
    for block in text_blocks(path):
        columns = block.columns(3) or _columns_by_line(block)
        if columns is None:
            return None
        lists = pc.split_pattern(columns[2], " ")
        counts = np.diff(lists.offsets.to_numpy()).astype(np.int64)
        blocks.append((columns[0].dictionary_encode(), columns[1].dictionary_encode(), lists.flatten(), counts))
    users, user_codes = _codes([block[0] for block in blocks])
    items, item_codes = _codes([block[1] for block in blocks])
    keys = np.sort(user_codes * max(len(items), 1) + item_codes)
    if (keys[1:] == keys[:-1]).any():
        return None
    found = pc.index_in(pa.chunked_array([block[2] for block in blocks], pa.string()), pa.array(neg_ids, pa.string()))
    if found.null_count:
        return None
    counts = np.concatenate([np.zeros(0, dtype=np.int64), *(block[3] for block in blocks)])
    neg_rows = np.full((len(counts), max(least_per_pair, int(counts.max(initial=0)))), -1, dtype=np.int64)
    pair = np.repeat(np.arange(len(counts)), counts)
    neg_rows[pair, np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)] = found.to_numpy()
    return PairText(users, items, user_codes, item_codes, neg_rows)


def _columns_by_line(block: TextBlock) -> list[pa.StringArray] | None:
    try:
        rows = [cells for _, cells in block.rows(3)]
    except ValueError:
        return None
    return [pa.array([row[column] for row in rows], pa.string()) for column in range(3)]


def _codes(chunks: list[pa.DictionaryArray]) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct tokens over all blocks, and the place of each row's among them."""
    if not chunks:
        return [], np.zeros(0, dtype=np.int64)
    whole = pa.chunked_array(chunks).unify_dictionaries()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in whole.chunks]).astype(np.int64)
    return whole.chunk(0).dictionary.to_pylist(), codes
