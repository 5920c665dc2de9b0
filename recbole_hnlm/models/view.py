"""A model's embeddings as a sampler sees them during one step.

Shapes: ``B`` pairs, ``C`` candidates, ``D`` width of an item row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_hnlm.models.item_space import ItemSpace, LookupSpace
from recbole_hnlm.models.precision import widened, without_autocast

_GATHERED_FLOATS = 1 << 24  # most entries of a gathered (B, C, D) tensor: 64 MiB in float32


def gathered_scores(user_rows: Tensor, table: Tensor, items: Tensor) -> Tensor:
    """Inner products of each user row with its candidates' rows, ``(B, D), (N, D), (B, C) -> (B, C)``.

    Candidates are gathered by blocks of columns, so that memory stays bounded however large ``C`` is. In single
    precision under autocast too, for scores that differ in the third digit decide weights and choices.
    """
    batch, count = items.shape
    width = table.shape[1]
    block = max(1, _GATHERED_FLOATS // max(1, batch * width))
    columns = widened(user_rows).unsqueeze(2)
    parts = []
    with without_autocast(table.device):
        for start in range(0, count, block):
            ids = items[:, start : start + block]
            rows = table.index_select(0, ids.reshape(-1)).view(batch, -1, width)
            parts.append(torch.bmm(widened(rows), columns).squeeze(2))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class TableView:
    """View of a graph model: tables of one propagation, with hops where their mean is the final table.

    Args:
        users: Final user table, shape ``(n_users, D)``.
        items: Final item table, shape ``(n_items, D)``.
        hops: Item tables per hop, or empty.
    """

    has_user_rows = True

    def __init__(self, users: Tensor, items: Tensor, hops: list[Tensor]) -> None:
        self.users = users
        self.items = items
        self.hops = hops or [items]
        self.n_hops = len(self.hops)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Inner products of final rows, without gradient."""
        with torch.no_grad():
            return gathered_scores(functional.embedding(users, self.users), self.items, items)

    def score_hop(self, hop: int, users: Tensor, items: Tensor) -> Tensor:
        """Inner products with the items' rows at one hop, without gradient."""
        with torch.no_grad():
            return gathered_scores(functional.embedding(users, self.users), self.hops[hop], items)

    def user_rows(self, users: Tensor) -> Tensor:
        """Final user rows."""
        return functional.embedding(users, self.users)

    def item_rows(self, items: Tensor) -> Tensor:
        """Final item rows."""
        return functional.embedding(items, self.items)

    def item_hop_rows(self, hop: int, items: Tensor) -> Tensor:
        """Item rows at one hop."""
        return functional.embedding(items, self.hops[hop])


class LookupView:
    """View of a model without propagation. Scores are inner products where those are the model's scores, else
    ``predict``.

    Args:
        model: The model under training.
        space: Its item space.
    """

    n_hops = 1

    def __init__(self, model: nn.Module, space: ItemSpace) -> None:
        self.model = model
        self.space = space
        self.has_user_rows = space.inner

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """The model's scores, without gradient, without a change of mode or of global random state."""
        with torch.no_grad():
            if self.space.inner:
                return gathered_scores(self.space.users[0].weight[users], self.space.items[0].weight, items)
            return self._predict(users, items)

    def _predict(self, users: Tensor, items: Tensor) -> Tensor:
        model: Any = self.model
        pairs = self.space.features.batch(users.repeat_interleave(items.shape[1]), items.reshape(-1))
        devices = [users.device] if users.is_cuda else []
        with torch.random.fork_rng(devices=devices):  # dropout of a model in training mode must not shift its own draws
            return widened(model.predict(pairs)).view(items.shape)

    def score_hop(self, hop: int, users: Tensor, items: Tensor) -> Tensor:
        """The final scores; there is one hop."""
        return self.score(users, items)

    def user_rows(self, users: Tensor) -> Tensor:
        """Rows of the user embeddings side by side."""
        return self._rows(self.space.users, users)

    def item_rows(self, items: Tensor) -> Tensor:
        """Rows of the item embeddings side by side."""
        return self._rows(self.space.items, items)

    def item_hop_rows(self, hop: int, items: Tensor) -> Tensor:
        """The item's rows; there is one hop."""
        return self.item_rows(items)

    def _rows(self, modules: list[nn.Embedding], ids: Tensor) -> Tensor:
        assert isinstance(self.space, LookupSpace)
        return self.space.rows(modules, ids)


def hop_tables(recorded: list[Tensor], users: Tensor, items: Tensor) -> list[Tensor]:
    """Item tables per hop where the recorded hops average to the final tables, else none.

    LightGCN, SGL and NCL average, SimGCL from the second table on; NGCF concatenates, SpectralCF transforms and XSimGCL
    adds noise, so these count as one hop.
    """
    n_users = users.shape[0]
    tables = [table for table in recorded if table.shape[1] == items.shape[1]]
    rows = [table.detach()[n_users:] for table in tables]
    for first in (0, 1):
        count = _averaged_hops(rows[first:], items.detach())
        if count:
            return [table[n_users:] for table in tables[first : first + count]]
    return []


def _averaged_hops(tables: list[Tensor], items: Tensor) -> int:
    """How many leading tables average to ``items``, tried on a sample of rows; 0 where no number of them does."""
    sample = torch.arange(0, items.shape[0], max(1, items.shape[0] // 64), device=items.device)
    total = torch.zeros_like(items[sample])
    tolerance = 1e-5 * float(items[sample].abs().max())
    for count, table in enumerate(tables, start=1):  # NCL propagates further than what it averages
        total += table[sample]
        if count > 1 and torch.allclose(total / count, items[sample], rtol=1e-4, atol=tolerance):
            return count
    return 0
