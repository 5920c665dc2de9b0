"""Vectors out of atomic text, block by block, into a matrix on disk: memory does not grow with their number.

Legend: n rows, S width of the vectors.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recbole_hnlm.artefacts.blocks import TextBlock, text_blocks
from recbole_hnlm.artefacts.float_text import parse_row


class StoredRows:
    """A half-precision matrix in a file, read slice by slice; stands for an array wherever that is done in order."""

    def __init__(self, handle: IO[bytes], shape: tuple[int, int], offset: int = 0) -> None:
        """Take the matrix of ``shape`` that begins at byte ``offset``; ``handle`` stays open as long as this does."""
        self._handle = handle
        self._offset = offset
        self.shape = shape

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float16]:
        """The rows of a slice without a step, as a new array."""
        start, stop, _ = rows.indices(len(self))
        block = np.empty((max(stop - start, 0), self.shape[1]), dtype="<f2")
        self._handle.seek(self._offset + start * 2 * self.shape[1])
        if block.size and self._handle.readinto(block.data.cast("B")) != block.nbytes:  # type: ignore[attr-defined]
            raise OSError(f"{self._handle.name} ends before row {stop}")
        return block


def read_vector_text(path: Path, directory: Path) -> tuple[list[str], StoredRows]:
    """Ids and vectors of a file such as ``NAME.hnlm_emb``.

    Args:
        path: The text.
        directory: Where the matrix is kept, in a file without a name that goes when the matrix does.

    Returns:
        The ids, and the vectors in half precision, shape ``(n, S)``; ``(0, 0)`` for a file without rows.

    Raises:
        ValueError: If a line has another form or width, a number is not finite, or an id occurs twice.
    """
    ids: list[str] = []
    width: int | None = None
    handle = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - belongs to what is returned
    for block in text_blocks(path):
        found = _parse_columns(block, width) or _parse_lines(block, width)
        ids += found[0]
        width = found[1].shape[1]
        handle.write(np.ascontiguousarray(found[1], dtype="<f2").data.cast("B") if found[1].size else b"")
    if pc.count_distinct(pa.array(ids, pa.large_string())).as_py() != len(ids):
        raise ValueError("an id occurs twice")
    return ids, StoredRows(handle, (len(ids), width or 0))


def _parse_columns(block: TextBlock, width: int | None) -> tuple[list[str], NDArray[np.float16]] | None:
    """Ids and vectors of a block at once; None where it has to be looked at line by line."""
    columns = block.columns(2)
    if columns is None:
        return None
    lists = pc.split_pattern(columns[1], " ")
    widths = np.diff(lists.offsets.to_numpy())
    if (widths != (widths[0] if width is None else width)).any():
        return None
    try:
        numbers: NDArray[np.float64] = pc.cast(lists.flatten(), pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    with np.errstate(over="ignore"):
        vectors = numbers.astype(np.float16)
    if not np.isfinite(vectors).all():
        return None
    return columns[0].to_pylist(), vectors.reshape(len(widths), -1)


def _parse_lines(block: TextBlock, width: int | None) -> tuple[list[str], NDArray[np.float16]]:
    ids: list[str] = []
    rows: list[NDArray[Any]] = []
    for number, (token, text) in block.rows(2):
        row = parse_row(text)
        width = len(row) if width is None else width
        if len(row) != width:
            raise ValueError(f"line {number} has {len(row)} numbers, expected {width}")
        if not np.isfinite(row).all():
            raise ValueError(f"line {number} has NaN or infinity in half precision")
        ids.append(token)
        rows.append(row)
    return ids, np.stack(rows)
