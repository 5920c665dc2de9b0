"""The space of a catalogue's text vectors, so that other texts can be put into it.

Legend: n texts, S width of the encoder, W width of the space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.llm.text_vectors import principal_components

_TINY = 1e-6
_BLOCK = 8192


@dataclass(frozen=True)
class TextSpace:
    """What :func:`~recbole_hnlm.llm.text_vectors.centre_and_normalise` does to a catalogue, kept for other texts.

    Attributes:
        mean: Mean of the catalogue's vectors, shape ``(S,)``.
        basis: Its leading principal components as columns, shape ``(S, W)``; None where the width is kept.
    """

    mean: NDArray[np.float64]
    basis: NDArray[np.float64] | None

    @classmethod
    def of(cls, vectors: NDArray[np.float32], mask: NDArray[np.bool_], width: int = 0) -> TextSpace:
        """The space of a catalogue.

        Args:
            vectors: Raw vectors of the catalogue, shape ``(n, S)``.
            mask: Which of them are there, shape ``(n,)``.
            width: ``W``; 0, or S and more, keeps S.

        Raises:
            ValueError: If no vector is there.
        """
        if not mask.any():
            raise ValueError("no item has a text vector, so there is no space to put other texts into")
        mean = vectors[mask].mean(axis=0, dtype=np.float64)
        reduced = 0 < width < vectors.shape[1]
        return cls(mean, principal_components(vectors, mask, mean, width) if reduced else None)

    @property
    def width(self) -> int:
        """``W``."""
        return len(self.mean) if self.basis is None else int(self.basis.shape[1])

    def project(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Raw vectors, shape ``(n, S)``, centred, reduced and of unit length: shape ``(n, W)``.

        A text that coincides with the catalogue's mean has no direction and becomes zero.
        """
        result = np.zeros((len(vectors), self.width), dtype=np.float32)
        for start in range(0, len(vectors), _BLOCK):
            centred = vectors[start : start + _BLOCK].astype(np.float64) - self.mean
            if self.basis is not None:
                centred = centred @ self.basis
            norms = np.linalg.norm(centred, axis=1)
            there = norms > _TINY
            result[start : start + _BLOCK][there] = (centred[there] / norms[there, None]).astype(np.float32)
        return result
