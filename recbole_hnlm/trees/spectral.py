"""Where items lie by who chooses them: leading eigenvectors of the normalised co-occurrence (DTL-NS).

Shapes: ``U`` users, ``I`` items, ``V`` eigenvectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

EIGENVECTORS = 32


def co_occurrence_vectors(
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    shape: tuple[int, int],
    *,
    count: int = EIGENVECTORS,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Unit rows of the leading eigenvectors of ``A.T @ A``, where ``A`` is the user-item matrix divided by the square
    roots of its row and column sums.

    They are the right singular vectors of ``A``, so the item-item matrix is never made.

    Args:
        users: Users of the training pairs, shape ``(E,)``.
        items: Their items, shape ``(E,)``.
        shape: ``(U, I)``.
        count: Eigenvectors, ``V``; fewer where the matrix has fewer.
        seed: Seed of the first vector of the iteration.

    Returns:
        Shape ``(I, V)``; zero rows for items without a pair.
    """
    matrix = sparse.csr_matrix((np.ones(len(users)), (users, items)), shape=shape)
    matrix.data[:] = 1.0  # a pair that comes twice counts once
    by_user, by_item = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
    left, right = (sparse.diags(1 / np.sqrt(np.maximum(sums, 1))) for sums in (by_user, by_item))
    normalised = (left @ matrix @ right).tocsr()
    count = min(count, int(np.count_nonzero(by_user)) - 1, int(np.count_nonzero(by_item)) - 1)
    if count < 1:  # a single user or item
        return (by_item[:, None] > 0).astype(np.float32)
    start = np.random.default_rng(seed).random(min(shape))
    _, _, right_vectors = svds(normalised, k=count, v0=start)
    vectors: NDArray[np.float32] = right_vectors.T.astype(np.float32)
    vectors[by_item == 0] = 0
    return unit(vectors)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length; zero rows stay."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norm, 1e-12), dtype=np.float32)
