"""Eq. 7 of HNLMRec (arXiv 2504.04726), and other ways to bring a pair's hard-negative vector into its negatives.

Shapes: ``M`` rows handed to the model, ``K`` vectors of a pair, ``D`` width of an item row.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from recbole_hnlm.models.head import HardNegativeHead
from recbole_hnlm.samplers import EmbeddingView, Negatives

logger = logging.getLogger(__name__)


def negatives_with_text(
    head: HardNegativeHead,
    negatives: Negatives,
    users: Tensor,
    positives: Tensor,
    view: EmbeddingView,
    vector_rows: Tensor | None = None,
) -> Negatives:
    """The same negatives with Eq. 7 applied; unchanged at ``alpha`` 0.

    Args:
        head: What the wrapper adds to the model.
        negatives: What :meth:`HardNegativeHead.draw` gave.
        users: User ids, shape ``(M,)``.
        positives: Positive items, likewise.
        view: The model's embeddings.
        vector_rows: Where the pairs' vectors are, shape ``(M, K)``, or None to look them up.
    """
    text = head.text_head
    if head.alpha == 0 or text is None:
        return negatives
    if head.epoch is None and text.options.alpha_epochs and not head.warned:
        logger.warning("no trainer of recbole_hnlm tells the epoch, so hnlm_alpha_epochs has no effect")
        head.warned = True
    rows = negatives.rows if negatives.rows is not None else view.item_rows(negatives.ids.squeeze(1))
    if vector_rows is None:
        vector_rows = text.text.rows_of(users, positives)
    hard, present = text.hard_rows(vector_rows)
    head.statistics.count_coverage(present)
    looks = head.statistics.looks_next
    if looks:
        head.statistics.place_text(users, positives, (rows, hard, present), view)
    hard = text.like(rows, hard)
    share, use = head.alpha * present, text.options.use
    if view.has_user_rows and (use == "compete" or looks):
        above = _scored_above(users, rows, hard, view)
        head.statistics.add("text_above_negative", (above & present).float().mean())
        share = share * above if use == "compete" else share
    if use == "extra":
        both = torch.cat([rows, torch.where(present.unsqueeze(1), hard, rows)])
        importance = torch.stack([torch.ones_like(share), share], dim=1)
        return Negatives(negatives.ids.repeat(1, 2), rows=both, importance=importance)
    return Negatives(negatives.ids, rows=text.mix(rows, hard, share))


@torch.no_grad()
def _scored_above(users: Tensor, rows: Tensor, hard: Tensor, view: EmbeddingView) -> Tensor:
    """Pairs whose user scores the projected vector above the catalogue negative, ``(M,)``."""
    above: Tensor = (view.user_rows(users) * (hard - rows)).sum(dim=1) > 0
    return above
