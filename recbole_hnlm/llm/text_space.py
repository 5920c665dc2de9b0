"""The space of a catalogue's text vectors, so that other texts can be put into it.

Legend: n texts, S width of the encoder, W width of the space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-6
_BLOCK = 8192
_NO_VARIANCE = 1e-12


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
            ValueError: If no vector is there, or one of them is not finite.
        """
        if not mask.any():
            raise ValueError("no item has a text vector, so there is no space to put other texts into")
        mean = vectors[mask].mean(axis=0, dtype=np.float64)
        if not np.isfinite(mean).all():
            raise ValueError("a text vector is NaN or infinite; check the encoder and its precision")
        reduced = 0 < width < vectors.shape[1]
        return cls(mean, principal_components(vectors, mask, mean, width) if reduced else None)

    @property
    def width(self) -> int:
        """``W``."""
        return len(self.mean) if self.basis is None else int(self.basis.shape[1])

    def project(self, vectors: NDArray[np.floating[Any]], mask: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Raw vectors, shape ``(n, S)``, centred, reduced and of unit length: shape ``(n, W)``.

        A text that coincides with the catalogue's mean has no direction and becomes zero, as do rows outside ``mask``,
        shape ``(n,)``. Rows are worked on in blocks, in double precision.
        """
        result = np.zeros((len(vectors), self.width), dtype=np.float32)
        for start in range(0, len(vectors), _BLOCK):
            centred = vectors[start : start + _BLOCK].astype(np.float64) - self.mean
            if self.basis is not None:
                centred = centred @ self.basis
            norms = np.linalg.norm(centred, axis=1)
            there = norms > _TINY
            if mask is not None:
                there &= mask[start : start + _BLOCK]
            result[start : start + _BLOCK][there] = (centred[there] / norms[there, None]).astype(np.float32)
        return result


def principal_components(
    vectors: NDArray[np.float32], mask: NDArray[np.bool_], mean: NDArray[np.float64], width: int
) -> NDArray[np.float64]:
    """The ``width`` leading principal components of the rows in ``mask``, as columns, shape ``(S, width)``.

    The largest entry of each is positive, so that a build can be repeated. Directions without variance, of which
    there are some where there are fewer texts than ``width``, are zero.
    """
    scatter = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(vectors), _BLOCK):
        there = mask[start : start + _BLOCK]
        centred = vectors[start : start + _BLOCK][there].astype(np.float64) - mean
        scatter += centred.T @ centred
    variances, directions = np.linalg.eigh(scatter)  # ascending
    variances, basis = variances[::-1][:width], directions[:, ::-1][:, :width]
    largest = np.abs(basis).argmax(axis=0)
    basis = basis * np.where(basis[largest, np.arange(width)] < 0, -1.0, 1.0)
    empty = variances <= _NO_VARIANCE * max(float(variances[0]), np.finfo(np.float64).tiny)
    return np.where(empty, 0.0, basis)
