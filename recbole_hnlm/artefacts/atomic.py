"""RecBole's atomic files as plain text: tab-separated columns under a ``name:type`` header."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd

from recbole_hnlm.artefacts.cells import iter_cells
from recbole_hnlm.artefacts.columnar import parse_columns
from recbole_hnlm.artefacts.storage import hash_file

FIELD_TYPES = ("token", "token_seq", "float", "float_seq")
_FORBIDDEN = re.compile(r"[\t\n\r]")


@dataclass(frozen=True)
class AtomicTable:
    """A feature file held as text, one row per user or item.

    Attributes:
        types: Field name to RecBole type (``token``, ``token_seq``, ``float``, ``float_seq``), in
            the order of the file.
        frame: One string column per field; an empty cell is ``""``, never NaN.
        key: The field that names the user or item, the first column unless told otherwise.
        sha256: Checksum of the file in hex; empty where the table was not read from one.
    """

    types: dict[str, str]
    frame: pd.DataFrame
    key: str
    sha256: str = ""

    def __post_init__(self) -> None:
        """Refuse a table whose parts do not belong together."""
        if list(self.types) != list(self.frame.columns):
            raise ValueError(f"columns {list(self.frame.columns)} expected {list(self.types)}")
        if self.key not in self.types:
            raise ValueError(f"key field {self.key!r} is not among the fields {list(self.types)}")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.frame)

    def column(self, field: str) -> list[str]:
        """The cells of one field, in the order of the file."""
        cells: list[str] = self.frame[field].tolist()
        return cells


def parse_header(line: str, separator: str = "\t") -> dict[str, str]:
    """Field name to type out of a header line such as ``item_id:token<TAB>title:token_seq``.

    Raises:
        ValueError: If a column has no known type or a name occurs twice.
    """
    types: dict[str, str] = {}
    for column in line.rstrip("\r\n").split(separator):
        name, _, kind = column.rpartition(":")
        if not name or ":" in name or kind not in FIELD_TYPES:
            raise ValueError(
                f"header column {column!r}: expected name:type, {list(FIELD_TYPES)}, parted by the field_separator "
                f"{separator!r}"
            )
        if name in types:
            raise ValueError(f"header column {name!r} occurs twice")
        types[name] = kind
    return types


def read_atomic(
    path: str | Path, *, key: str | None = None, separator: str = "\t", encoding: str = "utf-8"
) -> AtomicTable:
    """Read an atomic file whole, every cell as the text that stands in it.

    Quotes around cells are read as RecBole reads them, other quotes as text (:func:`iter_cells`); rows shorter than
    the header are filled with empty cells, as RecBole does.

    Args:
        path: The file, for instance ``ml-100k.item``.
        key: Field that names the row; the first one by default.
        separator: RecBole's ``field_separator``.
        encoding: RecBole's ``encoding``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the header or a row does not have the form of an atomic file, or it has another encoding.
    """
    path = Path(path)
    types, rows = stream_atomic(path, separator=separator, encoding=encoding)
    frame = _read_columns(path, list(types), separator) if _known(encoding) == "utf-8-sig" else None
    if frame is None:
        filled = [cells + [""] * (len(types) - len(cells)) for _, cells in rows]
        frame = pd.DataFrame(filled, columns=list(types), dtype=str)
    return AtomicTable(types, frame, key or next(iter(types)), hash_file(path))


def stream_atomic(
    path: Path, *, separator: str = "\t", encoding: str = "utf-8"
) -> tuple[dict[str, str], Iterator[tuple[int, list[str]]]]:
    """Types of an atomic file's fields, and first line and cells of each row as a stream (:func:`iter_cells`).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As :func:`read_atomic` does, for rows when they are reached.
    """
    with _named(path, encoding), path.open(encoding=_known(encoding), newline="\n") as handle:
        types = parse_header(handle.readline(), separator)
    return types, _rows(path, len(types), separator, encoding)


def _rows(path: Path, columns: int, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    with _named(path, encoding):
        yield from iter_cells(path, columns, separator, _known(encoding))


def _known(encoding: str) -> str:
    """The encoding to open a file with; a mark of byte order says nothing in UTF-8."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


@contextmanager
def _named(path: Path, encoding: str) -> Iterator[None]:
    """Errors of reading name the file, and the setting where it has another encoding."""
    try:
        yield
    except UnicodeError as error:
        raise ValueError(f"{path} is not in {encoding} ({error}); set RecBole's encoding to the file's") from error
    except ValueError as error:
        raise ValueError(f"{path} is no atomic file ({error}); correct that line") from error


def _read_columns(path: Path, names: list[str], separator: str) -> pd.DataFrame | None:
    """The rows of a file whose lines have all cells and none in quotes; None where there may be others."""
    with path.open("rb") as handle:
        handle.readline()
        data = handle.read()
    if not data or b"\0" in data or data.startswith(b" ") or b"\n " in data or len(separator.encode()) != 1:
        return None  # lines of spaces are no rows
    if b'"' in data and (data.startswith(b'"') or b'\n"' in data or separator.encode() + b'"' in data):
        return None
    table = parse_columns(data, names, separator)
    return None if table is None else table.to_pandas()


def clean_text(text: str) -> str:
    """``text`` on one line: every run of white space becomes one space, ends are stripped."""
    return " ".join(text.split())


def check_tokens(tokens: Iterable[str], what: str) -> None:
    """Refuse tokens that an atomic file cannot hold.

    Raises:
        ValueError: If a token is empty or contains a tab or a line break.
    """
    for token in tokens:
        if not token or _FORBIDDEN.search(token):
            raise ValueError(
                f"{what} {token!r}: expected a token without tab or line break; rename it in the dataset's files"
            )


def header_line(columns: Sequence[tuple[str, str]]) -> str:
    """``[("item_id", "token"), ...]`` as the first line of an atomic file."""
    return "\t".join(f"{name}:{kind}" for name, kind in columns) + "\n"


def iter_rows(path: Path, columns: int, limit: int | None = None) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row after the header, read as a stream.

    Raises:
        ValueError: At a row that does not have exactly ``columns`` cells.
    """
    with path.open(encoding="utf-8", newline="\n") as handle:
        next(handle, None)
        yield from split_rows(islice(handle, limit), columns, 2)


def split_rows(lines: Iterable[str], columns: int, first_line: int) -> Iterator[tuple[int, list[str]]]:
    """Number, from ``first_line`` up, and cells of each of ``lines``.

    Raises:
        ValueError: At a row that does not have exactly ``columns`` cells.
    """
    for number, line in enumerate(lines, start=first_line):
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != columns:
            raise ValueError(f"line {number} has {len(cells)} columns, expected {columns}")
        yield number, cells
