"""The projector from text space to the recommender's space, Eq. 6 of HNLMRec (arXiv 2504.04726)."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Two-layer MLP ``S -> H -> D`` with ReLU: ``W2 . ReLU(W1 t + b1) + b2``.

    Args:
        text_width: ``S``.
        hidden_width: ``H``.
        row_width: ``D``, the summed widths of the model's item tables.
    """

    def __init__(self, text_width: int, hidden_width: int, row_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(text_width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, row_width))

    def forward(self, text: Tensor) -> Tensor:
        """Text vectors in the recommender's space, ``(..., S) -> (..., D)``."""
        projected: Tensor = self.layers(text)
        return projected
