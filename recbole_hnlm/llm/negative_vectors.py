"""Vectors of the hard negatives that are text: encoded, put into the catalogue's space, several of a pair averaged.

Legend: P training pairs, K negatives per pair, n items, W width of the catalogue's text vectors.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.llm.cache import VectorCache, encode_cached, encode_chunks, in_chunks, in_order
from recbole_hnlm.llm.encoders import TextEncoder
from recbole_hnlm.llm.figures import figures
from recbole_hnlm.llm.negative_stage import NegativeTexts
from recbole_hnlm.llm.text_space import TextSpace

logger = logging.getLogger(__name__)
_BLOCK = 8192
_BLOCK_NAMES = 1 << 16
_TINY = 1e-6


@dataclass(frozen=True)
class PooledNegatives:
    """One vector per pair, in the form of ``ArtefactContents``; pairs with the same texts share it.

    Attributes:
        neg_rows: Row of ``neg_vectors`` of each pair, -1 for none, shape ``(P, 1)``.
        neg_ids: Name of each row.
        neg_vectors: Shape ``(rows, W)``, half precision, of unit length.
    """

    neg_rows: NDArray[np.int64]
    neg_ids: list[str]
    neg_vectors: NDArray[np.float16]


@dataclass(frozen=True)
class EmbeddedTexts:
    """Catalogue and negatives in one space.

    Attributes:
        items: Text vectors of the items, zero where an item has none, shape ``(n, W)``.
        names: Vectors of the distinct negatives, shape ``(len(names), W)``.
        encoded: Texts that were encoded now, the others were in the cache.
    """

    items: NDArray[np.float32]
    names: NDArray[np.float32]
    encoded: int


def embed_texts(
    texts: NegativeTexts,
    item_texts: Sequence[str],
    encoder: TextEncoder,
    cache: VectorCache,
    *,
    width: int = 0,
    batch_size: int = 128,
    show_progress: bool = False,
) -> EmbeddedTexts:
    """Vectors of the catalogue and of the negatives' texts.

    The items' are those of :func:`~recbole_hnlm.llm.item_vectors.item_vectors` with the same texts and width.

    Args:
        texts: The negatives.
        item_texts: Text of each item by rank, ``""`` for none.
        encoder: What makes vectors.
        cache: Where they are kept.
        width: ``W``; 0 keeps the encoder's.
        batch_size: Texts encoded at a time.
        show_progress: Whether to show a bar.

    Raises:
        ValueError: If no item has text.
    """
    mask = np.array([bool(text) for text in item_texts])
    raw, encoded_items = encode_cached(item_texts, encoder, cache, batch_size=batch_size, show_progress=show_progress)
    space = TextSpace.of(raw, mask, width)
    items = space.project(raw, mask)
    chunks = in_chunks([name for name in in_order(texts.names) if name not in cache], batch_size)
    encode_chunks(chunks, encoder, cache, show_progress=show_progress)
    names = np.zeros((len(texts.names), space.width), dtype=np.float32)
    for start in range(0, len(names), _BLOCK_NAMES):  # at the encoder's full width they are never all in memory
        names[start : start + _BLOCK_NAMES] = space.project(cache.lookup(texts.names[start : start + _BLOCK_NAMES]))
    return EmbeddedTexts(items, names, encoded_items + sum(map(len, chunks)))


def pool_negatives(texts: NegativeTexts, vectors: NDArray[np.float32]) -> PooledNegatives:
    """One vector per pair: the mean over its negatives, brought back to unit length.

    Unit length keeps a pair with several negatives on the footing of one with a single one. Negatives whose vectors
    are zero do not count; a pair with no other, or whose vectors cancel out, has no vector.

    Args:
        texts: The negatives.
        vectors: Vectors of the distinct texts, shape ``(len(texts.names), W)``.
    """
    there = np.append(np.any(vectors != 0, axis=1), False)
    rows = np.where(there[texts.rows], texts.rows, -1)
    distinct, index = np.unique(np.sort(rows, axis=1), axis=0, return_inverse=True)
    pooled = np.zeros((len(distinct), vectors.shape[1]), dtype=np.float16)
    for start in range(0, len(distinct), _BLOCK):
        block = distinct[start : start + _BLOCK]
        total = np.zeros((len(block), vectors.shape[1]), dtype=np.float64)
        for column in block.T:
            known = column >= 0
            total[known] += vectors[column[known]]
        norms = np.linalg.norm(total, axis=1, keepdims=True)
        pooled[start : start + _BLOCK] = np.where(norms > _TINY, total / np.maximum(norms, _TINY), 0)
    kept = np.flatnonzero(np.any(pooled != 0, axis=1))
    row_of = np.full(len(distinct), -1, dtype=np.int64)
    row_of[kept] = np.arange(len(kept))
    neg_rows = row_of[index.reshape(-1)].reshape(-1, 1)
    logger.info(
        "hard-negative vectors\n%s",
        figures(
            [
                ("training pairs", f"{len(neg_rows):,}"),
                ("pairs with a vector", f"{int((neg_rows >= 0).sum()):,}"),
                ("coverage", f"{(neg_rows >= 0).mean() if len(neg_rows) else 0.0:.2%}"),
                ("distinct texts", f"{len(texts.names):,}"),
                ("vectors", f"{len(kept):,} x {vectors.shape[1]}"),
            ]
        ),
    )
    return PooledNegatives(neg_rows, [_neg_id(texts.names, distinct[row]) for row in kept.tolist()], pooled[kept])


def _neg_id(names: Sequence[str], rows: NDArray[np.int64]) -> str:
    """A name that follows from the texts alone, so that a build can be repeated."""
    told = "\n".join(names[row] for row in rows.tolist() if row >= 0)
    return f"text:{hashlib.sha256(told.encode()).hexdigest()[:24]}"
