"""InfoNCE over hard negatives (HNLMRec, Eq. 12) and the batches it is taken over.

Legend: B pairs of a step, M distinct item texts of it, S width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from recbole_hnlm.llm.hybrid.encoder import HybridEncoder
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder, TokenBatch


@dataclass(frozen=True)
class ContrastiveBatch:
    """The prompts of a step and every item text they are compared with.

    Attributes:
        prompts: Prompts of the pairs, B sequences.
        items: Texts of items, M sequences.
        targets: Column of each pair's label, shape ``(B,)``.
        allowed: Which columns count for which pair, its label included, shape ``(B, M)``.
    """

    prompts: TokenBatch
    items: TokenBatch
    targets: Tensor
    allowed: Tensor

    def to(self, device: Any, non_blocking: bool = False) -> ContrastiveBatch:
        """The same on ``device``."""
        prompts, items = (part.to(device, non_blocking) for part in (self.prompts, self.items))
        targets, allowed = (part.to(device, non_blocking=non_blocking) for part in (self.targets, self.allowed))
        return ContrastiveBatch(prompts, items, targets, allowed)


def contrastive_batch(builder: PromptBuilder, places: NDArray[np.int64], extra: NDArray[np.int64]) -> ContrastiveBatch:
    """The batch of the pairs at ``places``.

    Negatives of a pair are its own item's text, the labels of the other pairs and the ``extra`` items; not those with
    the text of its label, nor, but for its own item, those with the text of any training item of its user.

    Args:
        builder: Of the dataset.
        places: Trainable pairs, shape ``(B,)``.
        extra: Items that are negatives of every pair, shape ``(N,)``.
    """
    pairs, text_of = builder.pairs, builder.pairs.text_of_item
    labels, own = pairs.hard_item_of_pair[places], pairs.item_of_pair[places]
    every = np.concatenate([labels, own, extra])
    every = every[text_of[every] >= 0]
    texts, first = np.unique(text_of[every], return_index=True)
    targets = np.searchsorted(texts, text_of[labels])
    shared = np.isin(texts, text_of[np.concatenate([labels, extra])])
    allowed = np.repeat(shared[None], len(places), axis=0)
    for row, user in enumerate(pairs.user_of_pair[places].tolist()):
        allowed[row] &= ~np.isin(texts, text_of[pairs.positives(user)])
        allowed[row] |= texts == text_of[own[row]]
    allowed[np.arange(len(places)), targets] = True
    return ContrastiveBatch(
        builder.prompts(places), builder.items(every[first]), torch.from_numpy(targets), torch.from_numpy(allowed)
    )


def info_nce(queries: Tensor, items: Tensor, targets: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """``-ln exp(q.t+ / tau) / sum exp(q.t / tau)``, mean over the pairs; vectors of unit length.

    Shape:
        - queries: ``(B, S)``
        - items: ``(M, S)``
        - targets: ``(B,)``, column of the positive
        - allowed: ``(B, M)``, columns of the sum, the positive's included

    >>> eye = torch.eye(2)
    >>> round(info_nce(eye, eye, torch.tensor([0, 1]), torch.ones(2, 2, dtype=torch.bool), 1.0).item(), 4)
    0.3133
    """
    logits = queries @ items.T / temperature
    return functional.cross_entropy(logits.masked_fill(~allowed, float("-inf")), targets)


def contrastive_loss(model: HybridEncoder, batch: ContrastiveBatch, temperature: float) -> Tensor:
    """:func:`info_nce` of a batch on the model's device."""
    return info_nce(model(batch.prompts), model(batch.items), batch.targets, batch.allowed, temperature)


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places of sequences in batches of at most ``budget`` tokens with padding, longest first, ties in order.

    A longer sequence is a batch of its own.
    """
    batch: list[int] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        if not batch:
            longest = lengths[place]
        batch.append(place)
    if batch:
        yield batch
