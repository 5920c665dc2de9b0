"""What a build is asked for: plain tokens, tables and arrays, checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import AtomicTable
from recbole_hnlm.artefacts.pairs import Tokens
from recbole_hnlm.artefacts.writer import TEXT_ROWS_LIMIT
from recbole_hnlm.llm.negative_stage import Profiles
from recbole_hnlm.options import LLMOptions


@dataclass(frozen=True)
class BuildRequest:
    """Everything a build needs; plain tokens and arrays, no RecBole.

    Attributes:
        dataset: Name of the dataset, which names the files.
        output_dir: Where the artefact goes.
        cache_dir: Where encoded texts are kept between builds.
        user_tokens: User of each training pair, shape ``(P,)``, in training order.
        item_tokens: Item of each training pair, shape ``(P,)``.
        catalogue: All items the dataset knows, shape ``(n,)``.
        hard_negatives: Tokens of the hard negative items of each pair, best first; shape
            ``(P, K)`` or ``(P,)``. ``""`` stands for none.
        item_table: The ``.item`` file, if there is one.
        user_table: The ``.user`` file, if there is one.
        fallback_vectors: The teacher's item embeddings, shape ``(n, D)``, in the order of
            ``catalogue``; taken where the dataset has no text at all.
        teacher: Description of the teacher, for the manifest.
        profiles: What a chat model has written, by rank, in place of templates.
        reviews: Digests of the reviews that a chat model was told, for the manifest.
        options: Options of the offline part.
        device: Torch device of the encoder.
        text_rows_limit: Vectors are written as text too up to so many rows.
        show_progress: Whether to show bars.
    """

    dataset: str
    output_dir: str | Path
    cache_dir: str | Path
    user_tokens: Tokens
    item_tokens: Tokens
    catalogue: Tokens
    hard_negatives: NDArray[Any]
    item_table: AtomicTable | None = None
    user_table: AtomicTable | None = None
    fallback_vectors: NDArray[np.float32] | None = None
    teacher: Mapping[str, Any] = field(default_factory=dict)
    profiles: Profiles | None = None
    reviews: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    options: LLMOptions = field(default_factory=LLMOptions)
    device: str = "cpu"
    text_rows_limit: int = TEXT_ROWS_LIMIT
    show_progress: bool = False

    def __post_init__(self) -> None:
        """Refuse parts that do not line up, before anything is read or encoded."""
        pairs = len(self.user_tokens)
        if not pairs or len(self.item_tokens) != pairs or len(self.hard_negatives) != pairs:
            raise ValueError(
                f"{pairs} users, {len(self.item_tokens)} items and {len(self.hard_negatives)} rows "
                "of hard negatives; expected one of each for every training pair, and at least one"
            )
        if self.fallback_vectors is not None and len(self.fallback_vectors) != len(self.catalogue):
            raise ValueError(
                f"fallback_vectors has {len(self.fallback_vectors)} rows for a catalogue of "
                f"{len(self.catalogue)}; expected one per item"
            )
        if self.options.backend != "template" and self.profiles is None:
            raise ValueError(
                f"llm_backend={self.options.backend!r} asks a chat model; pass the profiles that it has written"
            )
