"""How much each negative of a ranking loss counts, by what its text has in common with the user's.

Shapes: ``U`` distinct users of a batch, ``N`` negatives shared by the batch, ``S`` text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_hnlm.models.precision import without_autocast
from recbole_hnlm.models.text import TextVectors

_LEAST_DEVIATION = 1e-5  # below it single precision rounds: all items are as near
_BLOCK = 1 << 14  # users whose deviations are worked out at once


class NegativeSparing:
    r"""Logarithms of the negatives' weights: the nearer to the user's text, the smaller.

    .. math:: \ln w_{uj} = -s\, z_{uj}, \qquad z_{uj} = \frac{\cos(t_u, t_j) - \mu_u}{\sigma_u}

    with the mean and the standard deviation of the user's cosines over all items with text. What lies near to a user's
    text is more often a positive that was held out or not yet found than other items are, so it is pushed down less.

    Args:
        text: Text vectors of the run.
        strength: ``s``; 0 weighs all alike, below 0 the near ones count more.
    """

    def __init__(self, text: TextVectors, strength: float) -> None:
        self.text = text
        self.strength = strength
        self._mean, self._deviation = self._spread()

    def _spread(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each user's products with all items that have text, without the products."""
        known = self.text.item_mask
        items = self.text.items[known] * self.text.item_scale[known].unsqueeze(1)
        centre = items.mean(dim=0)
        items = items - centre
        covariance = items.T @ items / max(1, len(items))
        blocks = self.text.users.split(_BLOCK)
        squares = torch.cat([((block @ covariance) * block).sum(dim=1) for block in blocks])
        return self.text.users @ centre, squares.clamp_min(0).sqrt()

    @torch.no_grad()
    def log_weights(self, users: Tensor, items: Tensor) -> Tensor:
        """Of users with items, ``(U,), (N,) -> (U, N)``; 0 where one of them has no text."""
        text = self.text
        known = text.user_mask[users] & (self._deviation[users] > _LEAST_DEVIATION)
        scale = torch.where(known, -self.strength / self._deviation[users], 0.0).unsqueeze(1)
        # the mean is one more column, met by 1 in items with text and by 0 in those without: one product does it all
        left = torch.cat([text.users[users], -self._mean[users].unsqueeze(1)], dim=1) * scale
        units = text.items[items] * text.item_scale[items].unsqueeze(1)
        right = torch.cat([units, text.item_mask[items].to(units.dtype).unsqueeze(1)], dim=1)
        with without_autocast(users.device):
            return left @ right.T
