"""Maps negatives that are text to the catalogue items nearest to them, since a model may name what is not there.

Legend: P training pairs, K negatives per pair, G items of a negative, n items of the catalogue, W vector width.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.llm.figures import figures
from recbole_hnlm.llm.nearest import ItemIndex, sort_best
from recbole_hnlm.options.text import GroundingOptions

logger = logging.getLogger(__name__)
_NEIGHBOURS = 64
_BLOCK_PAIRS = 1 << 14
_BLOCK_NAMES = 1 << 15
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROUNDING = 1e-5


@dataclass(frozen=True)
class GroundingInput:
    """What is to be grounded, by rank.

    Attributes:
        pair_users: User of each training pair, shape ``(P,)``; all the training pairs.
        pair_items: Item of each training pair, shape ``(P,)``.
        name_rows: Which texts belong to each pair, -1 for none, shape ``(P, K)``.
        names: Vectors of the texts, of unit length, shape ``(m, W)``.
        items: Vectors of the items in the same space, zero where there is no text, shape ``(n, W)``.
    """

    pair_users: NDArray[np.int64]
    pair_items: NDArray[np.int64]
    name_rows: NDArray[np.int64]
    names: NDArray[np.float32]
    items: NDArray[np.float32]


@dataclass
class GroundingCounts:
    """What became of the texts.

    Attributes:
        texts: Texts of pairs, each counted as often as it is used.
        grounded: Of those, texts with at least one item.
        seen: Nearer items passed over since the user has them.
        duplicates: Nearer items passed over as near-duplicates of the positive.
        searched_whole: Texts whose nearest items were all passed over, so that the whole catalogue was looked through.
    """

    texts: int = 0
    grounded: int = 0
    seen: int = 0
    duplicates: int = 0
    searched_whole: int = 0


@dataclass(frozen=True)
class Grounding:
    """The catalogue items of the pairs' negatives.

    Attributes:
        items: Item ranks, nearest first, -1 for none, shape ``(P, K, G)``.
        similarity: Cosine of text and item, 0 where there is none, shape ``(P, K, G)``.
        counts: What became of the texts.
    """

    items: NDArray[np.int64]
    similarity: NDArray[np.float32]
    counts: GroundingCounts

    @property
    def coverage(self) -> float:
        """Share of the pairs with at least one item; 0 for no pairs."""
        return float((self.items >= 0).any(axis=(1, 2)).mean()) if len(self.items) else 0.0

    def quantiles(self) -> dict[float, float]:
        """Similarity at 5, 25, 50, 75 and 95 %, of the nearest item of each grounded text; empty without any."""
        nearest = self.similarity[..., 0][self.items[..., 0] >= 0]
        if not len(nearest):
            return {}
        return dict(zip(_QUANTILES, np.quantile(nearest, _QUANTILES).tolist(), strict=True))

    def table(self) -> str:
        """The numbers, one a line."""
        counts = self.counts
        spread = " ".join(f"{value:.2f}" for value in self.quantiles().values()) or "-"
        rows = [
            ("training pairs", f"{len(self.items):,}"),
            ("texts of pairs", f"{counts.texts:,}"),
            ("texts grounded", f"{counts.grounded:,}"),
            ("passed over: user has it", f"{counts.seen:,}"),
            ("passed over: near-duplicate", f"{counts.duplicates:,}"),
            ("whole catalogue searched", f"{counts.searched_whole:,}"),
            ("coverage of pairs", f"{self.coverage:.2%}"),
            ("similarity 5 25 50 75 95 %", spread),
        ]
        return figures(rows)


def ground(given: GroundingInput, options: GroundingOptions) -> Grounding:
    """The nearest catalogue items of each pair's negative texts.

    Never an item that the pair's user has in training, never one without text, never a near-duplicate of the pair's
    positive. Each distinct text is compared with the catalogue once; where its 64 nearest items are all passed over for
    a pair, the whole catalogue is looked through for that pair. Memory is bounded by blocks.

    Args:
        given: Pairs, texts and vectors.
        options: Items per text, thresholds and way of searching.

    Raises:
        ValueError: If no item has a vector.
    """
    told = np.flatnonzero(np.any(given.items != 0, axis=1))
    if not len(told):
        raise ValueError("no item has a text vector, so nothing can be grounded; check llm_text_fields")
    search = _Search(given, options, told)
    there = np.append(np.any(given.names != 0, axis=1), False)  # the last entry serves row -1
    pairs, columns = np.nonzero(there[given.name_rows])
    names = given.name_rows[pairs, columns]
    order = np.argsort(names, kind="stable")
    pairs, columns, names = pairs[order], columns[order], names[order]
    shape = (*given.name_rows.shape, options.ground_items)
    items, similarity = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    for first in range(0, len(given.names), _BLOCK_NAMES):
        start, end = np.searchsorted(names, [first, first + _BLOCK_NAMES]).tolist()
        search.load(first, first + _BLOCK_NAMES)
        for begin in range(start, end, _BLOCK_PAIRS):
            block = slice(begin, min(begin + _BLOCK_PAIRS, end))
            items[pairs[block], columns[block]], similarity[pairs[block], columns[block]] = search.of(
                pairs[block], names[block]
            )
    search.counts.texts = int((given.name_rows >= 0).sum())
    search.counts.grounded = int((items[..., 0] >= 0).sum())
    result = Grounding(items, similarity, search.counts)
    logger.info("grounding\n%s", result.table())
    return result


class _Search:
    """Goes through the neighbours of texts, nearest first, for many pairs at a time."""

    def __init__(self, given: GroundingInput, options: GroundingOptions, told: NDArray[np.int64]) -> None:
        self.given, self.options, self.told = given, options, told
        self.counts = GroundingCounts()
        self._index = ItemIndex(given.items[told], options.ground_search)
        self._had = np.unique(given.pair_users * len(given.items) + given.pair_items)

    def load(self, first: int, end: int) -> None:
        """Find the neighbours of the texts from ``first`` to before ``end``; :meth:`of` takes these."""
        count = min(max(_NEIGHBOURS, 2 * self.options.ground_items), len(self.told))
        self._first = first
        self._near, self._products = self._index.nearest(self.given.names[first:end], count)

    def of(self, pairs: NDArray[np.int64], names: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items and similarities of texts ``names`` of ``pairs``, both ``(b,)``: shape ``(b, G)`` each."""
        items = np.full((len(pairs), self.options.ground_items), -1, dtype=np.int64)
        similarity = np.zeros(items.shape, dtype=np.float32)
        filled = np.zeros(len(pairs), dtype=np.int64)
        unfinished = np.arange(len(pairs))
        rows_of = names - self._first
        for column in range(self._near.shape[1]):
            rows = rows_of[unfinished]
            candidates, products = self._near[rows, column], self._products[rows, column]
            ended = products < self.options.ground_min_similarity
            ended &= candidates >= 0  # faiss found no more: there may be others
            unfinished, candidates, products = unfinished[~ended], candidates[~ended], products[~ended]
            if not len(unfinished):
                return items, similarity
            free = np.flatnonzero(candidates >= 0)
            free = free[self._allowed(pairs[unfinished[free]], self.told[candidates[free]])]
            rows = unfinished[free]
            items[rows, filled[rows]], similarity[rows, filled[rows]] = self.told[candidates[free]], products[free]
            filled[rows] += 1
            unfinished = unfinished[filled[unfinished] < self.options.ground_items]
        if self._near.shape[1] < len(self.told):
            for row in unfinished.tolist():
                self.counts.searched_whole += 1
                items[row], similarity[row] = self._whole(pairs[row], names[row])
        return items, similarity

    def _allowed(self, pairs: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each item may be a negative of its pair; counts what may not."""
        given = self.given
        keys = given.pair_users[pairs] * len(given.items) + items
        at = np.minimum(np.searchsorted(self._had, keys), len(self._had) - 1)
        seen = self._had[at] == keys
        cosine = np.einsum("bs,bs->b", given.items[items], given.items[given.pair_items[pairs]])
        alike = ~seen & (cosine >= self.options.ground_duplicates_above - _ROUNDING)
        self.counts.seen += int(seen.sum())
        self.counts.duplicates += int(alike.sum())
        return ~(seen | alike)

    def _whole(self, pair: int, name: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items and similarities of one text out of the whole catalogue, shape ``(G,)`` each."""
        wanted = self.options.ground_items
        products = self.given.items[self.told] @ self.given.names[name]
        counts = (self.counts.seen, self.counts.duplicates)
        allowed = self._allowed(np.full(len(self.told), pair), self.told)
        self.counts.seen, self.counts.duplicates = counts  # of the nearer ones alone, counted before
        places = np.flatnonzero(allowed & (products >= self.options.ground_min_similarity))
        best, values = sort_best(places[None], products[places][None])
        items, similarity = np.full(wanted, -1, dtype=np.int64), np.zeros(wanted, dtype=np.float32)
        items[: min(wanted, best.size)] = self.told[best[0, :wanted]]
        similarity[: min(wanted, best.size)] = values[0, :wanted]
        return items, similarity
