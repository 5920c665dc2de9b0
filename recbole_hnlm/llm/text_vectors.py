"""Text vectors of a catalogue: centred on its mean and of unit length, zero where there is no text.

Legend: n items, S width of the vectors (METHODS section 0).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-6


def centre_and_normalise(vectors: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """``(v - mean) / |v - mean|`` over the rows in ``mask``, zero elsewhere.

    The mean is taken over the rows in ``mask`` alone. A row that coincides with the mean (a
    catalogue with a single text, say) has no direction and becomes zero too. Rows are worked on in
    blocks, with sums in double precision.

    Args:
        vectors: Raw vectors, shape ``(n, S)``.
        mask: Which rows are there, shape ``(n,)``.

    Returns:
        Shape ``(n, S)``, float32.

    Raises:
        ValueError: If the shapes do not line up or a vector in ``mask`` is not finite.
    """
    if vectors.ndim != 2 or mask.shape != vectors.shape[:1]:
        raise ValueError(f"mask {mask.shape} does not fit vectors {vectors.shape}; expected (n,)")
    result = np.zeros(vectors.shape, dtype=np.float32)
    if not mask.any():
        return result
    mean = vectors[mask].mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise ValueError("a text vector is NaN or infinite; check the encoder and its precision")
    for start in range(0, len(vectors), 8192):
        there = mask[start : start + 8192]
        centred = vectors[start : start + 8192].astype(np.float64) - mean
        norms = np.linalg.norm(centred, axis=1)
        there = there & (norms > _TINY)
        result[start : start + 8192][there] = (centred[there] / norms[there, None]).astype(np.float32)
    return result
