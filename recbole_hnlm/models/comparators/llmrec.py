"""The text part of LLMRec (WSDM'24): projected text on top of the rows, and extra triples of a like and a dislike.

Shapes: ``U`` users, ``I`` items, ``T`` best items of the reference, ``M`` rows handed to the model, ``D`` width.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_hnlm.models.comparators.base import MergingComparator, Step, Surroundings
from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.options.comparator import LLMRecOptions

logger = logging.getLogger(__name__)


def pick_by_text(text: TextVectors, top_items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A like and a dislike of every user without a model: of the reference's best items the nearest and the farthest
    in text.

    Args:
        text: Text vectors of items and users.
        top_items: Best items of each user, shape ``(U, T)``, 0 where a user has no more.

    Returns:
        Likes, dislikes and who has them, each of shape ``(U,)``; users without text, or with fewer than two best items
        that have some, have none.
    """
    known = text.item_mask[top_items]
    near = torch.einsum("ud,utd->ut", text.users, text.items[top_items])
    likes = near.masked_fill(~known, float("-inf")).argmax(dim=1, keepdim=True)
    dislikes = near.masked_fill(~known, float("inf")).argmin(dim=1, keepdim=True)
    has = text.user_mask & (known.sum(dim=1) > 1) & (likes != dislikes).squeeze(1)
    return top_items.gather(1, likes).squeeze(1), top_items.gather(1, dislikes).squeeze(1), has


def kept_triples(losses: Tensor, drop_share: float) -> Tensor:
    """The smallest losses: all but the ``drop_share`` of them that is largest, at least one, ``(M,) -> (m,)``."""
    count = max(1, round((1 - drop_share) * losses.numel()))
    return losses.topk(min(count, losses.numel()), largest=False).values


class LLMRec(MergingComparator):
    """Rows ``e + w P t / |P t|``, and BPR on extra triples of which a step leaves out those of the largest loss.

    The triples are read in the loss alone and are no interactions: nothing masks them at evaluation. They are a
    weighted term beside the batch's loss, of which nothing is left out; :class:`LLMRecOptions` tells how the authors'
    code differs.

    Args:
        options: Weights and shares.
        around: The model, the text and the reference's best items.
    """

    def __init__(self, options: LLMRecOptions, around: Surroundings) -> None:
        super().__init__(around)
        self.options = options
        width, rows = around.text.width, around.items[0].embedding_dim
        self.user_projection, self.item_projection = nn.Linear(width, rows), nn.Linear(width, rows)
        for layer in (self.user_projection, self.item_projection):
            nn.init.xavier_uniform_(layer.weight)
        if options.has_triples:
            self._pick(around)

    def _pick(self, around: Surroundings) -> None:
        assert around.top_items is not None
        if around.picks is not None:
            self.likes, self.dislikes = around.picks.unbind(1)
            self.has_pick = self.likes != self.dislikes
            told = "the chat model has picked a like and a dislike among"
        else:
            self.likes, self.dislikes, self.has_pick = pick_by_text(around.text, around.top_items)
            told = "llm_backend: template asks no model, so the nearest and the farthest in text are picked of"
        counts = around.top_items.shape[1], int(self.has_pick.sum()), len(self.has_pick) - 1
        logger.info("%s the reference's %d best items: %d of %d users", told, *counts)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Both tables, ``(U, D)`` and ``(I, D)``; rows without text stay as they are."""
        if self.options.text_weight == 0:
            return self.user_rows, self.item_rows
        text = self.text
        return (
            self.user_rows + self._added(self.user_projection(text.users), text.user_mask),
            self.item_rows + self._added(self.item_projection(text.items), text.item_mask),
        )

    def _added(self, projected: Tensor, mask: Tensor) -> Tensor:
        return functional.normalize(projected, dim=1) * (self.options.text_weight * mask.unsqueeze(1))

    def loss(self, step: Step) -> Tensor | None:
        """The extra triples' loss of a step; None where there are none."""
        if not self.options.has_triples:
            return None
        count = max(1, round(self.options.user_share * step.users.numel()))
        order = torch.randperm(step.users.numel(), generator=step.generator, device=step.generator.device)
        users = step.users[order[:count]]
        users = users[self.has_pick[users]]
        if not users.numel():
            return None
        gap = step.view.item_rows(self.likes[users]) - step.view.item_rows(self.dislikes[users])
        losses = functional.softplus(-(step.view.user_rows(users) * gap).sum(dim=1))
        return self.options.weight * kept_triples(losses, self.options.drop_share).mean()
