"""Choosing hop by hop, for rules that make rows of a graph model's hops.

Shapes: ``B`` pairs, ``C`` candidates per pair, ``H`` hops of a graph model (1 without).
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_hnlm.samplers.base import EmbeddingView


def hardest_per_hop(users: Tensor, candidates: Tensor, view: EmbeddingView) -> list[Tensor]:
    """For each hop the candidate with the highest inner product with the user's final row, ``H`` tensors ``(B,)``."""
    chosen = []
    with torch.no_grad():
        for hop in range(view.n_hops):
            scores = view.score_hop(hop, users, candidates)
            chosen.append(candidates.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1))
    return chosen
