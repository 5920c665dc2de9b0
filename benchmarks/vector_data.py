"""Synthetic artefacts for the benchmark of vectors: as many pairs as asked for, in flat memory."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts import ArtefactContents
from recbole_hnlm.artefacts.matrix_text import StoredRows

USERS, ITEMS = 31_668, 38_048
"""Those of yelp2018."""
_BLOCK = 1 << 14


def write_matrix(path: Path, rows: int, width: int) -> None:
    """A raw half-precision matrix of vectors of about unit length, no two rows alike for the most part."""
    block = np.random.default_rng(0).standard_normal((_BLOCK, width), dtype=np.float32) / np.sqrt(width)
    half = block.astype("<f2")
    with path.open("wb") as handle:
        for place, start in enumerate(range(0, rows, _BLOCK)):
            handle.write(np.roll(half, place, axis=1)[: rows - start].tobytes())


def contents(matrix: IO[bytes], pairs: int, rows: int, width: int) -> ArtefactContents:
    """Random pairs of yelp2018's users and items.

    Args:
        matrix: File of :func:`write_matrix`.
        pairs: Number of pairs.
        rows: Number of vectors: ``pairs`` where each pair owns its vector, else drawn with a power law.
        width: Width of the vectors.
    """
    rng = np.random.default_rng(1)
    users = max(USERS, pairs // 1000)  # every user has but so many pairs
    keys = np.unique(rng.integers(0, users * ITEMS, int(pairs * 1.1) + 1000))
    keys = rng.permutation(keys)[:pairs]
    neg_rows = np.arange(pairs)
    if rows < pairs:
        chance = 1.0 / (np.arange(rows) + 30.0) ** 0.75
        neg_rows = rng.permutation(rows)[rng.choice(rows, pairs, p=chance / chance.sum())]
    vectors = StoredRows(matrix, (rows, width))
    item_vectors = np.zeros((ITEMS, width), dtype=np.float16)
    item_vectors[: min(rows, ITEMS)] = vectors[:ITEMS]
    return ArtefactContents(
        user_tokens=[f"u{place:08d}" for place in range(users)],
        item_tokens=[f"i{place:08d}" for place in range(ITEMS)],
        pair_users=keys // ITEMS,
        pair_items=keys % ITEMS,
        neg_rows=neg_rows[:, None],
        neg_ids=[f"n{place}" for place in range(rows)],
        neg_vectors=vectors,
        item_vectors=item_vectors,
        item_profiles=["an item"] * ITEMS,
        user_profiles=["a user"] * users,
        pairs=pairs,
        pairs_hash="0",
    )


def internal_tokens(of: ArtefactContents) -> tuple[list[str], list[str]]:
    """Tokens of internal user and item ids as RecBole numbers them: rank plus one."""
    return ["[PAD]", *of.user_tokens], ["[PAD]", *of.item_tokens]


def batches(of: ArtefactContents, size: int, count: int, seed: int) -> list[NDArray[np.int64]]:
    """Places of the pairs of ``count`` batches of a shuffled epoch, or of as many as there are."""
    order = np.random.default_rng(seed).permutation(len(of.pair_users))
    return [order[at : at + size] for at in range(0, min(count * size, len(order) - size + 1), size)]
