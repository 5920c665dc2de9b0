"""Training positives as sorted keys plus a bit filter: exact membership tests at tens of millions a second.

Shapes: ``E`` distinct training pairs, ``M`` queries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HASH_MULTIPLIER = -7046029254386353131  # odd 64-bit constant (golden ratio), products wrap around
_FILTER_BITS_PER_PAIR = 16  # about 4 % of non-members fall through to the binary search


def _sorted_distinct(keys: Tensor) -> Tensor:
    """The distinct keys in ascending order; ``keys`` may be overwritten."""
    if keys.device.type == "cpu":
        keys.numpy().sort()  # vectorised, up to ten times as fast as torch's
    else:
        keys = torch.sort(keys)[0]
    return torch.unique_consecutive(keys)


class TrainingInteractions:
    """The (user, item) pairs of the training split, for drawing what is *not* among them.

    Memory is proportional to ``E``: 8 bytes a pair for the sorted keys, 8 for the ranks and 2 to 4 for the filter.
    There is never a user x item matrix.

    Args:
        users: User ids of the pairs, 1-based (0 is RecBole's padding), shape ``(E,)``; duplicates are merged.
        items: Item ids, likewise.
        n_users: Number of users including padding.
        n_items: Number of items including padding.

    Raises:
        ValueError: If there are no pairs, an id is out of range, or a user has interacted with every item.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        if users.shape != items.shape or users.dim() != 1:
            raise ValueError(f"users and items should be of one length, got {tuple(users.shape)}, {tuple(items.shape)}")
        if users.numel() == 0:
            raise ValueError("the training split has no interactions; check the dataset's filters and split")
        for name, ids, count in (("user", users, n_users), ("item", items, n_items)):
            if int(ids.min()) < 1 or int(ids.max()) >= count:
                raise ValueError(f"{name} ids should lie in 1..{count - 1}, got {int(ids.min())}..{int(ids.max())}")
        self.n_users, self.n_items = n_users, n_items
        self.keys = _sorted_distinct(torch.add(items.long(), users.long(), alpha=n_items))  # (E,)
        owner = torch.div(self.keys, n_items, rounding_mode="floor")
        self.user_counts = torch.bincount(owner, minlength=n_users)
        self.item_counts = torch.bincount(self.keys - owner * n_items, minlength=n_items)
        self.user_starts = torch.cumsum(self.user_counts, 0) - self.user_counts
        self._refuse_saturated_users()
        # The r-th item outside a user's sorted positives p_0 < p_1 < ... is r + #{k: p_k - k <= r}; these keys count
        # it.
        position = torch.arange(self.keys.numel(), device=self.keys.device).sub_(self.user_starts[owner])
        self._rank_keys = self.keys - position
        self._build_filter()

    def _refuse_saturated_users(self) -> None:
        saturated = torch.nonzero(self.user_counts >= self.n_items - 1).flatten()
        if saturated.numel():
            raise ValueError(
                f"{saturated.numel()} user(s) have interacted with every item, so no negative exists for them "
                f"(first internal id {int(saturated[0])}); drop them with user_inter_num_interval"
            )

    def _build_filter(self) -> None:
        bits = max(6, math.ceil(math.log2(self.keys.numel() * _FILTER_BITS_PER_PAIR)))
        self._shift, self._mask = 64 - bits, (1 << bits) - 1
        slot = self._hash(self.keys).cpu()
        packed, plane = (torch.zeros(1 << (bits - 3), dtype=torch.uint8) for _ in range(2))
        for bit in range(8):  # plane by plane, as a table of one byte a bit would be eight times as large
            plane.zero_()[slot[(slot & 7) == bit] >> 3] = 1 << bit
            packed |= plane
        self._filter = packed.to(self.keys.device)
        self._bit = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=self.keys.device)

    def _hash(self, keys: Tensor) -> Tensor:
        return (keys * _HASH_MULTIPLIER).bitwise_right_shift_(self._shift).bitwise_and_(self._mask)

    @property
    def device(self) -> torch.device:
        """Where membership is tested and candidates are drawn."""
        return self.keys.device

    def to(self, device: torch.device) -> TrainingInteractions:
        """Move every table to ``device``; returns itself."""
        for name in ("keys", "user_counts", "item_counts", "user_starts", "_rank_keys", "_filter", "_bit"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def suspects(self, users: Tensor, items: Tensor) -> Tensor:
        """Flat positions that *may* be training pairs; never misses one, and is wrong for about 4 % of the others.

        Args:
            users: User ids, shape ``(M, 1)`` or ``(M, C)``.
            items: Item ids, shape ``(M, C)``.

        Returns:
            Indices into the flattened items, int64.
        """
        slot = self._hash(torch.add(items, users, alpha=self.n_items)).view(-1)
        bit = self._bit.index_select(0, slot & 7)
        return torch.nonzero(self._filter.index_select(0, slot >> 3).bitwise_and_(bit)).view(-1)

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether each (user, item) is a training pair, exactly; broadcasts, bool."""
        keys = torch.add(items, users, alpha=self.n_items)
        at = torch.searchsorted(self.keys, keys).clamp_(max=self.keys.numel() - 1)
        return self.keys[at] == keys

    def unseen_item(self, users: Tensor, rank: Tensor) -> Tensor:
        """The ``rank``-th item (from 0) that each user has no training interaction with, in id order, shape ``(M,)``.

        With a uniform rank below :meth:`unseen_counts` this is an exact uniform draw without any rejection.
        """
        target = torch.add(rank + 1, users, alpha=self.n_items)  # item ids start at 1
        before = torch.searchsorted(self._rank_keys, target, right=True) - self.user_starts[users]
        return rank + 1 + before

    def unseen_counts(self, users: Tensor) -> Tensor:
        """How many items each user has no training interaction with, shape of ``users``."""
        return self.n_items - 1 - self.user_counts[users]
