"""Each user's leading candidates, and what speaks for their being false negatives (DTL-NS).

Shapes: ``U`` users including padding, ``T`` candidates of a user, ``N`` candidates of the longest history in a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_hnlm.samplers.interactions import TrainingInteractions
from recbole_hnlm.samplers.tree_codes import TreeCodes

CANDIDATES = 50
_NEAREST = 3
_BLOCK = 1 << 22  # entries of a block's largest array
FEATURES = (
    "max LCP, collaborative", "mean of top 3 LCP, collaborative", "max LCP, semantic", "mean of top 3 LCP, semantic",
    "reference score", "log popularity",
)  # fmt: skip


@dataclass(frozen=True)
class Candidates:
    """The unseen items that the reference model ranks first.

    Attributes:
        users: The users, shape ``(U,)``; those with a training pair.
        items: Item ids, best first, 0 where a user has no more, shape ``(U, T)``.
        scores: Scores of the reference model, likewise.
    """

    users: Tensor
    items: Tensor
    scores: Tensor

    @property
    def present(self) -> Tensor:
        """Which places hold an item, bool, shape ``(U, T)``."""
        return self.items > 0


@dataclass(frozen=True)
class Reference:
    """Final tables of the frozen reference model.

    Attributes:
        users: Shape ``(n_users, D)``.
        items: Shape ``(n_items, D)``.
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]


def leading_candidates(reference: Reference, seen: TrainingInteractions, count: int = CANDIDATES) -> Candidates:
    """The ``count`` unseen items of the highest inner product of every user that has a training pair."""
    users = torch.nonzero(seen.user_counts > 0).flatten()
    count = min(count, seen.n_items - 1)
    items = torch.zeros(users.numel(), count, dtype=torch.int64)
    scores = torch.zeros(users.numel(), count)
    item_rows = torch.from_numpy(reference.items)
    step = max(1, _BLOCK // seen.n_items)
    for start in range(0, users.numel(), step):
        block = users[start : start + step]
        table = torch.from_numpy(reference.users)[block] @ item_rows.T  # (b, n_items)
        row, history = _histories(block, seen)
        table[row, history] = -torch.inf
        table[:, 0] = -torch.inf
        best = table.topk(count, dim=1)
        unseen = best.values > -torch.inf
        items[start : start + step] = torch.where(unseen, best.indices, 0)
        scores[start : start + step] = torch.where(unseen, best.values, 0.0)
    return Candidates(users, items, scores)


def candidate_features(
    candidates: Candidates, seen: TrainingInteractions, trees: tuple[TreeCodes, TreeCodes]
) -> Tensor:
    """What the score of a false negative is made of, in the order of :data:`FEATURES`, shape ``(U, T, 6)``.

    Scores of the reference model have mean 0 and deviation 1 over a user's candidates.
    """
    parts = [near for codes in trees for near in shared_with_history(candidates, seen, codes)]
    present = candidates.present
    count = present.sum(dim=1, keepdim=True).clamp_min(1)
    mean = (candidates.scores * present).sum(dim=1, keepdim=True) / count
    centred = (candidates.scores - mean) * present
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    parts.append(centred / deviation.clamp_min(1e-12))
    parts.append(torch.log1p(seen.item_counts[candidates.items].float()))
    return torch.stack(parts, dim=2)


def shared_with_history(candidates: Candidates, seen: TrainingInteractions, codes: TreeCodes) -> tuple[Tensor, Tensor]:
    """Path that candidates share with their user's items: the most of it, and the mean of the three largest.

    Users are taken in the order of their histories' lengths, so that little is padded.

    Returns:
        Two tensors of shape ``(U, T)``; users with fewer than three items have the mean of those.
    """
    users, (rows, width) = candidates.users, candidates.items.shape
    most, mean = torch.zeros(rows, width), torch.zeros(rows, width)
    lengths = seen.user_counts[users]
    order = torch.argsort(lengths, stable=True)
    start = 0
    while start < rows:
        longest = int(lengths[order[start]])
        step = max(1, _BLOCK // (width * max(1, longest)))
        while step > 1:  # the block ends with a longer history than it begins with
            longest = int(lengths[order[min(start + step, rows) - 1]])
            if step * width * longest <= 2 * _BLOCK:
                break
            step = step // 2
        block = order[start : start + step]
        history = _padded_histories(users[block], seen)  # (b, N)
        shared = codes.shared(candidates.items[block].unsqueeze(2), history.unsqueeze(1))  # (b, T, N), padding has 0
        top = shared.topk(min(_NEAREST, history.shape[1]), dim=2).values
        most[block] = top[:, :, 0]
        mean[block] = top.sum(dim=2) / lengths[block].clamp(1, _NEAREST).unsqueeze(1)
        start += len(block)
    return most, mean


def _histories(users: Tensor, seen: TrainingInteractions) -> tuple[Tensor, Tensor]:
    """Row among ``users`` and item of each of their training pairs."""
    counts = seen.user_counts[users]
    row = torch.repeat_interleave(torch.arange(users.numel()), counts)
    first = torch.cumsum(counts, 0) - counts
    place = seen.user_starts[users][row] + torch.arange(row.numel()) - first[row]
    return row, torch.remainder(seen.keys[place], seen.n_items)


def _padded_histories(users: Tensor, seen: TrainingInteractions) -> Tensor:
    """Training items of users side by side, 0 behind the shorter histories, ``(B, N)``."""
    row, items = _histories(users, seen)
    counts = seen.user_counts[users]
    place = torch.arange(row.numel()) - (torch.cumsum(counts, 0) - counts)[row]
    table = torch.zeros(users.numel(), max(1, int(counts.max())), dtype=torch.int64)
    table[row, place] = items
    return table
