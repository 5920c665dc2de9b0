"""RLMRec-Gen (WWW'24): some nodes' own rows are masked, and their text is told from what the graph brings them.

Shapes: ``U`` users, ``I`` items, ``D`` width of a row, ``S`` text width, ``F`` width of a final row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_hnlm.models.comparators.base import Comparator, Step, Surroundings, two_layers
from recbole_hnlm.models.contrast import contrast
from recbole_hnlm.options.comparator import RLMRecGenOptions


class RLMRecGen(Comparator):
    """Masks a new share of the nodes by a learned token in every step; ``F -> (S + F) / 2 -> S`` decodes their rows.

    All that the step computes sees the masks, as published: the ranking loss too, and SGL's other graphs. The term is
    the mean contrast of masked nodes that have text, users and items together, with each other's text. Evaluation masks
    nothing.

    Args:
        options: Weight, temperature, share, bound of the nodes that the term reads.
        around: The model and the text.
    """

    exchanges = True

    def __init__(self, options: RLMRecGenOptions, around: Surroundings) -> None:
        super().__init__()
        self.options = options
        self.text = around.text
        self.token = nn.Parameter(torch.empty(1, around.items[0].embedding_dim))
        nn.init.xavier_uniform_(self.token)
        width = around.text.width
        self.decoder = two_layers(around.row_width, (width + around.row_width) // 2, width, nn.LeakyReLU())
        self.masked: tuple[Tensor, Tensor] = (torch.empty(0, dtype=torch.long),) * 2
        """Ids of the users and of the items that the current step has masked."""

    def step_rows(self, users: Tensor, items: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The rows with the token in place of those drawn now; padding is never drawn."""
        n_users, n_items = users.shape[0] - 1, items.shape[0] - 1
        count = max(1, int(self.options.mask_share * (n_users + n_items)))
        nodes = torch.randperm(n_users + n_items, generator=generator, device=generator.device)[:count]
        self.masked = nodes[nodes < n_users] + 1, nodes[nodes >= n_users] - n_users + 1
        return self._with_token(users, self.masked[0]), self._with_token(items, self.masked[1])

    def _with_token(self, rows: Tensor, ids: Tensor) -> Tensor:
        return rows.index_copy(0, ids, self.token.expand(ids.numel(), -1).to(rows.dtype))

    def loss(self, step: Step) -> Tensor | None:
        """The weighted term of a step; None where no masked node has text."""
        text, (users, items) = self.text, self.masked
        users, items = users[text.user_mask[users]], items[text.item_mask[items]]
        rows = torch.cat([step.view.user_rows(users), step.view.item_rows(items)])
        targets = torch.cat([text.users[users], text.items[items]])
        if not rows.shape[0]:
            return None
        if rows.shape[0] > self.options.negatives:
            order = torch.randperm(rows.shape[0], generator=step.generator, device=step.generator.device)
            kept = order[: self.options.negatives]
            rows, targets = rows[kept], targets[kept]
        total = contrast(self.decoder(rows), targets, targets, self.options.temperature)
        return self.options.weight / rows.shape[0] * total
