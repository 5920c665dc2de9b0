"""The catalogue items nearest to the vectors of pairs, as ``NAME.neg_text``, for the id-based sampler ``semantic``.

Legend: P training pairs, n items, W width of the items' space.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.neg_text import NegativeTable, NegTextManifest, write_neg_text
from recbole_hnlm.llm.build import BuildTexts
from recbole_hnlm.llm.grounding import GroundingInput, ground
from recbole_hnlm.options.text import GroundingOptions


def write_grounded(
    output: tuple[str | Path, str],
    texts: BuildTexts,
    vectors: NDArray[np.float32],
    items: NDArray[np.float32],
    count: int,
    provenance: Mapping[str, Any],
) -> NegTextManifest:
    """Ground each pair's vector to ``count`` items: none that the user has, no near-duplicate of the positive.

    Args:
        output: Folder and name of the dataset.
        texts: Training pairs and profiles.
        vectors: Of pairs, of unit length, shape ``(P, W)``.
        items: Of items in the same space, zero without text, shape ``(n, W)``.
        count: Items of a pair.
        provenance: What made the vectors.
    """
    pairs = texts.pairs
    fields = {"item_fields": list(texts.item_fields), "user_fields": list(texts.user_fields)}
    own = np.arange(len(vectors))[:, None]
    given = GroundingInput(pairs.user_ranks, pairs.item_ranks, own, vectors, items)
    found = ground(given, GroundingOptions(ground_items=count))
    table = NegativeTable(
        user_tokens=pairs.users,
        item_tokens=pairs.items,
        names=texts.items,
        pair_users=pairs.user_ranks,
        pair_items=pairs.item_ranks,
        name_rows=found.items[:, :, 0],  # the nearest item's profile stands for a text
        items=found.items,
        similarity=found.similarity,
        pairs_hash=pairs.digest,
        provenance={**fields, **provenance},
    )
    return write_neg_text(*output, table)
