"""RLMRec-Con (WWW'24): users, positives and negatives near their own projected text.

Shapes: ``M`` rows handed to the model, ``D`` width of a final row, ``S`` text width.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from recbole_hnlm.models.comparators.base import Comparator, Step, Surroundings, two_layers
from recbole_hnlm.models.contrast import contrast
from recbole_hnlm.options.comparator import RLMRecConOptions

logger = logging.getLogger(__name__)


class RLMRecCon(Comparator):
    """Weight over batch size, times the sum of three contrasts; an MLP ``S -> (S + D) / 2 -> D`` projects all texts.

    A user is contrasted with all users, items with the batch's. Users and items without text take no part. Where a
    model has no user rows of the items' width, items alone are aligned.

    Args:
        options: Weight, temperature, bound of the users.
        around: The model and the text.
    """

    def __init__(self, options: RLMRecConOptions, around: Surroundings) -> None:
        super().__init__()
        self.options = options
        self.text = around.text
        self.projector = two_layers(
            around.text.width, (around.text.width + around.row_width) // 2, around.row_width, nn.LeakyReLU()
        )
        self._told = False

    def loss(self, step: Step) -> Tensor:
        """The weighted term of a step."""
        terms = [self._items(step, step.positives), self._items(step, step.negatives)]
        if step.view.has_user_rows:
            terms.append(self._users(step))
        elif not self._told:
            logger.info("rlmrec_con aligns items alone: the model has no user rows of the items' width")
            self._told = True
        return self.options.weight / max(1, step.users.numel()) * torch.stack(terms).sum()

    def _items(self, step: Step, items: Tensor) -> Tensor:
        kept, place, counts = torch.unique(items[self.text.item_mask[items]], return_inverse=True, return_counts=True)
        targets = self.projector(self.text.items[kept])
        pool = targets.index_select(0, place)  # what stands twice in the batch counts twice, but is an anchor once
        return contrast(step.view.item_rows(kept), targets, pool, self.options.temperature, counts=counts)

    def _users(self, step: Step) -> Tensor:
        kept, counts = torch.unique(step.users[self.text.user_mask[step.users]], return_counts=True)
        known = torch.nonzero(self.text.user_mask).flatten()
        rows, temperature = step.view.user_rows(kept), self.options.temperature
        if known.numel() <= self.options.negatives:
            pool = self.projector(self.text.users[known])
            own = pool.index_select(0, torch.searchsorted(known, kept))
            return contrast(rows, own, pool, temperature, counts=counts)
        drawn = torch.randint(known.numel(), (self.options.negatives,), generator=step.generator, device=known.device)
        ids = known[drawn]
        own, pool = (self.projector(self.text.users[which]) for which in (kept, ids))
        return contrast(rows, own, pool, temperature, ids=(kept, ids), counts=counts)
