"""Does the query vector find its label: loss and retrieval accuracy over pairs that were held out of tuning.

Legend: V held-out pairs, S width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.llm.hybrid.contrast import length_batches
from recbole_hnlm.llm.hybrid.encoder import HybridEncoder, encode
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder

CHOICES = 100
"""Labels that a query vector chooses from, its own among them; chance finds it once in so many times."""
_BUDGET = 4096
SoftTokens = Literal["own", "zero", "shuffled"]


@dataclass(frozen=True)
class Retrieval:
    """What validation found.

    Attributes:
        loss: InfoNCE over a pair's label, the other labels it was compared with, and its own item.
        accuracy: Share of the pairs whose own label is the nearest of :data:`CHOICES`.
        pairs: Pairs that were looked at, V.
        choices: Labels that each had to choose from, fewer than :data:`CHOICES` in a small dataset.
    """

    loss: float
    accuracy: float
    pairs: int
    choices: int


class HeldOutPairs:
    """Held-out pairs of one dataset, each with the labels that it has to tell from its own."""

    def __init__(self, builder: PromptBuilder, places: NDArray[np.int64], generator: np.random.Generator) -> None:
        """Draw the other labels, once, from the labels of all the dataset's pairs.

        Popular items are labels more often, and are drawn more often just so: a model that only knows what is popular
        gains nothing.

        Raises:
            ValueError: If all pairs have the same label.
        """
        self._builder, self._places = builder, places
        pairs = builder.pairs
        texts = pairs.text_of_item[pairs.hard_item_of_pair[pairs.trainable]]
        self._texts, first = np.unique(pairs.text_of_item, return_index=True)
        self._items = first[self._texts >= 0]
        self._texts = self._texts[self._texts >= 0]
        self._labels = self._column(pairs.hard_item_of_pair[places])
        self._own = self._column(pairs.item_of_pair[places])
        weights = np.bincount(np.searchsorted(self._texts, texts), minlength=len(self._texts)).astype(np.float64)
        self.choices = min(CHOICES, int((weights > 0).sum()))
        if self.choices < 2:
            raise ValueError(
                f"{pairs.name}: all pairs have the same hard negative; give the teacher more draws or items"
            )
        self._others = np.stack([self._draw(weights, label, generator) for label in self._labels.tolist()])
        self._shuffle = places[generator.permutation(len(places))]

    def measure(self, model: HybridEncoder, temperature: float, soft_tokens: SoftTokens = "own") -> Retrieval:
        """Loss and accuracy of ``model``, whose mode is left as it was.

        Args:
            model: What makes vectors.
            temperature: Of the loss.
            soft_tokens: ``own``; ``zero`` puts zeros in their place, ``shuffled`` those of other held-out pairs.
        """
        training, blank = model.training, model.blank
        model.eval()
        model.blank = soft_tokens == "zero"
        try:
            queries, items = self._queries(model, soft_tokens), self._item_vectors(model)
        finally:
            model.train(training)
            model.blank = blank
        label = (queries * items[self._labels]).sum(axis=1)  # (V,)
        others = np.einsum("vs,vcs->vc", queries, items[self._others])
        own = np.where(self._own >= 0, (queries * items[self._own]).sum(axis=1), -np.inf)
        logits = np.column_stack([label, others, own]).astype(np.float64) / temperature
        top = logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - logits[:, 0]
        nearest = (label[:, None] > others).all(axis=1)
        return Retrieval(float(losses.mean()), float(nearest.mean()), len(label), self.choices)

    def _column(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each item's text among the distinct ones, -1 without text."""
        texts = self._builder.pairs.text_of_item[items]
        return np.where(texts >= 0, np.searchsorted(self._texts, texts), -1)

    def _draw(self, weights: NDArray[np.float64], label: int, generator: np.random.Generator) -> NDArray[np.int64]:
        others = weights.copy()
        others[label] = 0
        return generator.choice(len(weights), self.choices - 1, replace=False, p=others / others.sum())

    def _queries(self, model: HybridEncoder, soft_tokens: SoftTokens) -> NDArray[np.float32]:
        soft_of = self._shuffle if soft_tokens == "shuffled" else self._places
        queries = np.empty((len(self._places), model.width), dtype=np.float32)
        for batch in length_batches(self._builder.lengths(self._places).tolist(), _BUDGET):
            queries[batch] = encode(model, self._builder.prompts(self._places[batch], soft_of[batch]))
        return queries

    def _item_vectors(self, model: HybridEncoder) -> NDArray[np.float32]:
        """Vectors of all texts that any pair looks at, others zero."""
        used = np.unique(np.concatenate([self._labels, self._others.ravel(), self._own[self._own >= 0]]))
        vectors = np.zeros((len(self._texts), model.width), dtype=np.float32)
        items = self._items[used]
        for batch in length_batches(self._builder.item_lengths(items).tolist(), _BUDGET):
            vectors[used[batch]] = encode(model, self._builder.items(items[batch]))
        return vectors


def overall(found: list[Retrieval]) -> Retrieval:
    """The mean over all pairs of several datasets."""
    counts = np.array([part.pairs for part in found], dtype=np.float64)
    loss, accuracy = (float(np.average([getattr(p, k) for p in found], weights=counts)) for k in ("loss", "accuracy"))
    return Retrieval(loss, accuracy, int(counts.sum()), min(part.choices for part in found))
