"""Text vectors of a catalogue: centred on its mean and of unit length, zero where there is no text.

Legend: n items, S width of the vectors (METHODS section 0).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-6
_BLOCK = 8192
_NO_VARIANCE = 1e-12


def centre_and_normalise(vectors: NDArray[np.float32], mask: NDArray[np.bool_], width: int = 0) -> NDArray[np.float32]:
    """``(v - mean) / |v - mean|`` over the rows in ``mask``, zero elsewhere.

    With ``width``, ``v - mean`` is first projected on the ``width`` leading principal components of the rows in
    ``mask``; of all projections to that width this one keeps most of the variance.

    The mean is taken over the rows in ``mask`` alone. A row that coincides with the mean (a
    catalogue with a single text, say) has no direction and becomes zero too. Rows are worked on in
    blocks, with sums in double precision.

    Args:
        vectors: Raw vectors, shape ``(n, S)``.
        mask: Which rows are there, shape ``(n,)``.
        width: Width of the result; 0, or S and more, keeps S.

    Returns:
        Shape ``(n, width)`` or ``(n, S)``, float32.

    Raises:
        ValueError: If the shapes do not line up or a vector in ``mask`` is not finite.
    """
    if vectors.ndim != 2 or mask.shape != vectors.shape[:1]:
        raise ValueError(f"mask {mask.shape} does not fit vectors {vectors.shape}; expected (n,)")
    reduced = 0 < width < vectors.shape[1]
    result = np.zeros((len(vectors), width if reduced else vectors.shape[1]), dtype=np.float32)
    if not mask.any():
        return result
    mean = vectors[mask].mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise ValueError("a text vector is NaN or infinite; check the encoder and its precision")
    basis = principal_components(vectors, mask, mean, width) if reduced else None
    for start in range(0, len(vectors), _BLOCK):
        there = mask[start : start + _BLOCK]
        centred = vectors[start : start + _BLOCK].astype(np.float64) - mean
        if basis is not None:
            centred = centred @ basis
        norms = np.linalg.norm(centred, axis=1)
        there = there & (norms > _TINY)
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
