"""Synthetic interactions of any size: power-law activity and popularity, no pair twice, the same for the same seed.

python benchmarks/synthetic.py --interactions 10_000_000 --out data/synthetic-10m

writes ``data/synthetic-10m/synthetic-10m.inter``, a RecBole atomic file; the name of the folder is the dataset's.

A user's number of interactions and an item's popularity follow ``1 / (rank + 30) ** 0.75``, the shape of yelp2018; ids
are shuffled, so that neither is sorted by id. Everything runs user block by user block: memory is 8 bytes for each
interaction that is returned, plus one block. Shapes: ``E`` interactions, ``U`` users, ``I`` items, without padding.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PER_USER = 36
"""Mean interactions of a user, as in yelp2018."""
PER_ITEM = 100
"""Mean interactions of an item; yelp2018 has 30, MovieLens 20M 740."""
BLOCK = 1 << 22
"""Interactions that are made, or written, at once."""
_EXPONENT, _OFFSET = 0.75, 30.0
_ROUNDS = 12


@dataclass(frozen=True)
class Interactions:
    """Distinct pairs, ordered by user, ids from 1 as RecBole numbers them.

    Attributes:
        users: User ids, shape ``(E,)``, int32.
        items: Item ids, likewise.
        n_users: Number of users including RecBole's padding 0.
        n_items: Number of items including padding.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    n_users: int
    n_items: int


def power_law(count: int) -> NDArray[np.float64]:
    """Shares of ``count`` ranks, highest first, summing to 1."""
    weights = 1.0 / (np.arange(count) + _OFFSET) ** _EXPONENT
    return weights / weights.sum()


def activity(n_users: int, n_items: int, size: int) -> NDArray[np.int64]:
    """Interactions of each user by rank, shape ``(U,)``; at least 1, at most a quarter of the catalogue."""
    most = n_items // 4
    if size > n_users * most or size < n_users:
        raise ValueError(f"{size} interactions do not fit {n_users} users with 1 to {most} each")
    spare = size - n_users  # one each, the rest by the power law
    wanted = power_law(n_users) * spare
    for _ in range(64):  # what the cap cuts off goes to the others
        capped = np.minimum(wanted, most - 1)
        free = capped < most - 1
        if spare - capped.sum() < 0.5 or not free.any():
            break
        wanted = np.where(free, capped * (1 + (spare - capped.sum()) / capped[free].sum()), most - 1)
    ends = np.rint(np.cumsum(np.minimum(wanted, most - 1))).astype(np.int64)
    ends[-1] = spare
    return 1 + np.diff(ends, prepend=0)


def blocks(size: int, seed: int, n_users: int = 0, n_items: int = 0) -> Iterator[tuple[NDArray[np.int64], int]]:
    """The pairs of consecutive users as sorted keys ``(user - 1) * I + (item - 1)``, and ``I``.

    Args:
        size: Number of pairs, ``E``.
        seed: Seed; the same arguments give the same pairs.
        n_users: ``U``; 0 means ``E / 36``.
        n_items: ``I``; 0 means ``E / 100``.
    """
    rng = np.random.default_rng(seed)
    n_users, n_items = n_users or max(1, size // PER_USER), n_items or max(8, size // PER_ITEM)
    counts = rng.permutation(activity(n_users, n_items, size))
    cumulative = np.cumsum(power_law(n_items))
    by_rank = rng.permutation(n_items)
    ends = np.cumsum(counts)
    start = 0
    while start < n_users:
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        yield _pairs_of_users(rng, start, counts[start:stop], cumulative, by_rank), n_items
        start = stop


def _pairs_of_users(
    rng: np.random.Generator,
    first: int,
    counts: NDArray[np.int64],
    cumulative: NDArray[np.float64],
    by_rank: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Sorted keys of ``counts[k]`` distinct items for each user ``first + k``: what is drawn twice is drawn again."""
    n_items = len(by_rank)
    users = np.arange(len(counts), dtype=np.int64)
    keys = np.empty(0, dtype=np.int64)
    missing = counts
    for attempt in range(10 * _ROUNDS):
        owners = np.repeat(users, missing)
        if attempt < _ROUNDS:
            items = by_rank[np.searchsorted(cumulative, rng.random(len(owners)) * cumulative[-1], side="right")]
        else:  # a very active user has most of the popular items by now
            items = rng.integers(0, n_items, len(owners))
        drawn = np.concatenate([keys, np.sort(owners * n_items + items)])
        drawn.sort(kind="stable")  # merges the two sorted runs
        keys = drawn[np.diff(drawn, prepend=-1) > 0]
        missing = counts - np.bincount(keys // n_items, minlength=len(counts))
        if not missing.any():
            break
    assert not missing.any()
    return keys + first * n_items


def generate(size: int, seed: int = 2020, n_users: int = 0, n_items: int = 0) -> Interactions:
    """All pairs in memory; arguments as those of :func:`blocks`."""
    users, items = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
    end, width = 0, n_items
    for keys, width in blocks(size, seed, n_users, n_items):
        begin, end = end, end + len(keys)
        users[begin:end], items[begin:end] = keys // width, keys % width
    users += 1
    items += 1
    return Interactions(users, items, (n_users or max(1, size // PER_USER)) + 1, width + 1)


def write_atomic(folder: Path, size: int, seed: int = 2020, n_users: int = 0, n_items: int = 0) -> Path:
    """Write the same pairs as a RecBole atomic file ``folder/NAME.inter``, block by block; ``NAME`` is the folder's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{folder.name}.inter"
    with path.open("w", encoding="ascii") as handle:
        handle.write("user_id:token\titem_id:token\n")
        for keys, width in blocks(size, seed, n_users, n_items):
            for start in range(0, len(keys), BLOCK // 8):
                users, items = divmod(keys[start : start + BLOCK // 8], width)
                pairs = zip((users + 1).tolist(), (items + 1).tolist(), strict=True)
                handle.write("".join([f"{user}\t{item}\n" for user, item in pairs]))
    return path


def main() -> None:
    """Write one atomic file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder; its name is the dataset's")
    parser.add_argument("--users", type=int, default=0, help="0: interactions / 36")
    parser.add_argument("--items", type=int, default=0, help="0: interactions / 100")
    parser.add_argument("--seed", type=int, default=2020)
    args = parser.parse_args()
    path = write_atomic(args.out, args.interactions, args.seed, args.users, args.items)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
