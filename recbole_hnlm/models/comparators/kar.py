"""KAR (RecSys'24) for collaborative filtering: a mixture of experts over text joins each row.

Shapes: ``N`` users or items, ``D`` width of a row, ``S`` text width, ``X`` width of an expert's output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_hnlm.models.comparators.base import MergingComparator, Surroundings, two_layers
from recbole_hnlm.options.comparator import KAROptions


class ExpertMixture(nn.Module):
    r"""Experts over text vectors, some of them shared with the other side.

    .. math:: z = \sum_k \mathrm{softmax}(G t)_k E_k(t), \quad E_k: S \to H \to X

    Args:
        shared: Experts of both sides.
        own: How many of its own, each ``S -> hidden_width -> expert_width``.
        options: Widths.
        width: ``S``.
    """

    def __init__(self, shared: nn.ModuleList, own: int, options: KAROptions, width: int) -> None:
        super().__init__()
        self.shared = shared
        self.own = experts(own, options, width)
        self.gate = nn.Linear(width, len(shared) + own)
        nn.init.xavier_uniform_(self.gate.weight)

    def forward(self, text: Tensor) -> Tensor:
        """What the experts say together, ``(N, S) -> (N, X)``."""
        shares = torch.softmax(self.gate(text), dim=1)
        said = [expert(text) for expert in (*self.shared, *self.own)]
        return sum((shares[:, k : k + 1] * vectors for k, vectors in enumerate(said)), start=torch.zeros(()).to(text))


def experts(count: int, options: KAROptions, width: int) -> nn.ModuleList:
    """So many experts over text of this width."""
    made = (two_layers(width, options.hidden_width, options.expert_width, nn.LeakyReLU()) for _ in range(count))
    return nn.ModuleList(made)


class KAR(MergingComparator):
    """Rows ``W [e; z]`` in place of ``e``: what the experts say of the text, projected back to the row's width.

    ``W`` starts as the identity of ``e``, so that training starts from the model's own scale. Rows without text stay as
    they are.

    Args:
        options: Numbers and widths of the experts.
        around: The model and the text.
    """

    def __init__(self, options: KAROptions, around: Surroundings) -> None:
        super().__init__(around)
        width, rows = around.text.width, around.items[0].embedding_dim
        shared = experts(options.shared_experts, options, width)
        self.user_experts = ExpertMixture(shared, options.own_experts, options, width)
        self.item_experts = ExpertMixture(shared, options.own_experts, options, width)
        self.user_back = _projection_back(rows, options.expert_width)
        self.item_back = _projection_back(rows, options.expert_width)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Both tables, ``(U, D)`` and ``(I, D)``."""
        text = self.text
        users = self.user_back(torch.cat([self.user_rows, self.user_experts(text.users)], dim=1))
        items = self.item_back(torch.cat([self.item_rows, self.item_experts(text.items)], dim=1))
        return (
            torch.where(text.user_mask.unsqueeze(1), users, self.user_rows),
            torch.where(text.item_mask.unsqueeze(1), items, self.item_rows),
        )


def _projection_back(rows: int, added: int) -> nn.Linear:
    back = nn.Linear(rows + added, rows)
    with torch.no_grad():
        back.bias.zero_()
        nn.init.xavier_uniform_(back.weight)
        back.weight[:, :rows] = torch.eye(rows)
    return back
