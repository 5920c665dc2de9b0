"""Cells of an atomic file's rows, with the meaning that quotes have to RecBole, which reads with pandas."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

logger = logging.getLogger(__name__)
_BLOCK = 1 << 20


def unquoted(cell: str) -> str:
    """A cell without the quotes that enclose it, as pandas writes and RecBole reads one; any other as it is."""
    inside = cell[1:-1]
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"' or '"' in inside.replace('""', ""):
        return cell
    return inside.replace('""', '"')


def quoted(cell: str) -> str:
    """A cell of a file as :func:`unquoted` and RecBole read it back; quotes inside of a text mean nothing to them."""
    if not cell.startswith('"'):
        return cell
    inside = cell.replace('"', '""')
    return f'"{inside}"'


def iter_cells(path: Path, columns: int, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of each row after the header, read as a stream; a row may have fewer cells than columns.

    Between quotes a cell may hold the separator or a line break. Where quotes cannot be meant so, since they do not
    close or would swallow rows, every line is a row and quotes mean nothing but around a whole cell; a warning tells
    so. Empty lines are passed over, as RecBole does. A file with quotes is read twice.

    Raises:
        ValueError: At a row that has more than ``columns`` cells.
    """
    enclose = len(separator) == 1 and _has_quotes(path)
    if enclose:
        with path.open(encoding=encoding, newline="\n") as handle:
            stray = _stray_quotes(islice(handle, 1, None), columns, separator)
        if stray:
            logger.warning("%s: quotes are read as text, and every line as a row, since %s", path, stray)
            enclose = False
    with path.open(encoding=encoding, newline="\n") as handle:
        lines = islice(handle, 1, None)
        for number, cells in _enclosed_rows(lines, separator) if enclose else _plain_rows(lines, separator):
            if len(cells) > columns:
                raise ValueError(f"line {number} has {len(cells)} columns, expected {columns}")
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield number, cells


def _has_quotes(path: Path) -> bool:
    with path.open("rb") as handle:
        return any(b'"' in block for block in iter(lambda: handle.read(_BLOCK), b""))


def _enclosed_rows(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=separator, strict=True)  # strict, as pandas and thus RecBole
    number = 2
    for cells in reader:
        yield number, cells
        number = reader.line_num + 2


def _plain_rows(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=2):
        cells = line.rstrip("\r\n").split(separator)
        yield number, [unquoted(cell) for cell in cells] if '"' in line else cells


def _stray_quotes(lines: Iterable[str], columns: int, separator: str) -> str:
    """Why quotes in these lines enclose no cells, or nothing where they may.

    A row over several lines, each of which is a row by itself, may be one that a lone quote has made. It is taken for
    that where no row over several lines is of another kind.
    """
    held: list[str] = []  # lines of the row that is being read
    reader = csv.reader(_holding(lines, held), delimiter=separator, strict=True)
    swallowed, several = "", False
    try:
        for _ in reader:
            if len(held) > 1:
                if not all(_is_row(line, columns, separator) for line in held):
                    several = True
                elif not swallowed:
                    swallowed = f"the quote in line {reader.line_num - len(held) + 2} would swallow whole rows"
            held.clear()
    except csv.Error as error:
        return f"those from line {reader.line_num - len(held) + 2} on enclose no cell ({error})"
    return "" if several else swallowed


def _holding(lines: Iterable[str], held: list[str]) -> Iterator[str]:
    for line in lines:
        held.append(line)
        yield line


def _is_row(line: str, columns: int, separator: str) -> bool:
    """Whether a line has all cells of a row; in prose a space follows the separator."""
    return line.count(separator) == columns - 1 and f"{separator} " not in line
