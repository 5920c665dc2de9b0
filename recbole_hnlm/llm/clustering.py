"""Clusters of training pairs that are alike in user and item, by k-means over their text vectors.

Legend: P training pairs, k clusters, S width of the vectors.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK_NUMBERS = 1 << 22
_FIT_PAIRS = 64
_ROUNDS = 10


@dataclass(frozen=True)
class PairFeatures:
    """The vector of a pair: its user's beside its item's, so that distances add up. Made block by block.

    Attributes:
        user_vectors: Text vector of each user's profile, shape ``(users, S)``.
        item_vectors: Text vector of each item, shape ``(items, S)``.
        pair_users: User rank of each pair, shape ``(P,)``.
        pair_items: Item rank of each pair, shape ``(P,)``.
    """

    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    pair_users: NDArray[np.int64]
    pair_items: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pair_users)

    def of(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of the pairs at ``places``, shape ``(n, 2 S)``."""
        users, items = self.user_vectors[self.pair_users[places]], self.item_vectors[self.pair_items[places]]
        return np.concatenate([users, items], axis=1)


def cluster_pairs(
    features: PairFeatures, places: NDArray[np.int64], clusters: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """k-means over pairs: which cluster each belongs to, and the pair in the middle of each cluster.

    Centres are fitted on a seeded sample of at most 64 pairs a cluster, in ten rounds of Lloyd's algorithm; then every
    pair goes to the nearest one. Memory is bounded, time is ``O(P k S)``.

    Args:
        features: Vectors of pairs.
        places: The pairs to cluster, shape ``(n,)``, at least one.
        clusters: Most clusters; fewer where pairs are fewer or a cluster ends up empty.
        seed: Seed of the sample and of the first centres.

    Returns:
        Cluster of each of ``places``, shape ``(n,)``; and of each cluster the entry of ``places`` nearest to its
        centre, shape ``(k,)``, the first one of several.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(places, min(len(places), clusters * _FIT_PAIRS), replace=False))
    means = KMeans(min(clusters, len(sample)), n_init=1, max_iter=_ROUNDS, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):  # sums in one order: the same clusters on every machine
        warnings.simplefilter("ignore")  # fewer distinct points than clusters, or ten rounds not enough: both are fine
        centres = means.fit(features.of(sample)).cluster_centers_
        return _assign(features, places, centres)


def _assign(
    features: PairFeatures, places: NDArray[np.int64], centres: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.metrics import pairwise_distances_argmin_min

    labels = np.empty(len(places), dtype=np.int64)
    distances = np.empty(len(places), dtype=np.float32)
    step = max(_BLOCK_NUMBERS // centres.shape[1], 1)
    for start in range(0, len(places), step):
        block = slice(start, start + step)
        labels[block], distances[block] = pairwise_distances_argmin_min(features.of(places[block]), centres)
    order = np.lexsort((np.arange(len(places)), distances, labels))
    used, first = np.unique(labels[order], return_index=True)
    return np.searchsorted(used, labels), places[order[first]]
