"""Hard-negative vectors of a batch, each distinct one once.

Shapes: ``B`` pairs, ``K`` negatives per pair, ``V`` distinct vectors, ``S`` text width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class PairVectors:
    """Hard-negative vectors of a batch without repetitions.

    Attributes:
        vectors: The distinct vectors, shape ``(V, S)``; zero for pairs without one.
        index: Which of them belongs to each pair, shape ``(B,)``.
        known: Which of them are vectors at all, shape ``(V,)``, bool.
    """

    vectors: Tensor
    index: Tensor
    known: Tensor

    @property
    def present(self) -> Tensor:
        """Which pairs have a vector, shape ``(B,)``, bool."""
        return self.known[self.index]


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``np.unique(rows, axis=0, return_inverse=True)`` of rows ``(B, K)`` from -1 up, by sorting one number a pair."""
    code = rows[:, 0] if rows.shape[1] else np.zeros(len(rows), dtype=np.int64)
    for column in rows.T[1:]:
        code = np.unique(code, return_inverse=True)[1] * (rows.max(initial=-1) + 2) + column + 1
    order = np.argsort(code)
    code = code[order]
    first = np.ones(len(code), dtype=bool)
    np.not_equal(code[1:], code[:-1], out=first[1:])
    index = np.empty(len(code), dtype=np.int64)
    index[order] = np.cumsum(first) - 1
    return rows[order[first]], index
