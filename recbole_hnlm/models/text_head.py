"""What text adds to a model: a projector, Eq. 7's mix into negatives, the alignment (HNLMRec, arXiv 2504.04726).

Shapes: ``B`` pairs, ``M`` rows handed to the model, ``D`` width of an item row, ``K`` hard negatives per pair.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from recbole_hnlm.models.losses import HardPairLoss, InfoNCELoss, unit_rows
from recbole_hnlm.models.projector import Projector
from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.samplers import EmbeddingView

logger = logging.getLogger(__name__)


class _Side:
    """Items or users of a batch that have text: their ids, rows and text vectors."""

    def __init__(self, rows: Tensor, text: Tensor, mask: Tensor, ids: Tensor) -> None:
        known = torch.nonzero(mask.index_select(0, ids)).flatten()
        if known.numel() < ids.numel():
            rows, ids = rows.index_select(0, known), ids.index_select(0, known)
        self.ids = ids
        self.rows = rows
        self.text = text.index_select(0, ids)


class TextHead(nn.Module):
    """Projects text into the recommender's space, mixes it into negatives and aligns positives with it.

    Args:
        options: The text part's options.
        text: Text vectors of the run.
        row_width: ``D``.
        seed: Seed of the projector's start; global random state is left alone.
        blocks: How often the rows of a step hold every pair, one block of all pairs after another.
    """

    def __init__(self, options: HNLMOptions, text: TextVectors, row_width: int, seed: int, blocks: int = 1) -> None:
        super().__init__()
        self.options = options
        self.text = text
        self.blocks = blocks
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA devices too
            self.projector = Projector(text.width, options.projector_width, row_width)
        if options.preset == "frozen":
            self.projector.requires_grad_(False)
        elif options.alpha > 0 and options.projector_untrained:
            logger.warning("no loss trains the projector in these settings, as if hnlm_preset were frozen")
        self.info_nce = InfoNCELoss(options.temperature)
        self.hard_pair = HardPairLoss(options.temperature)

    def hard_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Projected hard-negative vectors of pairs and which pairs have one, ``(M, D)`` and ``(M,)``."""
        pairs = self.text.pair_vectors(rows)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.options.detached):
            projected: Tensor = self.projector(pairs.vectors)
            return projected.index_select(0, pairs.index), pairs.present

    def mix(self, rows: Tensor, hard: Tensor, share: Tensor) -> Tensor:
        """Eq. 7, ``(1 - alpha) e_j + alpha e_hard``, each pair with its ``share``, ``(M,)``, as alpha: ``(M, D)``."""
        alpha = share.unsqueeze(1)
        return (1 - alpha) * rows + alpha * hard

    def like(self, rows: Tensor, hard: Tensor) -> Tensor:
        """``hard`` at the norms of ``rows`` where the options match them, ``(M, D)``."""
        if not self.options.norm_matched:
            return hard
        length = rows.detach().norm(dim=1, keepdim=True)
        return hard * (length / hard.norm(dim=1, keepdim=True).clamp_min(1e-12))

    def alignment(
        self, view: EmbeddingView, users: Tensor, positives: Tensor, rows: Tensor | None = None
    ) -> Tensor | None:
        """The weighted alignment loss of a batch, or None where both weights are 0.

        Args:
            view: The model's embeddings.
            users: User ids, shape ``(M,)``.
            positives: Positive items, likewise.
            rows: Where the pairs' vectors are, or None to look them up.
        """
        options = self.options
        pairs = users.numel() // self.blocks  # further blocks are copies, and no negatives of each other's pairs
        count = min(options.aligned_pairs or pairs, pairs)
        users, positives = users[:count], positives[:count]  # the loader has shuffled them
        weight = options.effective_alignment_weight
        hard_weight = options.pair_alignment_weight
        total: Tensor | None = None
        if weight > 0 and options.preset == "anchored":
            total = weight * self._anchor(view, users, positives)
        if hard_weight > 0:
            rows = self.text.rows_of(users, positives) if rows is None else rows[:count]
            hard = hard_weight * self._hard(view, users, positives, rows)
            total = hard if total is None else total + hard
        return total

    def _anchor(self, view: EmbeddingView, users: Tensor, positives: Tensor) -> Tensor:
        """InfoNCE of items, and of users where user and item rows share a width, with their own projected text."""
        sides = [_Side(view.item_rows(positives), self.text.items, self.text.item_mask, positives)]
        if view.has_user_rows:
            sides.append(_Side(view.user_rows(users), self.text.users, self.text.user_mask, users))
        texts = torch.cat([side.text for side in sides])  # projected together: half the calls
        targets = unit_rows(self.projector(texts), scale_free=False).split([side.ids.numel() for side in sides])
        free = self.options.scale_free
        losses = [
            self.info_nce(unit_rows(side.rows, free), target, side.ids)
            for side, target in zip(sides, targets, strict=True)
        ]
        return torch.stack(losses).sum()

    def _hard(self, view: EmbeddingView, users: Tensor, positives: Tensor, rows: Tensor) -> Tensor:
        pairs = self.text.pair_vectors(rows)
        kept = torch.nonzero(pairs.present).flatten()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.options.detached):
            hard = self.projector(pairs.vectors)[pairs.index[kept]]
        free = self.options.scale_free
        user_rows = unit_rows(view.user_rows(users[kept]), free)
        item_rows = unit_rows(view.item_rows(positives[kept]), free)
        return self.hard_pair(user_rows, item_rows, unit_rows(hard, scale_free=False))
