"""Atomic files read in blocks of whole lines, column by column where their form is plain, else line by line.

Both ways give the same cells: a block that the columnar reader does not take as it stands (a lone carriage return, a
row of another length, bytes that are no UTF-8) is left to the line by line one, which knows what to say of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recbole_hnlm.artefacts.atomic import split_rows
from recbole_hnlm.artefacts.columnar import parse_columns

BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class TextBlock:
    """Whole lines of an atomic file without its header.

    Attributes:
        data: The bytes as they stand in the file.
        first_line: Number of the first of them in the file, from 1.
    """

    data: bytes
    first_line: int

    def columns(self, count: int) -> list[pa.StringArray] | None:
        """The cells, a string array for each of ``count`` columns; None where :meth:`rows` has to be asked."""
        data = self.data.replace(b"\r\n", b"\n") if b"\r" in self.data else self.data
        table = parse_columns(data, [str(place) for place in range(count)])
        return None if table is None else [column.combine_chunks() for column in table.columns]

    def rows(self, count: int) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of each row.

        Raises:
            ValueError: At a row that does not have exactly ``count`` cells, or is no UTF-8.
        """
        lines = self.data.removesuffix(b"\n").split(b"\n")
        return split_rows((line.decode() for line in lines), count, self.first_line)


def text_blocks(path: Path) -> Iterator[TextBlock]:
    """The lines of an atomic file after its header, in blocks of some megabytes."""
    with path.open("rb") as handle:
        handle.readline()
        line, rest = 2, b""
        while data := handle.read(BLOCK_BYTES):
            whole = data.rfind(b"\n") + 1
            if not whole:
                rest += data
                continue
            yield TextBlock(rest + data[:whole], line)
            line += rest.count(b"\n") + data.count(b"\n", 0, whole)
            rest = data[whole:]
        if rest:
            yield TextBlock(rest, line)
