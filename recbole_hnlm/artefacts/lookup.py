"""Where the vectors of a pair stand: the sorted index of an artefact behind a small table of its buckets.

Legend: P pairs of the index, K vectors per pair, B pairs of a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_KEYS_PER_BUCKET = 8


class PairIndex:
    """Looks keys up in a sorted index, at less than half the time of a binary search over the whole of it.

    The keys stay where they are (in a memory map, say). A table of half a byte per key, or less, tells for the leading
    bits of a key where those keys begin; the few steps that remain are taken for all pairs of a batch at once.
    """

    def __init__(self, index: NDArray[np.int64]) -> None:
        """Take a checked index as :func:`~recbole_hnlm.artefacts.pairs.build_index` makes it, shape ``(1 + K, P)``."""
        self._keys = np.asarray(index[0])
        self._rows = np.asarray(index[1:])
        count = len(self._keys)
        last = int(self._keys[-1]) if count else 0
        self._shift = max(last.bit_length() - max(count // _KEYS_PER_BUCKET, 1).bit_length() + 1, 0)
        starts = np.searchsorted(self._keys, np.arange((last >> self._shift) + 1, dtype=np.int64) << self._shift)
        self._starts = starts.astype(np.int32 if count < 1 << 31 else np.int64)
        longest = int(np.diff(starts, append=count).max())
        self._steps = [1 << bit for bit in reversed(range(longest.bit_length()))]

    def __len__(self) -> int:
        """Number of pairs, P."""
        return len(self._keys)

    def locate(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Place of each of ``keys``, shape ``(B,)``, in the index, and whether it is there at all."""
        if not len(self):
            return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
        places = self._starts.take(keys >> self._shift, mode="clip").astype(np.int64)
        for step in self._steps:  # keys are sorted throughout, so that a step may leave the bucket but not pass the key
            places += step * (self._keys.take(places + (step - 1), mode="clip") < keys)
        np.minimum(places, len(self) - 1, out=places)
        return places, self._keys.take(places) == keys

    def rows(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the vectors of each of ``keys``, ``(B,) -> (B, K)``; -1 where there is none."""
        places, found = self.locate(keys)
        if not len(self):
            return np.full((len(keys), len(self._rows)), -1, dtype=np.int64)
        if len(self._rows) == 1:
            return np.where(found, self._rows[0].take(places), -1)[:, None]
        return np.ascontiguousarray(np.where(found, self._rows.take(places, axis=1), -1).T)
