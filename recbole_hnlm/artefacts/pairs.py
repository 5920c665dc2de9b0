"""Training pairs as ranks, keys and a hash, none of which depends on anyone's internal ids.

Legend: P pairs, K negatives per pair. The rank of a token is its place in the sorted list of
distinct tokens; the key of a pair is ``user_rank * n_items + item_rank``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import check_tokens

Tokens = Sequence[str] | NDArray[np.str_] | NDArray[np.object_]


def rank_tokens(tokens: Tokens) -> tuple[list[str], NDArray[np.int64]]:
    """The sorted distinct tokens, and the rank of each entry of ``tokens``, shape ``(P,)``."""
    codes, distinct = pd.factorize(np.asarray(tokens, dtype=object))
    names = [str(token) for token in distinct]
    order = sorted(range(len(names)), key=names.__getitem__)
    rank_of_code = np.empty(len(names), dtype=np.int64)
    rank_of_code[order] = np.arange(len(names))
    return [names[code] for code in order], rank_of_code[codes]


def ranks_in(tokens: Tokens, names: Sequence[str]) -> NDArray[np.int64]:
    """Rank of each token in the sorted list ``names``, -1 where it is not there, ``(P,)``."""
    return pd.Index(np.asarray(names, dtype=object)).get_indexer(np.asarray(tokens, dtype=object))


def hash_pairs(user_tokens: Tokens, item_tokens: Tokens) -> str:
    """sha256 of the set of training pairs, in hex.

    Neither the order of the pairs nor a repeated pair changes it; a pair more or less does.

    Args:
        user_tokens: User of each pair, shape ``(P,)``.
        item_tokens: Item of each pair, shape ``(P,)``.

    Raises:
        ValueError: If the lengths differ or a token contains a tab or a line break.
    """
    if len(user_tokens) != len(item_tokens):
        raise ValueError(f"{len(user_tokens)} users for {len(item_tokens)} items; expected one of each a pair")
    return _digest(*rank_tokens(user_tokens), *rank_tokens(item_tokens))


def hash_pairs_of_ids(
    user_tokens: Tokens, item_tokens: Tokens, user_ids: NDArray[np.integer], item_ids: NDArray[np.integer]
) -> str:
    """The same hash from a dataset's ids: no string is made for a pair, so memory is 24 bytes a pair.

    Args:
        user_tokens: Token of each user id, all distinct, shape ``(n_users,)``.
        item_tokens: Token of each item id, likewise.
        user_ids: User id of each pair, shape ``(P,)``.
        item_ids: Item id of each pair, shape ``(P,)``.

    Raises:
        ValueError: If the lengths differ or a token contains a tab or a line break.
    """
    if len(user_ids) != len(item_ids):
        raise ValueError(f"{len(user_ids)} users for {len(item_ids)} items; expected one of each a pair")
    return _digest(*_rank_ids(user_tokens, user_ids), *_rank_ids(item_tokens, item_ids))


def _rank_ids(tokens: Tokens, ids: NDArray[np.integer]) -> tuple[list[str], NDArray[np.int64]]:
    """As :func:`rank_tokens` of ``tokens[ids]``."""
    used = np.flatnonzero(np.bincount(ids, minlength=len(tokens)))
    names, ranks = rank_tokens(np.asarray(tokens, dtype=object)[used])
    rank_of_id = np.empty(len(tokens), dtype=np.int64)
    rank_of_id[used] = ranks
    return names, rank_of_id[ids]


def _digest(users: list[str], user_ranks: NDArray[np.int64], items: list[str], item_ranks: NDArray[np.int64]) -> str:
    check_tokens(users, "user token")
    check_tokens(items, "item token")
    keys = np.sort(user_ranks * max(len(items), 1) + item_ranks)
    keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique hashes integers, ten times as slow
    digest = hashlib.sha256(b"recbole_hnlm pairs 1\n")
    for names in (users, items):
        digest.update("\t".join(names).encode() + b"\n")
    digest.update(keys.astype("<i8", copy=False).tobytes())
    return digest.hexdigest()


def build_index(
    user_ranks: NDArray[np.int64],
    item_ranks: NDArray[np.int64],
    n_items: int,
    neg_rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The sorted index of the pairs that have a vector.

    Args:
        user_ranks: Shape ``(P,)``.
        item_ranks: Shape ``(P,)``.
        n_items: Number of catalogue items.
        neg_rows: Vector rows of each pair, best first, -1 where there is none, shape ``(P, K)``.

    Returns:
        Shape ``(1 + K, covered)``, int64: the keys in ascending order, then their rows. Within a
        pair, rows that are there come before -1.

    Raises:
        ValueError: If a pair occurs twice.
    """
    covered = (neg_rows >= 0).any(axis=1)
    keys = (user_ranks * n_items + item_ranks)[covered]
    rows = neg_rows[covered]
    rows = np.take_along_axis(rows, np.argsort(rows < 0, axis=1, kind="stable"), axis=1)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    if (keys[1:] == keys[:-1]).any():
        raise ValueError("a training pair occurs twice; pass every (user, item) pair once")
    return np.concatenate([keys[None], rows[order].T])


def item_neg_id(token: str) -> str:
    """The ``neg_id`` of a catalogue item's own vector: its token, with spaces made safe.

    The ids of a pair are parted by spaces in ``NAME.hnlm``, so a space (and the mark that stands
    for it) is written as ``%20`` (``%25``).
    """
    return token.replace("%", "%25").replace(" ", "%20")


def neg_id_item(neg_id: str) -> str:
    """The inverse of :func:`item_neg_id`."""
    return neg_id.replace("%20", " ").replace("%25", "%")
