"""A start of the embeddings from text: leading principal components for items, spread over the training pairs where
asked, and means of their items for users."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.samplers import TrainingInteractions

_BLOCK = 1 << 14  # items in double precision at once: 16 MiB at a width of 128
_NO_COMPONENT = 1e-6
"""Largest entry, in standard deviations of all, of a column that holds rounding and no text."""


def principal_components(vectors: Tensor, mask: Tensor, width: int) -> Tensor:
    """Coordinates of text vectors on their leading principal axes, unit variance, ``(N, S) -> (N, min(width, S))``.

    Signs are fixed, so that the result does not depend on the linear algebra library.
    """
    blocks = list(zip(vectors.split(_BLOCK), mask.split(_BLOCK), strict=True))  # in double precision one at a time
    count = mask.sum()
    mean = torch.stack([block[known].double().sum(dim=0) for block, known in blocks]).sum(dim=0) / count
    scatter = torch.zeros(len(mean), len(mean), dtype=mean.dtype, device=mean.device)
    for block, known in blocks:
        centred = block[known].double() - mean
        scatter += centred.T @ centred
    _, axes = torch.linalg.eigh(scatter)  # ascending eigenvalues
    axes = axes.flip(1)[:, : min(width, axes.shape[1])]
    largest = axes.abs().argmax(dim=0)
    axes = axes * torch.sign(axes[largest, torch.arange(axes.shape[1], device=axes.device)])
    squares = ((axes.T @ scatter) * axes.T).sum()  # of all coordinates, whose mean is 0
    deviation = (squares / (count * axes.shape[1] - 1)).clamp_min(1e-24).sqrt()
    coordinates = torch.zeros(vectors.shape[0], axes.shape[1], device=vectors.device)
    for place, (block, known) in zip(coordinates.split(_BLOCK), blocks, strict=True):
        place[known] = ((block[known].double() - mean) @ axes / deviation).float()
    return coordinates


class PairMeans:
    """Means over training pairs, by products with a sparse matrix: no row is copied once a pair.

    Args:
        interactions: Training pairs.
    """

    def __init__(self, interactions: TrainingInteractions) -> None:
        items = torch.remainder(interactions.keys, interactions.n_items).cpu().numpy()
        self.per_user, self.per_item = (
            counts.cpu().numpy() for counts in (interactions.user_counts, interactions.item_counts)
        )
        starts = np.concatenate([[0], np.cumsum(self.per_user)])
        ones = np.ones(len(items), dtype=np.float32)
        self._pairs = sparse.csr_matrix((ones, items, starts), shape=(interactions.n_users, interactions.n_items))

    def of_users(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean row of each user's items, ``(N, D) -> (U, D)``; zeros for users without a pair."""
        return _divided(self._pairs @ rows, self.per_user)

    def of_items(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean row of each item's users, ``(U, D) -> (N, D)``; zeros for items without a pair."""
        return _divided(self._pairs.T @ rows, self.per_item)


def _divided(sums: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    sums /= np.maximum(counts, 1).astype(np.float32)[:, None]
    return sums


def spread(rows: NDArray[np.float32], mask: NDArray[np.bool_], means: PairMeans, hops: int) -> NDArray[np.float32]:
    """The sum of item rows and of what they become hop by hop, each hop the mean over an item's users of the mean over
    their items: what text says of an item, and what it says of items bought together with it.

    Each hop is centred and brought back to unit variance, or it would shrink towards the one vector that all share.

    Args:
        rows: Item rows of unit variance over ``mask``, shape ``(N, D)``.
        mask: Items that have a row, shape ``(N,)``; all others are zeros, and stay so.
        means: Means over training pairs.
        hops: How often.

    Returns:
        Shape ``(N, D)``, unit variance over ``mask``; with no hop, or no such item in a pair, the rows as they are.
    """
    reached = mask & (means.per_item > 0)
    if hops == 0 or not reached.any():
        return rows
    total, hop = rows.copy(), rows
    for _ in range(hops):
        hop = means.of_items(means.of_users(hop))
        hop[reached] -= hop[reached].mean(axis=0)
        hop[~reached] = 0
        hop /= max(float(hop[reached].std()), 1e-12)
        total += hop
    return total / max(float(total[mask].std()), 1e-12)


def start_from_text(
    items: list[nn.Embedding],
    users: list[nn.Embedding],
    text: TextVectors,
    interactions: TrainingInteractions,
    *,
    scale: float,
    hops: int = 0,
) -> None:
    """Overwrite embeddings by text. Items without text, users without such items and padding keep the model's own
    start, and so do columns for which the text has no component, as of few distinct texts: zeros of both sides would
    never move.

    Args:
        items: The model's item embeddings; each takes the leading components up to its width.
        users: Its user embeddings; those that have the width of an item embedding are filled.
        text: Text vectors.
        interactions: Training pairs.
        scale: Standard deviation of the entries.
        hops: How far text is spread over the training pairs (:func:`spread`).
    """
    means, mask = PairMeans(interactions), text.item_mask.cpu().numpy()
    told = torch.from_numpy(means.of_users(mask[:, None].astype(np.float32))[:, 0] > 0)
    for slot, module in enumerate(items):
        components = principal_components(text.items, text.item_mask, module.embedding_dim)
        start = spread(components.cpu().numpy(), mask, means, hops) * np.float32(scale)
        largest = np.maximum(start.max(axis=0), -start.min(axis=0))
        filled = int((largest > _NO_COMPONENT * scale).sum())  # the first ones
        with torch.no_grad():
            module.weight[text.item_mask, :filled] = torch.from_numpy(start[mask][:, :filled]).to(module.weight)
            if slot < len(users) and users[slot].embedding_dim == module.embedding_dim:
                mean = torch.from_numpy(means.of_users(start[:, :filled]))
                users[slot].weight[told.to(users[slot].weight.device), :filled] = mean[told].to(users[slot].weight)
