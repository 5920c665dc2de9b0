"""Text vectors of a catalogue: centred on its mean and of unit length, zero where there is no text.

Legend: n items, S width of the vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.llm.text_space import TextSpace


def centre_and_normalise(vectors: NDArray[np.float32], mask: NDArray[np.bool_], width: int = 0) -> NDArray[np.float32]:
    """``(v - mean) / |v - mean|`` over the rows in ``mask``, zero elsewhere.

    With ``width``, ``v - mean`` is first projected on the ``width`` leading principal components of the rows in
    ``mask``; of all projections to that width this one keeps most of the variance.

    The mean is taken over the rows in ``mask`` alone. A row that coincides with the mean (a
    catalogue with a single text, say) has no direction and becomes zero too.

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
    if not mask.any():
        return np.zeros((len(vectors), min(width or vectors.shape[1], vectors.shape[1])), dtype=np.float32)
    return TextSpace.of(vectors, mask, width).project(vectors, mask)
