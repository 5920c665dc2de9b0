"""Which training pairs share a request for hard negatives, and how many requests each way takes.

Legend: P training pairs, R requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.llm.clustering import PairFeatures, cluster_pairs
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.prompts import load_prompts
from recbole_hnlm.options.text import TextOptions


@dataclass(frozen=True)
class PairGroups:
    """The pairs of each request, all of one user, and whose answer each pair takes.

    Attributes:
        asked: Places of the pairs that are asked for, request after request, shape ``(n,)``.
        starts: Where each request begins in ``asked``, and its end, shape ``(R + 1,)``.
        source: Place of the asked pair whose answer a pair takes, -1 for none, shape ``(P,)``.
    """

    asked: NDArray[np.int64]
    starts: NDArray[np.int64]
    source: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Places of the pairs of each request."""
        for start, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            yield self.asked[start:end]


def group_pairs(
    corpus: Corpus, options: TextOptions, features: PairFeatures | None = None, seed: int = 0
) -> PairGroups:
    """The requests by ``pair_grouping``, without any under ``none``; pairs whose item has no text are in none either.

    Args:
        corpus: The dataset.
        options: The pipeline's options.
        features: Vectors of the pairs, for clusters.
        seed: Seed of the clustering.

    Raises:
        ValueError: If clusters are asked for without vectors.
    """
    source = np.full(len(corpus.pair_users), -1, dtype=np.int64)
    if options.pair_grouping == "none":
        return PairGroups(source[:0], np.zeros(1, dtype=np.int64), source)
    places = tellable_pairs(corpus)
    source[places] = places
    if options.pair_grouping == "cluster" and len(places):
        if features is None:
            raise ValueError("llm_pair_grouping='cluster' needs vectors of users and items; pass features")
        labels, middles = cluster_pairs(features, places, options.pair_clusters, seed)
        source[places] = middles[labels]
        return PairGroups(middles, np.arange(len(middles) + 1), source)
    size = options.pairs_per_request if options.pair_grouping == "user" else 1
    if size == 1:
        return PairGroups(places, np.arange(len(places) + 1), source)
    users = corpus.pair_users[places]
    order = np.argsort(users, kind="stable")
    owners, asked = users[order], places[order]
    first_of_user = np.searchsorted(owners, owners)
    starts = np.flatnonzero((np.arange(len(owners)) - first_of_user) % size == 0)
    return PairGroups(asked, np.append(starts, len(asked)), source)


def tellable_pairs(corpus: Corpus) -> NDArray[np.int64]:
    """Places of the pairs whose item has a name, shape ``(n,)``."""
    named = np.array([bool(name) for name in corpus.names], dtype=bool)
    return np.flatnonzero(named[corpus.pair_items])


def count_calls(corpus: Corpus, options: TextOptions) -> dict[str, int]:
    """How many requests each stage takes, and the hard negatives each way; asks nothing and embeds nothing.

    Repairs come on top, one for each reply that cannot be used. The figure of ``cluster`` is the most it can take.

    Returns:
        ``item_profiles``, ``user_profiles``, ``negatives_pair``, ``negatives_user`` and ``negatives_cluster``.
    """
    from recbole_hnlm.llm.profile_stages import ranks_of_told_items, user_profile_requests

    prompts = load_prompts("generic")  # what is asked of whom does not depend on the words
    places = tellable_pairs(corpus)
    per_user = np.bincount(corpus.pair_users[places], minlength=len(corpus.users))
    told = [""] * len(corpus.items)
    for rank in ranks_of_told_items(prompts, corpus, options):
        told[rank] = "a profile"
    return {
        "item_profiles": sum(map(bool, told)),
        "user_profiles": sum(1 for _ in user_profile_requests(prompts, corpus, told, options)),
        "negatives_pair": len(places),
        "negatives_user": int(np.ceil(per_user / options.pairs_per_request).sum()),
        "negatives_cluster": min(options.pair_clusters, len(places)),
    }
