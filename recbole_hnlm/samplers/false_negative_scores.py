"""How likely the leading candidates of each user are false negatives: a sorted table and what is asked of it.

Shapes: ``B`` pairs, ``C`` candidates per pair, ``N`` scored (user, item) pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FalseNegativeScores:
    """Scores in [0, 1] of (user, item) pairs; every other pair has 0.

    Args:
        users: User ids of the pairs, shape ``(N,)``.
        items: Item ids of the pairs, shape ``(N,)``; each pair once.
        scores: Their scores, shape ``(N,)``.
        n_items: Number of items including padding.

    Raises:
        ValueError: If the shapes do not line up, a pair comes twice, or a score or an item is out of range.
    """

    def __init__(self, users: Tensor, items: Tensor, scores: Tensor, n_items: int) -> None:
        if not users.shape == items.shape == scores.shape or users.dim() != 1:
            shapes = tuple(users.shape), tuple(items.shape), tuple(scores.shape)
            raise ValueError(f"users, items and scores are {shapes}; expected (N,), (N,), (N,)")
        if items.numel() and (int(items.min()) < 1 or int(items.max()) >= n_items):
            raise ValueError(f"scored items lie outside 1..{n_items - 1}; score them for this dataset")
        if not bool(((scores >= 0) & (scores <= 1)).all()):
            raise ValueError("a score lies outside [0, 1] or is no number")
        self.n_items = n_items
        self.keys, order = torch.sort(users.long() * n_items + items.long())
        self.scores = scores.float()[order]
        if bool((self.keys[1:] == self.keys[:-1]).any()):
            raise ValueError("a pair of user and item is scored twice")

    def __len__(self) -> int:
        """``N``."""
        return self.keys.numel()

    @property
    def users(self) -> Tensor:
        """Users of the pairs in the order of the keys, shape ``(N,)``."""
        return torch.div(self.keys, self.n_items, rounding_mode="floor")

    @property
    def items(self) -> Tensor:
        """Items of the pairs, likewise."""
        return self.keys - self.users * self.n_items

    def to(self, device: torch.device) -> FalseNegativeScores:
        """Move the table to ``device``; returns itself."""
        self.keys, self.scores = self.keys.to(device), self.scores.to(device)
        return self

    def of(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of items, 0 where nothing is known, ``(B,), (B, C) -> (B, C)``."""
        if not len(self):
            return torch.zeros(items.shape, device=items.device)
        keys = torch.add(items, users.unsqueeze(1), alpha=self.n_items)
        at = torch.searchsorted(self.keys, keys).clamp_(max=len(self) - 1)
        return torch.where(self.keys[at] == keys, self.scores[at], 0.0)

    def draw(self, users: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One scored item of each user, each with the same chance, and its score; 0 and 0 for users without any.

        Args:
            users: User ids, shape ``(B,)``.
            generator: Source of randomness.

        Returns:
            Item ids and scores, shapes ``(B,), (B,)``.
        """
        uniform = torch.rand(users.shape, generator=generator, device=users.device, dtype=torch.float64)
        if not len(self):
            return torch.zeros_like(users), torch.zeros(users.shape, device=users.device)
        start = torch.searchsorted(self.keys, users * self.n_items)
        count = torch.searchsorted(self.keys, (users + 1) * self.n_items) - start
        at = start + torch.minimum((uniform * count).long(), (count - 1).clamp_min(0))
        at = at.clamp_max(len(self) - 1)
        known = count > 0
        return torch.where(known, self.items_at(at), 0), torch.where(known, self.scores[at], 0.0)

    def items_at(self, places: Tensor) -> Tensor:
        """Items at places of the sorted table, of the shape of ``places``."""
        return torch.remainder(self.keys[places], self.n_items)

    def highest(self, share: float, most_per_user: Tensor) -> FalseNegativeScores:
        """The pairs of the highest scores: a share of all pairs, but no more of a user than allowed.

        Args:
            share: Share of the table that is kept before that, in [0, 1].
            most_per_user: Most pairs kept of each user, shape ``(n_users,)``.

        Returns:
            A smaller table; ties go to the smaller user and item.
        """
        count = int(share * len(self))
        best = torch.argsort(self.scores, descending=True, stable=True)[:count]  # by score
        users = self.users[best]
        by_user = torch.argsort(users, stable=True)  # by user, then by score
        users, best = users[by_user], best[by_user]
        first = torch.searchsorted(users, users)
        rank = torch.arange(count, device=users.device) - first
        kept = best[rank < most_per_user[users]]
        return FalseNegativeScores(self.users[kept], self.items[kept], self.scores[kept], self.n_items)
