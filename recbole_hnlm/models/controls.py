"""Honesty controls: the same run on text vectors that cannot know anything, because they are others' or noise.

Shapes: ``N`` items or users, ``S`` text width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def controlled(vectors: Tensor, mask: Tensor, control: str, generator: torch.Generator) -> Tensor:
    """Text vectors under an honesty control, ``(N, S) -> (N, S)``; only those in ``mask`` take part."""
    if control == "none":
        return vectors
    changed = vectors.clone()
    rows = torch.nonzero(mask).flatten()
    if control == "permuted":
        changed[rows] = vectors[rows[torch.randperm(rows.numel(), generator=generator)]]
    else:
        noise = torch.randn(rows.numel(), vectors.shape[1], generator=generator)
        changed[rows] = functional.normalize(noise, dim=1)
    return changed


class ControlledPairs:
    """Per-pair vectors under a control: rows of the vector matrix are permuted or replaced by noise, on reading."""

    def __init__(self, pairs: Any, rows: int, width: int, control: str, seed: int) -> None:
        self._pairs = pairs
        rng = np.random.default_rng(seed)
        self._order = rng.permutation(rows) if control == "permuted" else None
        self._width, self._seed = width, seed

    def pair_rows(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """As the reader's."""
        rows: np.ndarray = self._pairs.pair_rows(users, items)
        return rows

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of other rows, or noise that is the same for a row every time."""
        if self._order is not None:
            permuted: np.ndarray = self._pairs.read(self._order[rows])
            return permuted
        if not len(rows):
            return np.zeros((0, self._width), dtype=np.float32)
        unique, inverse = np.unique(rows, return_inverse=True)
        noise = np.stack([np.random.default_rng((self._seed, int(row))).standard_normal(self._width) for row in unique])
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        return noise[inverse].astype(np.float32)
