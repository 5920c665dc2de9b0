"""Three rules as one writes them first: a RecBole model that reads its candidates from RecBole's own loader.

Every candidate's row is looked up and, for MixGCF, mixed; gradients reach all of them. Shapes: ``B`` pairs, ``C``
candidates, ``D`` width of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import BPR
from torch import Tensor


class PlainRule(BPR):
    """BPR on one negative of the loader's ``sample_num`` candidates of each pair."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.candidates = config["train_neg_sample_args"]["sample_num"]

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """RecBole's loss; the batch is ``C`` blocks of the same pairs."""
        count = len(interaction) // self.candidates
        users, items = interaction[self.USER_ID][:count], interaction[self.ITEM_ID][:count]
        candidates = interaction[self.NEG_ITEM_ID].view(self.candidates, count).T  # (B, C)
        user, positive = self.forward(users, items)
        negative = self.negative(user, positive, self.item_embedding(candidates))
        return self.loss((user * positive).sum(dim=1), (user * negative).sum(dim=1))

    def negative(self, user: Tensor, positive: Tensor, candidates: Tensor) -> Tensor:
        """The rule: rows ``(B, D)`` of users, ``(B, D)`` of positives and ``(B, C, D)`` of candidates to ``(B, D)``."""
        raise NotImplementedError


def _scores(user: Tensor, candidates: Tensor) -> Tensor:
    return (user.unsqueeze(1) * candidates).sum(dim=2)


def _taken(candidates: Tensor, chosen: Tensor) -> Tensor:
    return candidates[torch.arange(len(chosen)), chosen]


class PlainMixGCF(PlainRule):
    """The hardest of the candidates mixed with the positive (KDD 2021)."""

    def negative(self, user: Tensor, positive: Tensor, candidates: Tensor) -> Tensor:
        """One share a pair."""
        share = torch.rand(len(user), 1, 1)
        mixed = share * positive.unsqueeze(1) + (1 - share) * candidates
        return _taken(mixed, _scores(user, mixed).argmax(dim=1))


class PlainAHNS(PlainRule):
    """The candidate nearest to a target that falls with the positive's score (AAAI 2024)."""

    def negative(self, user: Tensor, positive: Tensor, candidates: Tensor) -> Tensor:
        """``0.1 / (s + 1)``, the published values."""
        target = 0.1 / ((user * positive).sum(dim=1, keepdim=True) + 1).clamp_min(1e-4)
        return _taken(candidates, (_scores(user, candidates) - target).abs().argmin(dim=1))


class PlainDINS(PlainRule):
    """The hardest candidate mixed with the positive dimension by dimension (CIKM 2023)."""

    def negative(self, user: Tensor, positive: Tensor, candidates: Tensor) -> Tensor:
        """At a boundary of 0.5."""
        hardest = _taken(candidates, _scores(user, candidates).argmax(dim=1))
        weight = torch.sigmoid(user * (hardest - positive) - torch.log(torch.tensor(0.5)))
        return positive + weight * (hardest - positive)
