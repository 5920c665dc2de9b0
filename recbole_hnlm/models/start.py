"""A start of the embeddings from text: leading principal components for items, means of their items for users."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.samplers import TrainingInteractions


def principal_components(vectors: Tensor, mask: Tensor, width: int) -> Tensor:
    """Coordinates of text vectors on their leading principal axes, unit variance, ``(N, S) -> (N, min(width, S))``.

    Signs are fixed, so that the result does not depend on the linear algebra library.
    """
    known = vectors[mask].double()
    centred = known - known.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending eigenvalues
    axes = axes.flip(1)[:, : min(width, axes.shape[1])]
    largest = axes.abs().argmax(dim=0)
    axes = axes * torch.sign(axes[largest, torch.arange(axes.shape[1], device=axes.device)])
    coordinates = torch.zeros(vectors.shape[0], axes.shape[1], dtype=torch.float64, device=vectors.device)
    coordinates[mask] = centred @ axes
    return (coordinates / coordinates[mask].std().clamp_min(1e-12)).float()


def start_from_text(
    items: list[nn.Embedding],
    users: list[nn.Embedding],
    text: TextVectors,
    interactions: TrainingInteractions,
    scale: float,
) -> None:
    """Overwrite embeddings by text. Items without text, users without such items and padding keep the model's own
    start, and so do columns for which the text has no component: zeros of both sides would never move.

    Args:
        items: The model's item embeddings; each takes the leading components up to its width.
        users: Its user embeddings; those that have the width of an item embedding are filled.
        text: Text vectors.
        interactions: Training pairs.
        scale: Standard deviation of the entries.
    """
    owner = torch.div(interactions.keys, interactions.n_items, rounding_mode="floor").to(text.items.device)
    item = interactions.keys.to(text.items.device) - owner * interactions.n_items
    told = torch.zeros(interactions.n_users, dtype=torch.bool, device=item.device)
    told[owner[text.item_mask[item]]] = True
    for slot, module in enumerate(items):
        start = principal_components(text.items, text.item_mask, module.embedding_dim) * scale
        filled = start.shape[1]
        with torch.no_grad():
            module.weight[text.item_mask, :filled] = start[text.item_mask]
            if slot < len(users) and users[slot].embedding_dim == module.embedding_dim:
                total = torch.zeros(interactions.n_users, filled, device=start.device)
                total.index_add_(0, owner, start[item])
                mean = total / interactions.user_counts.to(total.device).clamp_min(1).unsqueeze(1)
                users[slot].weight[told, :filled] = mean[told]
