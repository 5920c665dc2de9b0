"""Honesty controls: the same run on text vectors that cannot know anything, because they are others' or noise.

Shapes: ``N`` items or users, ``S`` text width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The step of splitmix64."""


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
        noise = noise_of(rows, self._width, self._seed)
        return (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)


def noise_of(rows: np.ndarray, width: int, seed: int) -> np.ndarray:
    """Standard normal numbers that depend on row, column and seed alone, ``(M,) -> (M, width)``.

    Every cell counts on from its own place in one sequence of splitmix64 and takes two of its numbers, which Box and
    Muller's formula makes one normal one; so any rows come together, and no table is held.
    """
    first = _scrambled(np.array([seed], dtype=np.uint64))
    with np.errstate(over="ignore"):  # it is meant to wrap
        cells = rows.astype(np.uint64)[:, None] * np.uint64(width) + np.arange(width, dtype=np.uint64)
        states = first + np.uint64(2) * cells * _GOLDEN
        one, two = (_scrambled(states + step) >> np.uint64(11) for step in (np.uint64(0), _GOLDEN))
    radius: np.ndarray = np.sqrt(-2 * np.log((one + 1.0) * 2.0**-53))
    return radius * np.cos(2 * np.pi * two * 2.0**-53)


def _scrambled(states: np.ndarray) -> np.ndarray:
    """What splitmix64 gives at these states."""
    with np.errstate(over="ignore"):
        mixed = states + _GOLDEN
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return scrambled
