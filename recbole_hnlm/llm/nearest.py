"""The nearest rows of a matrix by inner product: exact by blocks, or by faiss where a catalogue is large.

Legend: n items, m queries, M neighbours of a query, S width of the vectors.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)
LARGE_CATALOGUE = 200_000
"""Items from which on ``auto`` takes faiss where that is installed."""
_BLOCK_NUMBERS = 1 << 23
_PROBES = 32
_TRAINING_ROWS = 64


def check_search(search: str) -> None:
    """Refuse a way of searching that is not installed.

    Raises:
        ImportError: If faiss is asked for and not installed.
    """
    if search == "faiss" and importlib.util.find_spec("faiss") is None:
        raise ImportError("llm_ground_search='faiss' needs faiss; pip install faiss-cpu, or choose exact")


class ItemIndex:
    """A catalogue that can be asked for the items nearest to a text.

    Args:
        items: Vectors of the items, shape ``(n, S)``.
        search: ``exact``, ``faiss``, or ``auto``: faiss from 200,000 items on where it is installed. faiss looks into
            32 of its lists alone, so it may miss an item.

    Raises:
        ImportError: If faiss is asked for and not installed.
    """

    def __init__(self, items: NDArray[np.float32], search: str = "auto") -> None:
        check_search(search)
        installed = importlib.util.find_spec("faiss") is not None
        self._items = np.ascontiguousarray(items, dtype=np.float32)
        self._lists: Any = None
        if search == "faiss" or (search == "auto" and installed and len(items) >= LARGE_CATALOGUE):
            self._lists = _faiss_lists(self._items)

    def nearest(self, queries: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The items with the largest inner products with each query, best first. Works in blocks of queries.

        Args:
            queries: Shape ``(m, S)``.
            count: ``M``, at most n.

        Returns:
            Rows of the items and inner products, both of shape ``(m, M)``; of equal products the smaller row first.
            -1 where faiss finds no more.
        """
        if self._lists is not None:
            products, rows = self._lists.search(np.ascontiguousarray(queries, dtype=np.float32), count)
            return sort_best(rows.astype(np.int64), np.where(rows < 0, -np.inf, products))
        rows = np.empty((len(queries), count), dtype=np.int64)
        products = np.empty((len(queries), count), dtype=np.float32)
        step = max(_BLOCK_NUMBERS // max(len(self._items), 1), 1)
        for start in range(0, len(queries), step):
            block = queries[start : start + step] @ self._items.T
            best = _best(block, count)
            found = sort_best(best, np.take_along_axis(block, best, axis=1))
            rows[start : start + step], products[start : start + step] = found
        return rows, products


def _best(products: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Columns of the ``count`` largest products of each row, in any order; of those equal to the least the first."""
    width = products.shape[1]
    best = np.argpartition(products, width - count, axis=1)[:, width - count :]
    least = np.take_along_axis(products, best, axis=1).min(axis=1)
    for row in np.flatnonzero((products >= least[:, None]).sum(axis=1) > count):
        above = np.flatnonzero(products[row] > least[row])
        equal = np.flatnonzero(products[row] == least[row])
        best[row] = np.concatenate([above, equal[: count - len(above)]])
    return best


def _faiss_lists(items: NDArray[np.float32]) -> Any:
    import faiss

    width = items.shape[1]
    lists = max(min(int(4 * math.sqrt(len(items))), len(items) // _TRAINING_ROWS), 1)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(items)
    index.add(items)
    index.nprobe = min(_PROBES, lists)
    logger.info("faiss: %d items in %d lists, %d of them looked into", len(items), lists, index.nprobe)
    return index


def sort_best(rows: NDArray[np.int64], products: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """``rows`` and ``products``, both ``(m, M)``, with the largest product first and of equals the smaller row."""
    order = np.lexsort((rows, -products), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(products, order, axis=1)
