"""The grounded negatives of training pairs by a dataset's internal ids, for samplers that draw catalogue items.

Legend: N pairs with a negative, G negatives of a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_hnlm.artefacts.blocks import text_blocks
from recbole_hnlm.artefacts.errors import unusable
from recbole_hnlm.artefacts.manifest import ArtefactPaths
from recbole_hnlm.artefacts.neg_text import NEG_TEXT, distinct_values, read_neg_text_manifest
from recbole_hnlm.artefacts.pairs import Tokens


@dataclass(frozen=True)
class GroundedPairs:
    """Catalogue items that stand for the hard negatives of training pairs.

    Attributes:
        users: Internal user id of each pair, shape ``(N,)``.
        items: Internal item id of each pair, shape ``(N,)``.
        negatives: Internal ids of its negatives, each once, 0 where there are no more, shape ``(N, G)``.
        pairs: Number of training pairs of the split.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    negatives: NDArray[np.int64]
    pairs: int

    @property
    def coverage(self) -> float:
        """Share of the training pairs with a negative; 0 for no pairs."""
        return len(self.users) / self.pairs if self.pairs else 0.0


def read_grounded(
    directory: str | Path, name: str, user_tokens: Tokens, item_tokens: Tokens, *, pairs_hash: str | None = None
) -> GroundedPairs:
    """The grounded negatives out of ``NAME.neg_text``, read in blocks; lines without an item are passed over.

    Args:
        directory: Where the files lie.
        name: Dataset.
        user_tokens: Token of each internal user id; entry 0 is padding.
        item_tokens: Token of each internal item id; entry 0 is padding.
        pairs_hash: Hash of the training pairs at hand; None takes a file of any split.

    Raises:
        MissingArtefactError: If there is none.
        ArtefactError: If it is damaged, of another split, or names a user or item that the dataset does not have.
    """
    manifest = read_neg_text_manifest(directory, name, pairs_hash=pairs_hash)
    path = ArtefactPaths(Path(directory), name).path("neg_text")
    user_ids, item_ids = (_ids_of(tokens) for tokens in (user_tokens, item_tokens))
    parts: list[NDArray[np.int64]] = []
    for block in text_blocks(path):
        columns = block.columns(len(NEG_TEXT))
        if columns is None:
            raise unusable(path, f"is damaged near line {block.first_line}: it does not have five columns", name)
        looked_up = []
        for column, ids, kind in ((0, user_ids, "user"), (1, item_ids, "item"), (3, item_ids, "item")):
            values, codes = distinct_values(columns[column])
            found = np.where(pd.Index(values) == "", 0, ids.get_indexer(pd.Index(values, dtype=object)))
            if (found < 0).any():
                lacking = values[int(np.argmin(found))]
                raise unusable(path, f"has {kind} {lacking!r}, which the dataset does not have", name)
            looked_up.append(found[codes])
        parts.append(np.stack(looked_up, axis=1))
    rows = np.concatenate(parts) if parts else np.zeros((0, 3), dtype=np.int64)
    return _grouped(rows[rows[:, 2] > 0], len(item_tokens), manifest.pairs)


def _ids_of(tokens: Tokens) -> pd.Index:
    """Internal ids by token; padding has no token."""
    names = np.asarray(tokens, dtype=object).copy()
    names[0] = object()
    return pd.Index(names)


def _grouped(rows: NDArray[np.int64], n_items: int, pairs: int) -> GroundedPairs:
    """Rows of user, item and negative, shape ``(n, 3)``, by pair."""
    rows = np.unique(rows, axis=0)
    keys, first, counts = np.unique(rows[:, 0] * n_items + rows[:, 1], return_index=True, return_counts=True)
    negatives = np.zeros((len(keys), int(counts.max(initial=1))), dtype=np.int64)
    pair = np.repeat(np.arange(len(keys)), counts)
    negatives[pair, np.arange(len(rows)) - first[pair]] = rows[:, 2]
    return GroundedPairs(rows[first, 0], rows[first, 1], negatives, pairs)
