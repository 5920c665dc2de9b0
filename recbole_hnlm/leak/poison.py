"""Held-out pairs exchanged for others, so that nothing made of training pairs can change.

Internal ids are given in the order in which tokens first occur, so the exchange keeps that order: an item or user that
only held-out pairs have stays where it first stood. Shapes: ``E`` pairs of a split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

_TRIES = 100


@dataclass(frozen=True)
class Pairs:
    """The (user, item) pairs of a split in their order.

    Attributes:
        users: Internal user ids, shape ``(E,)``.
        items: Internal item ids, shape ``(E,)``.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]


def poisoned(train: Pairs, held_out: Sequence[Pairs], random: np.random.Generator) -> tuple[list[Pairs], int]:
    """Held-out splits in which other pairs stand.

    A row becomes a random user and a random item of the training split that the user has in no split, so that numbers
    of pairs change too, those of items and those of users. Where the user occurs in no training pair, the user stays,
    and likewise the item, for the reason told above; where neither does, the row is left as it is. No user is given
    so many items that none is left.

    Args:
        train: The training split, which stays.
        held_out: Validation and test.
        random: Source of randomness.

    Returns:
        The new splits, row by row, and how many of their rows could not be exchanged.
    """
    taken: defaultdict[int, set[int]] = defaultdict(set)
    for split in (train, *held_out):
        for user, item in zip(split.users.tolist(), split.items.tolist(), strict=True):
            taken[user].add(item)
    warm_users, warm_items = np.unique(train.users), np.unique(train.items)
    known_users, known_items = set(warm_users.tolist()), set(warm_items.tolist())

    def has_room(user: int) -> bool:
        return len(known_items) - len(taken[user] & known_items) > 1

    splits, kept = [], 0
    for split in held_out:
        users, items = split.users.copy(), split.items.copy()
        for row, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
            if item in known_items:
                owner = _other(warm_users, has_room, random) if user in known_users else None
                users[row] = owner = user if owner is None else owner
                other = _other(warm_items, partial(_is_free, taken, owner), random)
                items[row] = item if other is None else other
            elif user in known_users:
                other = _other(warm_users, partial(_is_free, taken, item=item), random)
                users[row] = user if other is None else other
            else:
                other = None
            kept += other is None
            taken[int(users[row])].add(int(items[row]))
        splits.append(Pairs(users, items))
    return splits, kept


def _is_free(taken: Mapping[int, set[int]], user: int, item: int) -> bool:
    return item not in taken[user]


def _other(choices: NDArray[np.int64], fits: Callable[[int], bool], random: np.random.Generator) -> int | None:
    """A random one of ``choices`` that fits, or None where none was found."""
    for found in random.choice(choices, size=_TRIES).tolist():
        if fits(found):
            return int(found)
    return next((int(found) for found in random.permutation(choices).tolist() if fits(found)), None)
