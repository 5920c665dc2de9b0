"""Rows of a matrix on disk, in memory that does not grow with the matrix.

Legend: n rows asked for, S width of the vectors.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.checks import open_npy
from recbole_hnlm.artefacts.errors import unusable

RESIDENT_BYTES = 1 << 30
"""Matrices up to this size are read through a memory map, larger ones by a system call per row."""


class VectorFile:
    """Reads rows of a checked ``.npy`` matrix of half-precision vectors.

    A page that a memory map has touched counts as memory of the process until the system takes it back, so that after
    an epoch the whole matrix does. Up to ``resident_bytes`` that is the fastest way and bounded. Beyond, each row is
    read by ``pread``, some one to two microseconds a row, and nothing stays but the rows asked for; to unmap pages
    again costs more than that, since every page is then mapped anew at its next row.
    """

    def __init__(self, path: Path, name: str, resident_bytes: int = RESIDENT_BYTES) -> None:
        """Open the matrix at ``path``, which belongs to dataset ``name``."""
        self._path, self._name = path, name
        array = open_npy(path, name)
        self.shape: tuple[int, int] = array.shape
        self._map: NDArray[np.float16] | None = np.asarray(array)
        if array.nbytes > resident_bytes and hasattr(os, "pread"):
            self._map = None
            self._first = path.stat().st_size - array.nbytes
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def mapped(self) -> bool:
        """Whether rows come through a memory map."""
        return self._map is not None

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """The vectors of ``rows``, shape ``(n,)``, as a new array ``(n, S)``.

        Raises:
            IndexError: If a row is -1 (a pair without a vector) or beyond the matrix.
            ArtefactError: If the file became shorter since it was opened.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(
                f"rows {rows.min()} to {rows.max()} expected within 0 to {len(self) - 1}; "
                "leave out pairs without a vector (row -1)"
            )
        if self._map is not None:
            return self._map.take(rows, axis=0)
        size = 2 * self.shape[1]
        pread, descriptor = os.pread, self._descriptor
        data = bytearray().join([pread(descriptor, size, place) for place in (self._first + rows * size).tolist()])
        if len(data) != size * len(rows):
            raise unusable(self._path, "became shorter while it was read", self._name)
        return np.frombuffer(data, dtype=np.float16).reshape(len(rows), self.shape[1])
