"""Drawing candidates per pair on the model's device: exact, vectorised, reproducible.

Shapes: ``B`` pairs, ``C`` candidates per pair.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from recbole_hnlm.samplers.interactions import TrainingInteractions

_REDRAWS = 16  # rounds of rejection before the popularity drawer falls back to an exact draw over the whole catalogue
FEWEST, MOST = 8, 32
"""Bounds of :func:`candidates_for`."""
_ITEMS_PER_CANDIDATE = 300


def candidates_for(n_items: int) -> int:
    """How many candidates suit a catalogue: one for 300 items, as a power of two from 8 to 32.

    The hardest of 2 % of a catalogue is too often an item that the user would take, and the hardest of a thousandth of
    it is not hard (``results/``, "how many candidates").

    Args:
        n_items: Number of items without padding.
    """
    power = 2 ** round(math.log2(max(n_items, 1) / _ITEMS_PER_CANDIDATE))
    return int(min(max(power, FEWEST), MOST))


class CandidateDrawer(ABC):
    """Draws item ids that are no training positives of their user, with replacement.

    Args:
        interactions: The training pairs.
        generator: Source of randomness, on the interactions' device; global random state is never touched.
    """

    def __init__(self, interactions: TrainingInteractions, generator: torch.Generator) -> None:
        self.interactions = interactions
        self.generator = generator

    def draw(self, users: Tensor, count: int) -> Tensor:
        """``count`` candidates for each user.

        Args:
            users: User ids, shape ``(B,)``.
            count: Candidates per user, at least 1.

        Returns:
            Item ids, shape ``(B, count)``, int64; never 0, never a training positive of the row's user.
        """
        items = self._propose(users.numel() * count).view(users.numel(), count)
        owners = users.unsqueeze(1)
        suspects = self.interactions.suspects(owners, items)
        if suspects.numel():
            flat = items.view(-1)
            rows = suspects if count == 1 else torch.div(suspects, count, rounding_mode="floor")
            suspect_users = users.index_select(0, rows)
            taken = self.interactions.contains(suspect_users, flat.index_select(0, suspects))
            hits = torch.nonzero(taken).view(-1)
            if hits.numel():
                replacements = self._replace(suspect_users.index_select(0, hits))
                flat.index_copy_(0, suspects.index_select(0, hits), replacements)
        return items

    def with_generator(self, generator: torch.Generator) -> CandidateDrawer:
        """The same drawer over the same tables, with draws of its own."""
        other = copy.copy(self)
        other.generator = generator
        return other

    @abstractmethod
    def _propose(self, size: int) -> Tensor:
        """Item ids from the unconditional distribution, shape ``(size,)``."""

    @abstractmethod
    def _replace(self, users: Tensor) -> Tensor:
        """One item id per user from the distribution conditioned on being no positive, shape ``(M,)``."""


class UniformCandidates(CandidateDrawer):
    """Uniform over the items a user has no training interaction with; a rejected draw is replaced in one exact step."""

    def _propose(self, size: int) -> Tensor:
        device = self.interactions.device
        return torch.randint(1, self.interactions.n_items, (size,), generator=self.generator, device=device)

    def _replace(self, users: Tensor) -> Tensor:
        free = self.interactions.unseen_counts(users)
        uniform = torch.rand(users.shape, generator=self.generator, device=users.device, dtype=torch.float64)
        rank = torch.minimum((uniform * free).long(), free - 1)
        return self.interactions.unseen_item(users, rank)


class PopularityCandidates(CandidateDrawer):
    """Proportional to (training count) ** ``power``; validation and test counts are never seen.

    Args:
        interactions: The training pairs.
        generator: Source of randomness.
        power: Exponent of the count; 0 is uniform over items that occur in training, 1 follows the counts.

    Raises:
        ValueError: If a user has interacted with every item that has a count.
    """

    def __init__(self, interactions: TrainingInteractions, generator: torch.Generator, power: float) -> None:
        super().__init__(interactions, generator)
        counts = interactions.item_counts.double()
        self._weights = torch.where(counts > 0, counts**power, torch.zeros_like(counts))
        occurring = int((counts > 0).sum())
        stuck = torch.nonzero(interactions.user_counts >= occurring).flatten()
        if stuck.numel():
            raise ValueError(
                f"{stuck.numel()} user(s) have interacted with every item that occurs in training, so popularity has "
                "nothing to draw for them; use neg_sampler=uniform or drop them with user_inter_num_interval"
            )
        self._cumulative = torch.cumsum(self._weights, 0)

    def _propose(self, size: int) -> Tensor:
        total = self._cumulative[-1]
        point = torch.rand(size, generator=self.generator, device=total.device, dtype=torch.float64) * total
        items = torch.searchsorted(self._cumulative, point, right=True)
        return items.clamp_(max=self._cumulative.numel() - 1)

    def _replace(self, users: Tensor) -> Tensor:
        items = torch.zeros_like(users)
        open_rows = torch.arange(users.numel(), device=users.device)
        for _ in range(_REDRAWS):
            if not open_rows.numel():
                return items
            proposal = self._propose(open_rows.numel())
            items[open_rows] = proposal
            open_rows = open_rows[self.interactions.contains(users[open_rows], proposal)]
        for row in open_rows.tolist():  # users who own nearly all the popularity mass: a handful, drawn exactly
            items[row] = self._draw_over_catalogue(users[row])
        return items

    def _draw_over_catalogue(self, user: Tensor) -> Tensor:
        catalogue = torch.arange(self.interactions.n_items, device=user.device)
        taken = self.interactions.contains(user.expand_as(catalogue), catalogue)
        weights = self._weights.masked_fill(taken, 0.0)
        return torch.multinomial(weights, 1, generator=self.generator)[0]


def chosen_of(candidates: Tensor, column: Tensor, rule: str) -> Tensor:
    """The candidate that a rule has chosen in each row, shape ``(B, 1)``.

    Args:
        candidates: What was drawn, shape ``(B, C)``.
        column: What its ``select`` gave, shape ``(B,)``.
        rule: The rule's name.

    Raises:
        ValueError: If it gave anything else.
    """
    if column.shape != candidates.shape[:1] or column.dtype != torch.int64:
        raise ValueError(
            f"{rule}.select gave {column.dtype} of shape {tuple(column.shape)}, expected one column a row, int64 of "
            f"shape ({len(candidates)},), such as scores.argmax(dim=1)"
        )
    return candidates.gather(1, column.unsqueeze(1))
