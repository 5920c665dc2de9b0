"""What a run tells about its negatives: running means on the device, read once an epoch.

Shapes: ``M`` negatives of a step, ``B`` pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recbole_hnlm.samplers import EmbeddingView, TrainingInteractions

_EVERY = 8  # steps between looks at the scores, which cost two gathers
_AS_GOOD_AS_EQUAL = 0.99
_SPREAD = 128  # items that a projected vector is held against
_TINY = 1e-12


class StepStatistics:
    """Means over the steps of an epoch of what describes the negatives.

    Args:
        interactions: Training pairs, for the popularity of negatives.
    """

    def __init__(self, interactions: TrainingInteractions) -> None:
        self._interactions = interactions
        self._held_out: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0

    def watch_held_out(self, datasets: Sequence[Any]) -> None:
        """Also count drawn negatives that are positives of these splits. For the log alone: nothing reads it back."""
        if self._held_out is not None:
            return
        n_items, device = self._interactions.n_items, self._interactions.device
        users, items = (
            torch.cat([split.inter_feat[field(split)] for split in datasets])
            for field in (lambda split: split.uid_field, lambda split: split.iid_field)
        )
        self._held_out = torch.unique(users * n_items + items).to(device)

    def add(self, name: str, value: Tensor) -> None:
        """Add one step's value of a scalar; no synchronisation with the device."""
        value = value.detach().reshape(())
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def count_coverage(self, present: Tensor) -> None:
        """Record the share of pairs with a vector."""
        self.add("coverage", present.float().mean())

    @property
    def looks_next(self) -> bool:
        """Whether the next :meth:`observe` looks at the scores."""
        return (self._steps + 1) % _EVERY == 1

    def observe(
        self,
        users: Tensor,
        positives: Tensor,
        ids: Tensor,
        rows: Tensor | None,
        view: EmbeddingView | None,
        weights: Tensor | None = None,
    ) -> None:
        """Record hardness, popularity and false negatives of one step's negatives, on one step in eight.

        Args:
            users: User ids, shape ``(M,)``.
            positives: Positive items, shape ``(M,)``.
            ids: Negative items, shape ``(M,)``.
            rows: Synthetic rows in their place, ``(M, D)``, or None.
            view: The model's embeddings, or None where scores are not at hand.
            weights: What each negative counts for, shape ``(M,)``; None for all alike.
        """
        self._steps += 1
        if self._steps % _EVERY != 1:
            return
        with torch.no_grad():
            counts = self._interactions.item_counts
            self.add("negative_popularity", _mean(counts[ids].float(), weights))
            if view is not None and view.has_user_rows:
                user_rows = view.user_rows(users)
                negative = view.item_rows(ids) if rows is None else rows
                gap = (user_rows * (negative - view.item_rows(positives))).sum(dim=1)
                self.add("hardness", _mean(gap, weights))
            if self._held_out is not None:
                self.add("false_negative_rate", _mean(self._are_held_out(users, ids).float(), weights))
                if view is not None:
                    negative = view.item_rows(ids) if rows is None else rows
                    beside = self._beside_held_out(users, negative, view)
                    self.add("false_negative_vectors", _mean(beside.float(), weights))

    @torch.no_grad()
    def place_text(
        self, users: Tensor, positives: Tensor, compared: tuple[Tensor, Tensor, Tensor], view: EmbeddingView
    ) -> None:
        """Record where projected vectors lie: their norm, what they resemble, and how many items score below them.

        Scores are taken at the norm of the catalogue negative, for which the same share is recorded. The items are
        spread evenly over the catalogue's ids, so nothing is drawn.

        Args:
            users: User ids, shape ``(M,)``.
            positives: Positive items, shape ``(M,)``.
            compared: Rows of the catalogue negatives and projected vectors, ``(M, D)`` each, and which pairs have such
                a vector, ``(M,)``.
            view: The model's embeddings.
        """
        rows, hard, present = compared
        if not bool(present.any()):
            return
        users, positives, rows, hard = (part[present] for part in (users, positives, rows, hard))
        length = rows.norm(dim=1)
        self.add("text_norm", (hard.norm(dim=1) / length.clamp_min(_TINY)).mean())
        self.add("text_cosine_negative", torch.cosine_similarity(hard, rows, dim=1).mean())
        self.add("text_cosine_positive", torch.cosine_similarity(hard, view.item_rows(positives), dim=1).mean())
        if not view.has_user_rows:
            return
        count = self._interactions.n_items - 1
        spread = torch.linspace(1, count, min(_SPREAD, count), device=rows.device).round().long()
        user_rows = view.user_rows(users)
        scores = user_rows @ view.item_rows(spread).T
        hard = hard * (length / hard.norm(dim=1).clamp_min(_TINY)).unsqueeze(1)
        for name, vectors in (("text_above_items", hard), ("negative_above_items", rows)):
            own = (user_rows * vectors).sum(dim=1, keepdim=True)
            self.add(name, (own > scores).float().mean())

    def _are_held_out(self, users: Tensor, ids: Tensor) -> Tensor:
        assert self._held_out is not None
        keys = users * self._interactions.n_items + ids
        at = torch.searchsorted(self._held_out, keys).clamp_(max=self._held_out.numel() - 1)
        return self._held_out[at] == keys

    def _beside_held_out(self, users: Tensor, negatives: Tensor, view: EmbeddingView) -> Tensor:
        """Which rows have a cosine above .99 to a held-out positive of their user, ``(M,), (M, D) -> (M,)``."""
        assert self._held_out is not None
        n_items = self._interactions.n_items
        begin, end = (torch.searchsorted(self._held_out, (users + more) * n_items) for more in (0, 1))
        most = torch.full_like(negatives[:, 0], -1.0)
        for place in range(int((end - begin).max()) if users.numel() else 0):
            there = torch.nonzero(begin + place < end).flatten()
            items = self._held_out[begin[there] + place] % n_items
            cosine = torch.cosine_similarity(negatives[there], view.item_rows(items), dim=1)
            most[there] = torch.maximum(most[there], cosine)
        return most > _AS_GOOD_AS_EQUAL

    def epoch_means(self) -> dict[str, float]:
        """Means since the last call, then start anew."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of a step's negatives, ``(M,) -> ()``."""
    return values.mean() if weights is None else (values * weights).sum() / weights.sum()
